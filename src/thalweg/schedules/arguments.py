"""What the arguments of schedules may be, said once and checked when a schedule is made."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, cast

__all__ = [
    "LENGTH",
    "STEPS",
    "Allowed",
    "Boundaries",
    "Ending",
    "Factor",
    "Flag",
    "Interval",
    "Length",
    "Part",
    "Positive",
    "Run",
    "Share",
    "Steps",
    "Value",
]


@dataclass(frozen=True)
class Allowed:
    """What is allowed, in words, and what makes of a given value the one that is kept.

    `take` raises ValueError or TypeError for what is not allowed. `is_length` marks the argument
    that says how many steps a schedule takes.
    """

    words: str
    take: Callable[[Any], Any]
    is_length: bool = False


def _number(least: float = -math.inf, below: float = math.inf) -> Callable[[Any], float]:
    def take(given: Any) -> float:
        if isinstance(given, bool) or not isinstance(given, Real):
            raise TypeError
        value = float(given)
        if not (least <= value < below and math.isfinite(value)):
            raise ValueError
        return value

    return take


def _above_zero(given: Any) -> float:
    if not (value := _number()(given)) > 0:
        raise ValueError
    return value


def _whole(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError
    if given < 1:
        raise ValueError
    return int(given)


def _boundaries(given: Any) -> tuple[int, ...]:
    steps = cast("Iterable[Any]", given if isinstance(given, Iterable) else (given,))
    taken = tuple(_whole(step) for step in steps)
    if list(taken) != sorted(set(taken)):
        raise ValueError
    return taken


def _part(given: Any) -> Callable[[int], float]:
    if not callable(given) or isinstance(given, type):
        raise TypeError
    return cast("Callable[[int], float]", given)


def choice(*names: str) -> Allowed:
    """One of these words."""

    def take(given: Any) -> str:
        if given not in names:
            raise ValueError
        return given

    return Allowed(" or ".join(map(repr, names)), take)


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError
    return given


STEPS = Allowed("a whole number from 1", _whole)
LENGTH = Allowed(
    "a whole number from 1, or left out until the run's length is known", _whole, is_length=True
)

Value = Annotated[float, Allowed("a finite number", _number())]
Ending = Annotated[float | None, Allowed("a finite number, or left out", _number())]
Positive = Annotated[float, Allowed("a finite number above 0", _above_zero)]
Factor = Annotated[float, Allowed("a finite number from 0", _number(0))]
Share = Annotated[float, Allowed("a share in [0, 1)", _number(0, 1))]
Steps = Annotated[int, STEPS]
Interval = Annotated[int | None, STEPS]
Length = Annotated[int | None, LENGTH]
Run = Annotated[int, Allowed(STEPS.words, _whole, is_length=True)]
Flag = Annotated[bool, Allowed("True or False", _flag)]
Boundaries = Annotated[
    tuple[int, ...] | list[int], Allowed("steps from 1, each after the one before", _boundaries)
]
Part = Annotated[Callable[[int], float], Allowed("a schedule, or a function of the step", _part)]
