"""Many contestants on the same seeds: who leads, and who cannot be told apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.errors import UsageError
from thalweg.lab.stats.noise import FEWEST, Pairs, chance, in_pairs
from thalweg.lab.stats.pairs import STRICTER

__all__ = ["Contest", "compare"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contest:
    """The final table; contestants are told by their row, c of them.

    Attributes:
        order: those with a finished run, by their mean, the best first.
        finished: how many runs of each finished, (c,).
        means: over the finished runs, (c,); NaN without any.
        spreads: their standard deviation, (c,); NaN for fewer than two.
        differences: mean of row less column over the seeds that both finished, (c, c); NaN
            without any.
        low: lower ends of the intervals of `differences`, which hold all true differences at
            once with probability `level`, whichever of them one picks out, (c, c); NaN where
            fewer than three seeds are shared.
        high: upper ends, likewise.
        p: the level at which each pair would just be told apart, all pairs accounted for,
            (c, c); NaN where that cannot be judged.
        differs: whether the two are told apart, (c, c).
        groups: every largest set of which no two are told apart, each the best first, in the
            order of their best; of those contestants alone that are judged beside another.
        level: of the intervals; 1 - the share of studies that may call any true tie a difference.
        why: what could not be judged and why, in a sentence; empty where all could.
    """

    order: tuple[int, ...]
    finished: NDArray[np.int64]
    means: Floats
    spreads: Floats
    differences: Floats
    low: Floats
    high: Floats
    p: Floats
    differs: NDArray[np.bool_]
    groups: tuple[tuple[int, ...], ...]
    level: float
    why: str

    @property
    def leader(self) -> int | None:
        """The contestant with the best mean."""
        return self.order[0] if self.order else None

    @property
    def ties(self) -> tuple[int, ...]:
        """The leader and those judged beside it and not told apart from it, by their mean."""
        return tuple(
            i for i in self.order if i == self.leader or self.p[self.leader, i] > 1 - self.level
        )


def compare(values: ArrayLike, level: float = 0.95, seed: int = 0) -> Contest:
    """Compare all contestants with one another, paired by seed.

    Differences are judged in standard errors to which the noise of all contestants lends, since
    that of one pair is badly known (see `noise.in_pairs`). How many are too many for chance is
    found by simulating the comparison 4,000 times with all equal and each as noisy as it may be.
    The largest of all pairs counts: so the leader may be chosen by the same data.

    The p-values are those of the step-down procedure (Westfall & Young 1993, algorithm 4.1), by
    4/3 larger, since the noise in the simulation is itself an estimate. So verdict and interval
    may disagree on a pair whose interval ends near 0: the verdict counts. Of two contestants
    there is nothing to simulate, and both are those of the paired t test.

    The model: value = contestant + seed + noise that is normal, and larger for some than for
    others. docs/statistics.md has what was measured of it, and where it is not so.

    Args:
        values: results, contestants x seeds; NaN where a run did not finish.
        level: see `Contest`.
        seed: of the simulation.

    Raises:
        UsageError: if `values` are not a table of finite numbers and NaN.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 2 or np.isinf(y).any():
        raise UsageError(
            f"values must be contestants x seeds and finite or NaN, not {values!r}. Put NaN where "
            "a run did not finish."
        )
    there = ~np.isnan(y)
    finished = there.sum(1)
    means, spreads = np.full((2, len(y)), np.nan)
    for i in np.flatnonzero(finished):
        means[i] = y[i, there[i]].mean()
        spreads[i] = y[i, there[i]].std(ddof=1) if finished[i] > 1 else np.nan
    order = tuple(sorted(np.flatnonzero(finished).tolist(), key=lambda i: -means[i]))
    pairs = in_pairs(y, there)
    critical, p = _judged(pairs, there, level, seed)
    margins = critical * pairs.errors
    differs = p <= 1 - level
    return Contest(
        order=order,
        finished=finished,
        means=means,
        spreads=spreads,
        differences=pairs.differences,
        low=pairs.differences - margins,
        high=pairs.differences + margins,
        p=p,
        differs=differs,
        groups=_groups([i for i in order if not np.isnan(p[i]).all()], differs),
        level=level,
        why=_why(order, pairs),
    )


def _judged(
    pairs: Pairs, there: NDArray[np.bool_], level: float, seed: int
) -> tuple[float, Floats]:
    """How many standard errors the intervals reach, and the p-value of every pair."""
    p = np.full_like(pairs.errors, np.nan)
    rows, columns = np.nonzero(np.triu(pairs.errors > 0))
    if not rows.size:
        return np.nan, p
    apart = np.abs(pairs.differences / pairs.errors)[rows, columns]
    if rows.size == 1:
        from scipy.special import stdtr, stdtrit  # pyright: ignore

        known = int(pairs.seeds[rows[0], columns[0]]) - 1
        critical, ranked = float(stdtrit(known, (1 + level) / 2)), 2 * stdtr(known, -apart)
        at = np.array([0])
    else:
        at = np.argsort(-apart)
        null = chance(pairs, there, seed)[:, rows[at], columns[at]]
        most = np.maximum.accumulate(null[:, ::-1], axis=1)[:, ::-1]
        critical = float(np.quantile(most[:, 0], level, method="higher"))
        reached = (most >= apart[at]).sum(0)
        ranked = np.maximum.accumulate((1 + reached) / (1 + len(most)))
        ranked = np.minimum(STRICTER * ranked, 1)
    p[rows[at], columns[at]] = p[columns[at], rows[at]] = ranked
    return critical, p


def _why(order: Sequence[int], pairs: Pairs) -> str:
    shared = pairs.seeds[np.ix_(order, order)]
    if len(order) > 1 and (shared < FEWEST).any():
        return (
            f"pairs with fewer than {FEWEST} finished seeds in common cannot be judged: chance "
            "is not known"
        )
    if len(order) > 1 and not (pairs.errors > 0).any():
        return "all seeds gave the same differences, so chance cannot be judged"
    return ""


def _groups(order: Sequence[int], differs: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    """Every largest set of which no two differ (Bron & Kerbosch 1973, with pivots)."""
    rank = {i: r for r, i in enumerate(order)}
    tied = {i: {k for k in order if k != i and not differs[i, k]} for i in order}
    found: list[tuple[int, ...]] = []

    def grow(chosen: list[int], more: set[int], done: set[int]) -> None:
        if not more and not done:
            found.append(tuple(sorted(chosen, key=rank.__getitem__)))
            return
        pivot = max(more | done, key=lambda i: len(tied[i] & more))
        for i in more - tied[pivot]:
            grow([*chosen, i], more & tied[i], done & tied[i])
            more, done = more - {i}, done | {i}

    if order:
        grow([], set(order), set())
    return tuple(sorted(found, key=lambda group: [rank[i] for i in group]))
