"""Sensitivity, speed and stars, worked by hand."""

import numpy as np
import pytest

from thalweg.errors import UsageError
from thalweg.lab.stats import Stars, learning_rate_width, median_time, performance_profile, stars

INF, NAN = np.inf, np.nan


def test_width_of_learning_rates():
    lrs, values = [1e-1, 1e-4, 1e-2, 1e-3, 1.0], [0.894, 0.3, 0.7, 0.9, 0.1]
    width = learning_rate_width(lrs, values)
    # 0.894 is within 1% of 0.9, that is 0.891, and 0.7 between them does not matter.
    assert width.decades == pytest.approx(2)
    assert (width.low, width.high, width.near, width.tried) == (1e-3, 1e-1, 2, 5)
    assert (width.open_low, width.open_high) == (False, False)
    assert learning_rate_width(lrs, values, within=0.005).decades == 0
    wide = learning_rate_width(lrs, values, within=1)
    assert (wide.decades, wide.open_low, wide.open_high) == (pytest.approx(4), True, True)


def test_width_of_losses():
    # Losses come with their sign turned: within 10% of the best is down to -1.1.
    width = learning_rate_width([1e-3, 1e-2, 1e-1], [-1.2, -1.0, -1.1], within=0.1)
    assert (width.low, width.high) == (1e-2, 1e-1)


@pytest.mark.parametrize(
    ("lrs", "values", "said"),
    [
        ([1.0], [1.0, 2.0], "one length"),
        ([], [], "one length"),
        ([0.0], [1.0], "above 0"),
        ([1.0], [NAN], "finite"),
    ],
)
def test_width_wants_numbers(lrs: list[float], values: list[float], said: str):
    with pytest.raises(UsageError, match=said):
        learning_rate_width(lrs, values)


@pytest.mark.parametrize(
    ("times", "median", "reached"),
    [
        ([3, 1, 2], 2, 3),
        ([3, INF, 2], 3, 2),
        ([3, 2, INF, INF], INF, 2),
        ([INF, INF], INF, 0),
        ([4, 1, 2, INF], 3, 3),
        ([], NAN, 0),
    ],
)
def test_median_time(times: list[float], median: float, reached: int):
    found = median_time(times)
    assert found.median == pytest.approx(median, nan_ok=True)
    assert (found.reached, found.runs) == (reached, len(times))


def test_performance_profile():
    profile = performance_profile([[1, 2, INF], [6, 3, 3], [INF, INF, INF], [8, INF, 2]])
    assert profile.ratios.tolist() == [[1, 2, INF], [2, 1, 1], [INF] * 3, [4, INF, 1]]
    assert profile.factors.tolist() == [1, 2, 4]
    assert profile.shares.tolist() == [[0.25, 0.5, 0.75], [0.25, 0.5, 0.5], [0.5, 0.5, 0.5]]


def test_performance_profile_has_no_unit():
    times = np.random.default_rng(0).random((6, 4))
    before, after = (performance_profile(times * f) for f in (1, np.arange(1, 7)[:, None]))
    assert after.shares == pytest.approx(before.shares)


@pytest.mark.parametrize("bad", [[1, 2], [[1, NAN]], [[0, 1]], [[-1, 1]]])
def test_performance_profile_wants_times(bad: list):
    with pytest.raises(UsageError, match="times"):
        performance_profile(bad)


def test_stars_for_speed():
    epochs = [10, 15, 15.1, 30, 31, INF, NAN]
    found = stars(epochs, [0.5] * 6 + [NAN], noise=0.1)
    assert [s.speed for s in found] == [3, 3, 2, 2, 1, 1, None]
    assert [s.quality for s in found] == [3] * 6 + [None]
    assert [s.speed for s in stars([INF, INF], [1, 1], 0)] == [1, 1]


def test_stars_for_quality():
    # Gaps are 0, 1, 2, 4 and 9: the median 2, so three stars up to 1 and two up to 4.
    finals = [10, 9, 8, 6, 1]
    assert [s.quality for s in stars([1] * 5, finals, noise=0)] == [3, 3, 2, 2, 1]
    # Noise of 2: three stars up to 2 and two up to 6. Of 4: up to 4 and 12.
    assert [s.quality for s in stars([1] * 5, finals, noise=2)] == [3, 3, 3, 2, 1]
    assert [s.quality for s in stars([1] * 5, finals, noise=4)] == [3, 3, 3, 3, 2]


def test_a_hopeless_contestant_lifts_nobody():
    finals = [10, 9, 8, 6, 1]
    assert stars([1] * 5, [*finals[:4], -1e9], 0) == stars([1] * 5, finals, 0)


def test_stars_have_no_unit():
    epochs, finals = [3, 4, 8, 20], np.array([0.9, 0.89, 0.7, 0.85])
    assert stars(epochs, finals, 0.01) == stars([2 * e for e in epochs], 5 * finals - 1, 0.05)


def test_stars_of_none_and_of_nothing():
    assert stars([], [], 0.1) == ()
    assert stars([NAN], [NAN], 0.1) == (Stars(None, None),)
    with pytest.raises(UsageError, match="one length"):
        stars([1], [1, 2], 0.1)
    with pytest.raises(UsageError, match="noise"):
        stars([1], [1], -1)
