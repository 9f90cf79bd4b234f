"""Schedules of one piece."""

import math

from thalweg.errors import UsageError
from thalweg.schedules.arguments import (
    Boundaries,
    Factor,
    Interval,
    Length,
    Positive,
    Steps,
    Value,
)
from thalweg.schedules.schedule import schedule

__all__ = [
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "inverse_sqrt",
    "linear",
    "polynomial",
    "step",
]


@schedule(source="torch, ConstantLR", example={"value": 1.0})
def constant(step: int, value: Value) -> float:
    """The same value at every step."""
    return value


@schedule(source="torch, LinearLR", example={"start": 1.0, "end": 0.0})
def linear(step: int, start: Value, end: Value, steps: Length = None) -> float:
    """From start to end in equal parts, then end ever after."""
    assert steps is not None
    return along(start, end, step, steps)


@schedule(
    source="torch, PolynomialLR; Chen et al. 2017, arXiv:1606.00915 (power 0.9)",
    example={"start": 1.0, "power": 2.0},
)
def polynomial(
    step: int, start: Value, end: Value = 0.0, steps: Length = None, power: Positive = 1.0
) -> float:
    """From start to end by a power of the share that is left, then end ever after."""
    assert steps is not None
    return end if step >= steps else end + (start - end) * (1 - step / steps) ** power


@schedule(source="torch, ExponentialLR", example={"start": 1.0, "factor": 0.97})
def exponential(step: int, start: Value, factor: Positive) -> float:
    """Multiplied by a factor at every step."""
    return start * factor**step


@schedule(source="torch, StepLR and MultiStepLR", example={"start": 1.0, "at": (30, 60)})
def step(
    step: int,
    start: Value,
    factor: Factor = 0.1,
    every: Interval = None,
    at: Boundaries = (),
) -> float:
    """Multiplied by a factor every so many steps, or at the steps of a list."""
    if (every is None) == (not at):
        raise UsageError(
            f"every is {every} and at is {list(at)}, but step needs one of them: every how many "
            "steps the value changes, or at which steps."
        )
    changes = step // every if every is not None else sum(b <= step for b in at)
    return start * factor**changes


@schedule(
    source="Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts",
    example={"start": 1.0},
    ends=True,
)
def cosine(step: int, start: Value, end: Value = 0.0, steps: Length = None) -> float:
    """From start to end along half a wave: slow, fast, slow."""
    assert steps is not None
    return wave(start, end, step, steps)


@schedule(
    source="Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5",
    example={"start": 1.0, "period": 20, "growth": 2},
)
def cosine_restarts(
    step: int, start: Value, end: Value = 0.0, *, period: Steps, growth: Steps = 1
) -> float:
    """From start to end along half a wave, again and again, each `growth` times as long."""
    while step >= period:
        # Restarts of equal length are passed at once, others are few.
        step -= period if growth > 1 else step // period * period
        period *= growth
    return wave(start, end, step, period)


@schedule(
    source="Vaswani et al. 2017, arXiv:1706.03762, eq. 3",
    example={"peak": 1.0, "warmup": 10},
)
def inverse_sqrt(step: int, peak: Value, warmup: Steps) -> float:
    """Up to peak over `warmup` steps, then down as one over the root of the step.

    The paper counts steps from 1; its peak is 1 / sqrt(width * warmup).
    """
    count = step + 1
    return peak * min(count / warmup, math.sqrt(warmup / count))


def along(start: float, end: float, step: int, steps: int) -> float:
    """The value `step / steps` of the way from start to end, and end after it."""
    return end if step >= steps else start + (end - start) * (step / steps)


def wave(start: float, end: float, step: float, steps: float) -> float:
    """The value on half a cosine wave, `step / steps` of the way from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2
