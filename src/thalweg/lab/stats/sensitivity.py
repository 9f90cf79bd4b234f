"""How much a result depends on the learning rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thalweg.errors import UsageError

__all__ = ["Width", "learning_rate_width"]


@dataclass(frozen=True)
class Width:
    """The learning rates whose results are near the best one.

    Attributes:
        decades: log10(high / low); 0 if only one is near.
        low: the lowest such learning rate.
        high: the highest.
        near: how many trials are near the best, itself among them.
        tried: how many there are.
        open_low: whether `low` is the lowest learning rate tried, so that the range may go on.
        open_high: likewise at the top.
    """

    decades: float
    low: float
    high: float
    near: int
    tried: int
    open_low: bool
    open_high: bool


def learning_rate_width(lrs: ArrayLike, values: ArrayLike, within: float = 0.01) -> Width:
    """How wide, in decades, the learning rates lie whose result is within 1% of the best.

    From the lowest to the highest learning rate among the trials with

        value >= best - within |best|

    A trial between them may be worse, since other settings were drawn too. With n trials over w
    decades this is known to about w / n: compare optimizers at the same number of trials.

    Args:
        lrs: the learning rate of each trial, above 0.
        values: its result, finite; of a diverged one, whatever counts as the worst.
        within: how near counts as near, as a share of the best.
    """
    x, y = np.asarray(lrs, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise UsageError(
            f"lrs and values must be lists of one length, not {x.shape} and {y.shape}. Give each "
            "trial one of both."
        )
    if not (x > 0).all() or not np.isfinite(x).all():
        raise UsageError(f"lrs={x.tolist()} must be finite and above 0. Leave other trials out.")
    if not np.isfinite(y).all():
        raise UsageError(
            f"values={y.tolist()} must be finite. Give a trial that diverged the value that "
            "counts as the worst."
        )
    best = y.max()
    near = x[y >= best - within * abs(best)]
    low, high = float(near.min()), float(near.max())
    return Width(
        decades=float(np.log10(high / low)),
        low=low,
        high=high,
        near=near.size,
        tried=x.size,
        open_low=bool(low == x.min()),
        open_high=bool(high == x.max()),
    )
