"""What a number of trials is worth: the best result to expect of so many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.errors import UsageError

__all__ = ["BudgetCurve", "budget_curve", "expected_best"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RESAMPLES = 2000
# The scale of what lies above the best result comes of the three best, so one more is needed.
FEWEST = 4
# The two ends think differently of what lies above the best result, so together they would hold
# the truth too often. By this much they may miss it more often: `benchmarks/coverage.py`.
LENIENT = 1.3
# From this many on, intervals are computed at some numbers of trials and drawn between them.
MOST = 100


@dataclass(frozen=True)
class BudgetCurve:
    """The best result to expect at each number of trials; arrays of one length.

    Attributes:
        trials: 1, 2, .., as many as there are results.
        expected: the estimate of the expected best of so many trials.
        low: lower end of its interval, for each number of trials by itself; NaN where none is
            to be had.
        high: upper end, likewise.
    """

    trials: Integers
    expected: Floats
    low: Floats
    high: Floats


def expected_best(values: ArrayLike, trials: int | Sequence[int]) -> Floats:
    """The expected best (largest) of k of the values, drawn without replacement, for each k.

    It is the mean of the best over all subsets of k of the n values, and so an unbiased estimate
    of the expected best of k fresh draws (a U-statistic):

        sum over i of x_(i) C(i - 1, k - 1) / C(n, k), with x_(1) <= .. <= x_(n)

    Dodge et al. 2019 (arXiv:1909.03004) have it with replacement, which is biased downwards; this
    form is that of Tang et al. 2020 (ACL, "Showing Your Work Doesn't Always Work").

    Args:
        values: n results, finite.
        trials: each k, from 1 to n.

    Returns:
        As many numbers as there are in `trials`.

    Raises:
        UsageError: if a value is not finite or a k not in 1..n.
    """
    x = _finite("values", values)
    ks = np.atleast_1d(np.asarray(trials, dtype=np.int64))
    if not x.size or ks.min(initial=1) < 1 or ks.max(initial=1) > x.size:
        raise UsageError(
            f"trials={ks.tolist()}, but of {x.size} values the best of 1 to {x.size} is known. "
            "Ask for these, or bring more values."
        )
    return _expected(np.sort(x), ks)


def budget_curve(
    default: float | None, draws: ArrayLike, level: float = 0.95, seed: int = 0
) -> BudgetCurve:
    """The best result to expect of the defaults and k - 1 draws from the search space, for each k.

    The estimate is `expected_best`, with each draw replaced by the default where that is better.
    The interval is that of a smoothed Bayesian bootstrap (Rubin 1981; Banks 1988). The m draws
    cut the results there could be into m + 1 parts, whose probabilities have one and the same
    joint distribution whatever the shape of the results. They are drawn 2,000 times, and each
    time the expected best is computed, with the probability spread evenly between two results.

    Where k is near n, all depends on what lies above the best result, which the ordinary
    bootstrap never sees (Lourie, Cho & He 2024, arXiv:2311.09480). Here the upper end takes it
    to fall off exponentially, on a scale drawn by the distances of the best results, and the
    lower end to be nothing. docs/statistics.md has the measured coverage.

    There is no interval for fewer than four draws, nor if all are equal, nor, without a default,
    where what lies below the worst result still counts: for (3 / m)^k > 0.05.

    Args:
        default: the result at the documented defaults, which are always the first trial; None
            where every trial is a draw.
        draws: the results of the draws, finite; of a diverged one, whatever counts as the worst.
        level: how often an interval should hold the truth, which is the mean over fresh draws
            from the same space with this default.
        seed: of the resampling.

    Raises:
        UsageError: if a result is not finite, or there is none.
    """
    x = np.sort(_finite("draws", draws))
    floor = -np.inf if default is None else float(_finite("default", [default])[0])
    first = [] if default is None else [floor]
    if not x.size and default is None:
        raise UsageError("draws is empty and there is no default. Give at least one result.")
    ks = np.arange(1, x.size + 1)
    expected = _expected(np.maximum(x, floor), ks)
    low, high = np.full((2, x.size), np.nan)
    shown = ks if default is not None else ks[(3 / max(x.size, 1)) ** ks <= 0.05]
    if shown.size and x.size >= FEWEST and x[0] < x[-1]:
        spread = np.linspace(0, 1, MOST)
        at = np.unique(np.array(shown[0] * (x.size / shown[0]) ** spread + 0.5, dtype=np.int64))
        if shown.size <= MOST:
            at = shown
        ends = _interval(x, floor, at, level, seed)
        for side, end in zip((low, high), ends, strict=True):
            side[shown - 1] = np.interp(shown, at, end)
    return BudgetCurve(
        np.arange(1, x.size + len(first) + 1),
        np.concatenate([first, expected]),
        np.concatenate([first, low]),
        np.concatenate([first, high]),
    )


def _interval(
    x: Floats, floor: float, ks: Integers, level: float, seed: int
) -> tuple[Floats, Floats]:
    """The interval for the best of k draws and `floor`, of which the sorted `x` were seen."""
    miss = min(LENIENT * (1 - level), 1) / 2
    random = np.random.default_rng(seed)
    parts = np.cumsum(random.standard_exponential((RESAMPLES, x.size + 1)), axis=1)
    under = parts[:, :-1] / parts[:, -1:]
    reach = _scale(x[::-1], random)
    over = (1 - under[:, -1]) * np.exp(-max(floor - x[-1], 0) / reach)
    first = under[:, 0]
    if floor == -np.inf:
        # The mean of what lies below the worst, if that falls off exponentially too.
        sink, of = _scale(x, random), ks
    else:
        sink, of = max(x[0] - floor, 0), np.ones_like(ks)
    top = max(floor, x[-1])
    x, under = _from(floor, x, under)
    gaps = np.diff(under)
    # The mean of u^k between two knots is the slope there of u^(k + 1) / (k + 1).
    slopes = np.divide(np.diff(x), gaps, out=np.zeros_like(gaps), where=gaps > 0)
    power, more, steps = under, np.zeros(RESAMPLES), 0
    least, most = np.empty((2, RESAMPLES, len(ks)))
    for i, k in enumerate(ks):
        power = power * under ** (k - steps)
        while steps < k:
            # The largest of j exponential variables has the mean 1 + 1/2 + .. + 1/j.
            steps += 1
            more += (1 - (1 - over) ** steps) / steps
        area = (slopes * np.diff(power)).sum(1) / (k + 1)
        least[:, i] = top - area - sink * first**k / of[i]
        most[:, i] = least[:, i] + reach * more
    return np.quantile(least, miss, axis=0), np.quantile(most, 1 - miss, axis=0)


def _from(floor: float, x: Floats, under: Floats) -> tuple[Floats, Floats]:
    """What the distribution is above `floor`: its knots and the probability below each."""
    at = int(np.searchsorted(x, floor))
    if at == 0:
        return x, under
    if at == x.size:
        return x[-1:], under[:, -1:]
    share = (floor - x[at - 1]) / (x[at] - x[at - 1])
    start = under[:, at - 1] + share * (under[:, at] - under[:, at - 1])
    return np.append(floor, x[at:]), np.column_stack([start, under[:, at:]])


def _scale(x: Floats, random: np.random.Generator) -> Floats:
    """How fast the distribution falls off before x[0], drawn by what the first spacings tell.

    The i-th spacing of an exponential tail, times i, is exponential with the tail's scale
    (Renyi 1953). Two are used, and more only where equal results leave these at 0.
    """
    spacings = np.abs(np.diff(x))
    r = max(2, int(np.argmax(spacings > 0)) + 1)
    return (spacings[:r] * np.arange(1, r + 1)).sum() / random.standard_gamma(r, RESAMPLES)


def _expected(x: Floats, ks: Integers) -> Floats:
    """See `expected_best`; `x` is sorted."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, x.size + 1)))])
    i = np.arange(x.size)
    best = np.empty(len(ks))
    for at, k in enumerate(ks):
        others = i[k - 1 :]
        share = np.exp(
            logs[others] - logs[others - k + 1] - logs[k - 1]
            - (logs[x.size] - logs[k] - logs[x.size - k])
        )  # fmt: skip
        # The shares add up to 1 but for rounding, which at a large mean would show.
        best[at] = x[-1] - share @ (x[-1] - x[k - 1 :])
    return best


def _finite(name: str, values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise UsageError(
            f"{name} must be a list of finite numbers, not {values!r}. Give a trial that "
            "diverged the value that counts as the worst."
        )
    return x
