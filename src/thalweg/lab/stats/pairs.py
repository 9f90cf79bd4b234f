"""Two contestants on the same seeds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thalweg.errors import UsageError

__all__ = ["Difference", "paired", "seeds_needed"]

MANY = 10_000
# The noise that a simulation of many contestants is made with is estimated, so its p-values are
# made larger by this: `benchmarks/coverage.py` measures what that is good for.
STRICTER = 4 / 3


@dataclass(frozen=True)
class Difference:
    """A mean difference and its interval.

    Attributes:
        mean: over the seeds; NaN without any.
        low: lower end of the interval; None where there is none.
        high: upper end, likewise.
        seeds: how many there are.
        why: why there is no interval, in a sentence; empty where there is one.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    why: str = ""


def paired(differences: ArrayLike, level: float = 0.95) -> Difference:
    """The mean of differences between two contestants, one per seed, and Student's t interval.

    The interval is mean -+ t s / sqrt(n) with t of n - 1 degrees of freedom. It is given from
    three seeds on: of one seed nothing is known of chance, and of two the interval is 12.7
    standard errors to each side.

    Args:
        differences: one for each seed that both finished; NaN is left out.
        level: how often the interval holds the true mean difference.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    n = d.size
    mean = float(d.mean()) if n else float("nan")
    if n < 3:
        have = ("no seed", "one seed", "two seeds")[n]
        return Difference(
            mean, None, None, n, f"with {have} in common chance cannot be judged: three are needed"
        )
    from scipy.special import stdtrit  # pyright: ignore

    margin = float(stdtrit(n - 1, (1 + level) / 2)) * float(d.std(ddof=1)) / n**0.5
    return Difference(mean, mean - margin, mean + margin, n)


def seeds_needed(
    differences: ArrayLike,
    smallest: float,
    contestants: int = 2,
    level: float = 0.95,
    power: float = 0.8,
) -> int | None:
    """About how many more seeds would show a difference of a given size.

    The least n at which a t test between two contestants finds a true difference of `smallest`
    with probability `power` at the noise of `differences`, less the seeds there are:

        smallest >= (t(1 - a / 2) + t(power)) sd / sqrt(n)

    With two contestants t has n - 1 degrees of freedom and a = 1 - level. With more, a is
    divided by the number of pairs and by the 4/3 of `compare`, and there are 4 (n - 1) degrees
    of freedom, since there the noise of all contestants lends to the standard error (the 4 is
    what agrees with its measured power). The noise is known only roughly, and so is n.

    Args:
        differences: between the two, one for each seed that both finished; NaN is left out.
        smallest: the size of the true difference, above 0.
        contestants: how many are compared with one another.
        level: 1 - the share of studies that may call any true tie a difference.
        power: how often the difference would be found.

    Returns:
        0 if there are enough; None if over 10,000 would be needed, or if the noise is unknown,
        with fewer than two differences or equal ones.

    Raises:
        UsageError: if `smallest` is not above 0.
    """
    if not smallest > 0:
        raise UsageError(
            f"smallest={smallest} is no size of a difference. Give a number above 0, in the "
            "unit of the metric."
        )
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    if d.size < 2 or not d.std() > 0:
        return None
    from scipy.special import stdtrit  # pyright: ignore

    n = np.arange(3, MANY + 1)
    share, known = 1 - level, n - 1
    if contestants > 2:
        share, known = share / (contestants * (contestants - 1) / 2 * STRICTER), 4 * known
    reach = stdtrit(known, 1 - share / 2) + stdtrit(known, power)
    enough = n[smallest * n**0.5 >= reach * d.std(ddof=1)]
    return max(0, int(enough[0]) - d.size) if enough.size else None
