"""How much the contestants of a comparison vary from seed to seed, and what chance makes of it."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "Pairs", "chance", "in_pairs"]

Floats = NDArray[np.float64]

FEWEST = 3
RESAMPLES = 4000
# How alike the noise of all contestants may be: the degrees of freedom of the distribution that
# their variances come from, and how likely each is held to be beforehand.
ALIKE = np.array([1.0, 2, 4, 8, 16, 32, 64, 1e6])
BEFOREHAND = np.array([3.0, 3, 2, 2, 1, 1, 0.5, 0.5])


@dataclass(frozen=True)
class Pairs:
    """Each contestant beside each other, on the seeds that both finished; arrays end in (c, c).

    Attributes:
        seeds: how many those are.
        differences: their mean difference, row less column; NaN where they share no seed.
        errors: its standard error; NaN where they share too few seeds.
        own: the noise of each contestant as a variance, (.., c).
    """

    seeds: NDArray[np.int64]
    differences: Floats
    errors: Floats
    own: Floats


def in_pairs(values: Floats, there: NDArray[np.bool_]) -> Pairs:
    """What each pair shows.

    Of few seeds, the variance of one pair's differences is little worth by itself. So the
    squared error is of three parts: 30% of that variance, 35% of the sum of what the two have as
    noise of their own in view of all their pairs (a least-squares fit of variances of pairs as
    sums of two), and 35% of the mean variance of all pairs.

    Args:
        values: contestants x seeds, which may be many such tables at once, (.., c, s).
        there: where the run finished, (c, s).
    """
    w: Floats = np.where(there, 1.0, 0.0)
    seeds: Floats = w @ _turned(w)
    enough: Floats = np.where((seeds >= FEWEST) & ~np.eye(len(w), dtype=bool), seeds - 1, 0)
    values = np.where(there, values, 0.0)
    means = values.sum(-1, keepdims=True) / np.maximum(w.sum(-1, keepdims=True), 1)
    x = (values - means) * w
    # What a seed does to all is in no difference; left in, it would cost digits.
    x = (x - x.sum(-2, keepdims=True) / np.maximum(w.sum(0), 1)) * w
    sums: Floats = x @ _turned(w)
    squares: Floats = (x**2) @ _turned(w)
    n = np.where(seeds > 0, seeds, np.nan)
    shifts = (sums - _turned(sums)) / n
    spread: Floats = squares + _turned(squares) - 2 * (x @ _turned(x)) - n * shifts**2
    # Differences that are equal but for rounding have no variance.
    rounding = n * (1e-12 * np.abs(values).max(initial=0)) ** 2
    variances = np.where((enough > 0) & (spread > rounding), spread / np.maximum(n - 1, 1), 0.0)
    weighed = enough * variances
    fit = cast(Floats, np.linalg.pinv(np.eye(len(w)) * enough.sum(1) + enough))
    own = weighed.sum(-1) @ fit
    positive = np.maximum(own, 0)
    common = weighed.sum((-1, -2), keepdims=True) / max(enough.sum(), 1)
    mixed = 0.3 * variances + 0.35 * (positive[..., :, None] + positive[..., None, :] + common)
    return Pairs(
        seeds=np.asarray(seeds, dtype=np.int64),
        differences=shifts + means - _turned(means),
        errors=np.sqrt(np.where(enough > 0, mixed, np.nan) / n),
        # Where the fit comes to less than nothing, a hundredth of what is usual.
        own=np.maximum(own, 0.005 * common[..., 0]),
    )


def chance(pairs: Pairs, there: NDArray[np.bool_], seed: int) -> Floats:
    """How many standard errors all pairs are apart in comparisons where all are equal.

    Each is as noisy as it may be in view of the data: its variance is drawn from what is known
    of it by its own runs and by those of the others (an inverse gamma distribution about a
    common one, as in Smyth 2004, whose degrees of freedom are themselves uncertain).

    Returns:
        4,000 tables of absolute values, (4000, c, c); NaN where there is no error.
    """
    random = np.random.default_rng(seed)
    known: Floats = np.maximum(there.sum(1) - 1.0, 0)
    judged = np.isfinite(pairs.errors).any(1)
    likely, scales = _alike(pairs.own[judged], known[judged])
    drawn = random.choice(len(ALIKE), RESAMPLES, p=likely)
    alike, scale = ALIKE[drawn, None], scales[drawn, None]
    noise: Floats = (alike * scale + known * pairs.own) / (
        2 * random.standard_gamma((alike + known) / 2)
    )
    values = random.standard_normal((RESAMPLES, *there.shape)) * np.sqrt(noise)[:, :, None]
    null = in_pairs(values, there)
    return np.abs(null.differences) / null.errors


def _alike(own: Floats, known: Floats) -> tuple[Floats, Floats]:
    """How likely each of `ALIKE` is in view of variances, and the common scale if it were so."""
    from scipy.special import gammaln  # pyright: ignore

    f, v, d = ALIKE[:, None], own, known
    scale = np.full((len(ALIKE), 1), v.mean())
    for _ in range(12):
        scale = 1 / ((d + f) / (d * v + f * scale)).mean(axis=1, keepdims=True)
    # The density of v / scale is that of F with d and f degrees of freedom.
    x = d * v / (f * scale)
    logs = d / 2 * np.log(x) - (d + f) / 2 * np.log1p(x)
    logs = (logs + gammaln((d + f) / 2) - gammaln(f / 2)).sum(1) + np.log(BEFOREHAND)
    likely = np.exp(logs - logs.max())
    return likely / likely.sum(), scale[:, 0]


def _turned(x: Floats) -> Floats:
    return np.swapaxes(x, -1, -2)
