"""The teacher's table: speed and quality in one to three stars."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thalweg.errors import UsageError

__all__ = ["Stars", "stars"]


@dataclass(frozen=True)
class Stars:
    """One contestant's stars, 1 to 3; None where it has no result to judge by."""

    speed: int | None
    quality: int | None


def stars(epochs: ArrayLike, finals: ArrayLike, noise: float) -> tuple[Stars, ...]:
    """Stars for convergence speed and for quality, from what was measured.

    Speed, by the epochs to the target as a multiple r of the fastest contestant's:

        three: r <= 1.5      two: r <= 3      one: slower, or never there

    Quality, by how far the final metric is behind the best contestant's (g), beside the median
    such gap (m, the best one's 0 among them) and the seed noise (s):

        three: g <= max(m / 2, s)      two: g <= max(2 m, 3 s)      one: further behind

    So stars are relative to the field, as in the textbook; a gap that one run would not show
    costs none, and one hopeless contestant does not lift the others.

    Args:
        epochs: to the target, one per contestant (median over seeds); inf if not reached, NaN if
            it has no finished run.
        finals: final metric, larger is better (mean over seeds); NaN likewise.
        noise: standard deviation of the final metric over seeds, typical of the field.
    """
    e, f = np.asarray(epochs, dtype=np.float64), np.asarray(finals, dtype=np.float64)
    if e.ndim != 1 or e.shape != f.shape:
        raise UsageError(
            f"epochs and finals must be lists of one length, not {e.shape} and {f.shape}. Give "
            "each contestant one of both."
        )
    if not noise >= 0:
        raise UsageError(f"noise={noise} must be 0 or more. Give a standard deviation over seeds.")
    with np.errstate(invalid="ignore"):
        ratios = e / min(e[~np.isnan(e)], default=np.inf)
        gaps = max(f[~np.isnan(f)], default=np.nan) - f
    ratios[np.isinf(e)] = np.inf
    middle = float(np.median(gaps[~np.isnan(gaps)])) if (~np.isnan(gaps)).any() else 0.0
    bounds = max(middle / 2, noise), max(2 * middle, 3 * noise)
    return tuple(
        Stars(_count(r, 1.5, 3.0), _count(g, *bounds)) for r, g in zip(ratios, gaps, strict=True)
    )


def _count(distance: float, three: float, two: float) -> int | None:
    if np.isnan(distance):
        return None
    return 3 if distance <= three else 2 if distance <= two else 1
