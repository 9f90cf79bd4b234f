"""What a number of trials is worth, against counting every subset and against a known truth."""

from itertools import combinations

import numpy as np
import pytest

from thalweg.errors import UsageError
from thalweg.lab.stats import BudgetCurve, budget, budget_curve, expected_best

RESULTS = [0.3, 0.9, 0.1, 0.9, 0.5, 0.7, 0.2]


def band(curve: BudgetCurve) -> np.ndarray:
    return np.array([curve.low, curve.expected, curve.high])


def test_expected_best_by_hand():
    # Of 1, 2 and 4: alone (1 + 2 + 4) / 3; in pairs 2, 4 and 4; all three 4.
    assert expected_best([4, 1, 2], [1, 2, 3]) == pytest.approx([7 / 3, 10 / 3, 4])


@pytest.mark.parametrize("k", range(1, 8))
def test_expected_best_is_the_mean_over_all_subsets(k: int):
    subsets = [max(s) for s in combinations(RESULTS, k)]
    assert expected_best(RESULTS, k) == pytest.approx([np.mean(subsets)], rel=1e-13)


def test_expected_best_of_many_uniform_values():
    # Of k draws from the grid 1..n without replacement, the best is k (n + 1) / (k + 1) on average.
    n, ks = 1000, [1, 2, 10, 500, 1000]
    exact = [k * (n + 1) / (k + 1) for k in ks]
    assert expected_best(range(1, n + 1), ks) == pytest.approx(exact, rel=1e-10)


def test_expected_best_is_unbiased():
    random = np.random.default_rng(0)
    samples = [expected_best(random.random(6), [2, 5]) for _ in range(4000)]
    # The best of k uniform draws is k / (k + 1) on average; one standard error is 0.002.
    assert np.mean(samples, axis=0) == pytest.approx([2 / 3, 5 / 6], abs=0.008)


@pytest.mark.parametrize("trials", [0, 4, [1, 5]])
def test_no_best_of_more_than_there_are(trials: int | list[int]):
    with pytest.raises(UsageError, match="of 3 values the best of 1 to 3"):
        expected_best([1, 2, 3], trials)


@pytest.mark.parametrize("bad", [[1, np.nan], [np.inf], [[1, 2]]])
def test_results_are_finite(bad: list[float]):
    with pytest.raises(UsageError, match="counts as the worst"):
        budget_curve(0.5, bad)


def test_curve_starts_at_the_defaults():
    curve = budget_curve(0.4, RESULTS)
    assert curve.trials.tolist() == list(range(1, 9))
    assert band(curve)[:, 0].tolist() == [0.4] * 3
    for k in range(1, 8):
        best = [max(0.4, *s) for s in combinations(RESULTS, k)]
        assert curve.expected[k] == pytest.approx(np.mean(best))


def test_curve_of_draws_alone():
    curve = budget_curve(None, RESULTS)
    assert curve.expected == pytest.approx(expected_best(RESULTS, range(1, 8)))
    # What lies below the worst of 7 counts until (3 / 7)^k is 0.05, between 3 and 4.
    assert np.isnan(curve.low).tolist() == [True] * 3 + [False] * 4


def test_defaults_alone_are_a_curve():
    curve = budget_curve(0.4, [])
    assert (curve.trials.tolist(), band(curve).tolist()) == ([1], [[0.4]] * 3)
    with pytest.raises(UsageError, match="at least one result"):
        budget_curve(None, [])


@pytest.mark.parametrize("draws", [[0.1, 0.5, 0.9], [0.5] * 8])
def test_no_interval_of_too_little(draws: list[float]):
    curve = budget_curve(0.4, draws)
    assert np.isnan([curve.low[1:], curve.high[1:]]).all()
    assert np.isfinite(curve.expected).all()


def test_few_draws_alone_have_no_interval():
    shown = [np.isfinite(budget_curve(None, RESULTS[:n]).low).sum() for n in (1, 4, 5, 6)]
    assert shown == [0, 0, 0, 2]


@pytest.mark.parametrize("default", [None, 0.05, 0.4, 0.9, 0.95])
def test_interval_surrounds_the_estimate_and_rises(default: float | None):
    low, expected, high = band(budget_curve(default, RESULTS))
    shown = ~np.isnan(low)
    assert shown[-4:].all()
    assert (low <= expected)[shown].all()
    assert (expected <= high)[shown].all()
    assert (np.diff(np.array([low, high])[:, shown]) >= 0).all()
    if default is not None:
        assert (low >= default).all()


def test_interval_is_not_empty_where_no_draw_beats_the_defaults():
    curve = budget_curve(0.95, RESULTS)
    assert (curve.expected == 0.95).all()
    assert (curve.high[1:] > 0.95).all()


def test_interval_is_wider_at_a_higher_level():
    narrow, wide = (band(budget_curve(0.4, RESULTS, level=v)) for v in (0.5, 0.99))
    assert (wide[0] <= narrow[0]).all()
    assert (wide[2] >= narrow[2]).all()
    assert (wide[2] - wide[0] > narrow[2] - narrow[0])[1:].all()


@pytest.mark.parametrize("default", [None, -1, 2.4, 4.7])
def test_interval_by_integration(monkeypatch: pytest.MonkeyPatch, default: float | None):
    # The same interval without formulas: distribution functions on a grid, and their integrals.
    studies, x = 4000, np.array([0.1, 0.2, 0.3, 0.4, 4.4, 4.5, 4.6])
    random = np.random.default_rng(5)
    parts = random.dirichlet(np.ones(8), studies).cumsum(1)[:, :7]
    # At both ends the spacings are 0.1, which makes 0.1 + 2 * 0.1 for the scale of a tail.
    above, below = 0.3 / random.gamma(2, size=(2, studies))
    start = -2.0 if default is None else default
    grid = np.linspace(start, 9, 1100)
    over, under = grid > x[-1], (grid < x[0]) & (default is None)
    ks = (5, 7) if default is None else (1, 7)
    least, most = np.empty((2, studies, 2))
    for i, u in enumerate(parts):
        f = np.interp(grid, x, u)
        f[under] = u[0] * np.exp((grid[under] - x[0]) / below[i])
        # The lower end has nothing beyond the best one, and the upper end an exponential tail.
        for ends, beyond in ((least, 0), (most, np.exp((x[-1] - grid[over]) / above[i]))):
            f[over] = 1 - (1 - u[-1]) * beyond
            for j, k in enumerate(ks):
                ends[i, j] = start + (1 - f**k).mean() * (9 - start)
    monkeypatch.setattr(budget, "RESAMPLES", 10_000)
    curve = budget_curve(default, x, level=0.6)
    for j, k in enumerate(ks):
        at = k - 8
        exact = np.quantile(least[:, j], 0.26), np.quantile(most[:, j], 0.74)
        assert (curve.low[at], curve.high[at]) == pytest.approx(exact, abs=0.04)


def test_curve_moves_with_the_metric():
    draws = np.array(RESULTS)
    before, after = budget_curve(0.4, draws), budget_curve(3 + 2 * 0.4, 3 + 2 * draws[::-1])
    assert band(after) == pytest.approx(3 + 2 * band(before))


def test_many_trials_have_an_interval_at_each(monkeypatch: pytest.MonkeyPatch):
    draws = np.random.default_rng(0).random(150)
    few = budget_curve(0.5, draws)
    assert np.isfinite(band(few)).all()
    monkeypatch.setattr(budget, "MOST", 1000)
    assert band(few) == pytest.approx(band(budget_curve(0.5, draws)), abs=1e-3)


@pytest.mark.parametrize("default", [0.5, 0.9])
def test_interval_holds_the_truth(monkeypatch: pytest.MonkeyPatch, default: float):
    monkeypatch.setattr(budget, "RESAMPLES", 500)
    random = np.random.default_rng(1)
    n, studies = 16, 300
    ks = np.arange(1, n)
    # The mean of max(d, best of k uniform draws): the integral of 1 - u^k from d to 1, and d.
    truth = (ks + default ** (ks + 1)) / (ks + 1)
    held = np.zeros(n - 1)
    for study in range(studies):
        curve = budget_curve(default, random.random(n - 1), seed=study)
        held += (curve.low[1:] <= truth) & (truth <= curve.high[1:])
    # Of 95.5%, which many studies come to, three standard errors of 300 are 3.6%.
    assert held / studies == pytest.approx(np.full(n - 1, 0.955), abs=0.04)
