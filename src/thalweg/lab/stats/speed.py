"""How soon a target is reached, where some runs never reach it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.errors import UsageError

__all__ = ["MedianTime", "Profile", "median_time", "performance_profile"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MedianTime:
    """The time to a target over several runs.

    Attributes:
        median: by when half of the runs had reached it; inf if fewer did, NaN without a run.
        reached: how many did.
        runs: how many there are.
    """

    median: float
    reached: int
    runs: int


def median_time(times: ArrayLike) -> MedianTime:
    """The median time to a target, with inf for the runs that did not reach it.

    A run that ended without reaching the target would have taken longer than all that did, so it
    counts as infinite and the median is right as long as more than half did reach it. A mean of
    those that did would favour who reached it only when lucky.

    Args:
        times: one per run, in any unit, above or equal 0 or inf.
    """
    t = _times(times, 1)
    reached = int(np.isfinite(t).sum())
    return MedianTime(float(np.median(t)) if t.size else float("nan"), reached, t.size)


@dataclass(frozen=True)
class Profile:
    """Performance profiles of c contestants on several tasks.

    Attributes:
        ratios: time over the shortest time on the task, tasks x contestants; inf where the
            target was not reached.
        factors: every finite ratio once, ascending: where the profiles step, (f,).
        shares: share of all tasks on which a contestant's ratio is at most that factor, (c, f).
    """

    ratios: Floats
    factors: Floats
    shares: Floats


def performance_profile(times: ArrayLike) -> Profile:
    """On what share of the tasks each contestant is within a factor of the fastest.

    Dolan & More 2002, "Benchmarking optimization software with performance profiles", eq. 1 and
    2. A task whose target nobody reached counts against all, so that the last share is that of
    the tasks a contestant solved at all.

    Args:
        times: to the target, tasks x contestants, above 0; inf where it was not reached.
    """
    t = _times(times, 2)
    if (t == 0).any():
        raise UsageError("times holds a 0, beside which nothing has a ratio. Give times above 0.")
    fastest = t.min(axis=1, keepdims=True, initial=np.inf)
    ratios = np.divide(t, fastest, out=np.full_like(t, np.inf), where=np.isfinite(t))
    factors = np.unique(ratios[np.isfinite(ratios)])
    shares = (ratios[:, :, None] <= factors).mean(axis=0)
    return Profile(ratios, factors, shares)


def _times(times: ArrayLike, dimensions: int) -> Floats:
    t = np.asarray(times, dtype=np.float64)
    if t.ndim != dimensions or np.isnan(t).any() or (t < 0).any():
        what = "a list" if dimensions == 1 else "tasks x contestants"
        raise UsageError(
            f"times must be {what} of numbers from 0 to inf, not {times!r}. Give inf to a run "
            "that did not reach the target."
        )
    return t
