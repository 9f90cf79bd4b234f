"""Paired differences and how many seeds they need."""

import numpy as np
import pytest
from scipy import stats

from thalweg.errors import UsageError
from thalweg.lab.stats import paired, seeds_needed


def test_interval_by_hand():
    # Mean 2 and standard deviation 1 of three: 2 -+ 4.3027 / sqrt(3).
    d = paired([1, 2, 3])
    assert (d.mean, d.seeds, d.why) == (2, 3, "")
    assert (d.low, d.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_interval_is_the_t_test_turned_round(level: float):
    differences = [0.3, -0.1, 0.4, 0.2, 0.9]
    d = paired(differences, level)
    p = stats.ttest_1samp(differences, d.low).pvalue
    assert p == pytest.approx(1 - level)


def test_seeds_that_did_not_finish_are_left_out():
    assert paired([1, np.nan, 2, 3]) == paired([1, 2, 3])


@pytest.mark.parametrize(("n", "said"), [(0, "no seed"), (1, "one seed"), (2, "two seeds")])
def test_too_few_seeds_have_no_interval_and_say_why(n: int, said: str):
    d = paired([1.0, 2.0][:n])
    assert (d.low, d.high, d.seeds) == (None, None, n)
    assert said in d.why
    assert "three are needed" in d.why
    assert np.isnan(d.mean) == (n == 0)


def test_seeds_needed_by_the_t_test():
    # The power of the paired t test, from the non-central t distribution, brackets 80%.
    differences = [0.5, -0.5, 0.1, -0.1, 0.3]
    effect = 0.2 / np.std(differences, ddof=1)
    n = seeds_needed(differences, 0.2) + 5

    def power(n: int) -> float:
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * n**0.5)

    assert power(n - 2) < 0.8 < power(n + 1)


def test_more_contestants_and_smaller_differences_need_more_seeds():
    d = [0.5, -0.5, 0.1, -0.1, 0.3]
    needed = [seeds_needed(d, 0.3, c) for c in (2, 5, 20)]
    assert needed == sorted(set(needed))
    # For many seeds t is normal: of 10 pairs, each at 5% / 10 / (4 / 3).
    reach = stats.norm.ppf(1 - 0.05 / 20 * 0.75) + stats.norm.ppf(0.8)
    exact = (reach * np.std(d, ddof=1) / 0.03) ** 2
    assert seeds_needed(d, 0.03, 5) + 5 == pytest.approx(exact, rel=0.005)
    # A quarter of the difference needs 16 times as many.
    few, many = (seeds_needed(d, v, 5) + 5 for v in (0.1, 0.025))
    assert many / few == pytest.approx(16, rel=0.03)


def test_seeds_needed_has_limits():
    d = [0.5, -0.5, 0.1]
    assert seeds_needed(d, 100) == 0
    assert seeds_needed(d, 1e-6) is None
    assert seeds_needed([1.0], 0.1) is None
    assert seeds_needed([1.0, 1.0], 0.1) is None


@pytest.mark.parametrize("smallest", [0, -1, np.nan])
def test_a_difference_has_a_size(smallest: float):
    with pytest.raises(UsageError, match="smallest"):
        seeds_needed([1, 2, 3], smallest)
