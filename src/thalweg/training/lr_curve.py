"""What a learning rate range test shows: the losses, and the learning rates they speak for."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

__all__ = ["RangeTest", "Suggestion", "read"]


@dataclass(frozen=True)
class Suggestion:
    """A learning rate, and why this one."""

    lr: float
    reason: str


@dataclass(frozen=True)
class RangeTest:
    """What a learning rate range test has found. `print(test)` says it in words.

    Attributes:
        lrs: the learning rate of each step.
        losses: of each step's batch, before the step.
        smoothed: their exponential moving average, without the bias of its start.
        diverged: whether the test ended early, as the smoothed loss had become too large.
        suggestions: by name, learning rates with their reasons; none where the curve does not
            support any.
        recommended: the name of the one to take; None where there is none.
        verdict: why that one, or why none and what to do.
    """

    lrs: Sequence[float] = field(repr=False)
    losses: Sequence[float] = field(repr=False)
    smoothed: Sequence[float] = field(repr=False)
    diverged: bool
    suggestions: Mapping[str, Suggestion]
    recommended: str | None
    verdict: str

    @property
    def lr(self) -> float | None:
        """The recommended learning rate; None where there is none."""
        return None if self.recommended is None else self.suggestions[self.recommended].lr

    def __str__(self) -> str:
        ended = "where the loss diverged" if self.diverged else "the end of the range"
        lines = [
            f"{len(self.lrs)} steps, lr from {self.lrs[0]:.2g} to {self.lrs[-1]:.2g}, {ended}; "
            f"lowest smoothed loss {min(self.smoothed):.4g}."
        ]
        lines += [f"  {n:<10} {s.lr:<8.2g} {s.reason}" for n, s in self.suggestions.items()]
        found = "No learning rate can be recommended"
        if self.recommended is not None:
            found = f"Recommended: lr={self.lr:.2g} ({self.recommended})"
        return "\n".join([*lines, f"{found}: {self.verdict}"])

    def plot(self, width: int = 80) -> str:
        """The smoothed loss over lr, drawn in letters."""
        from thalweg.training.lr_figure import plotted

        return plotted(self, width)


# By how many standard errors the loss must have fallen: at its lowest it is low by chance too. Of
# losses that are nothing but noise, about one series in a hundred falls so far.
_CERTAIN = 4.5


def read(
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    *,
    diverged: bool,
) -> RangeTest:
    """Find what the losses over the learning rates speak for.

    The first tenth says how high the loss is before it is moved; no suggestion lies there.

    Args:
        lrs, losses, smoothed, diverged: as in `RangeTest`; at least 2 steps.
    """
    first = min(max(3, len(lrs) // 10), len(lrs) - 1)
    best = min(range(first, len(lrs)), key=smoothed.__getitem__)
    before = losses[: best + 1]
    # The median is that of a normal distribution's differences, whatever their outliers.
    noise = median(abs(b - a) for a, b in pairwise(before)) / 0.954
    # The smoothed loss lags behind by too much to be compared.
    lowest = losses[max(first, best - first + 1) : best + 1]
    error = noise * math.sqrt(1 / first + 1 / len(lowest))
    if fmean(losses[:first]) - fmean(lowest) <= _CERTAIN * error:
        what = (
            "the loss only rises. Begin lower (start), and look whether it falls at all."
            if diverged
            else "the loss does not fall by more than it differs between batches. Go higher (end), "
            "take larger batches or more steps, or look whether the model learns at all."
        )
        return RangeTest(lrs, losses, smoothed, diverged, {}, None, what)
    if best == len(lrs) - 1:
        what = f"the loss still falls at lr {lrs[-1]:.2g}, where the test ended. Go higher (end)."
        return RangeTest(lrs, losses, smoothed, diverged, {}, None, what)
    top, end = _longest_fall(smoothed[first:])
    valley = first + top + round((end - top) * 2 / 3)
    steepest = first + _steepest(smoothed[first : best + 1], max(3, len(lrs) // 10))
    suggestions = {
        "valley": Suggestion(
            lrs[valley],
            "two thirds along the longest falling stretch of the smoothed loss, "
            f"{lrs[first + top]:.2g} to {lrs[first + end]:.2g}",
        ),
        "steepest": Suggestion(
            lrs[steepest], "where the smoothed loss falls most for a factor of lr"
        ),
        "minimum": Suggestion(
            lrs[best] / 10, f"a tenth of {lrs[best]:.2g}, where the smoothed loss is lowest"
        ),
    }
    middle = sorted(suggestions, key=lambda name: suggestions[name].lr)[1]
    return RangeTest(
        lrs,
        losses,
        smoothed,
        diverged,
        suggestions,
        middle,
        "the middle one of the three, as noise misleads one reading more easily than two.",
    )


def _longest_fall(values: Sequence[float]) -> tuple[int, int]:
    """Where the longest series of falling values, others left out, begins and ends."""
    # Of the series of each length found so far, the one whose last value is highest.
    lowest: list[float] = []
    last: list[int] = []
    begins: list[int] = []
    for i, value in enumerate(values):
        k = bisect_left(lowest, -value)
        begin = begins[k - 1] if k else i
        lowest[k : k + 1], last[k : k + 1], begins[k : k + 1] = [-value], [i], [begin]
    return begins[-1], last[-1]


def _steepest(values: Sequence[float], width: int) -> int:
    """The middle of the stretch of this width along which a straight line falls most."""
    width = min(width, len(values))
    arms = [i - (width - 1) / 2 for i in range(width)]
    slopes = [
        sum(arm * value for arm, value in zip(arms, values[i:], strict=False))
        for i in range(len(values) - width + 1)
    ]
    return min(range(len(slopes)), key=slopes.__getitem__) + width // 2
