"""A run's phases: how long each is, which layers it trains, and with which settings."""

# A function might be a tuple too, as a type checker sees it.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias, cast

from thalweg.errors import UsageError
from thalweg.schedules import Schedule

__all__ = ["Phase", "Span", "Value", "as_data", "fitted", "spans"]

Value: TypeAlias = float | Callable[[int], float]
"""A number, or a function from the number of the phase's step, counted from 0, to one."""


@dataclass(frozen=True, init=False)
class Phase:
    """A part of a run.

    Attributes:
        epochs: passes over the training data; need not be whole.
        freeze: the layers that are not trained: names of the task's layer groups, beginnings of
            parameters' names, or `"body"`, all groups but the last. Running statistics, as batch
            normalization keeps, go on.
        decay: how weights decay: `"l2"`, `"decoupled"` or `"independent"`; None: as the optimizer
            does it.
        settings: by name the optimizer's settings: a number, a schedule over the phase's steps, or
            a tuple of those, one for each layer group from the input to the output. What a phase
            does not name is as the optimizer was made with.
    """

    epochs: float
    freeze: tuple[str, ...]
    decay: str | None
    settings: Mapping[str, Value | tuple[Value, ...]]

    def __init__(
        self,
        /,
        epochs: float,
        *,
        freeze: str | Sequence[str] = (),
        decay: str | None = None,
        **settings: Value | tuple[Value, ...] | list[Value],
    ) -> None:
        number = isinstance(epochs, int | float) and not isinstance(epochs, bool)  # pyright: ignore
        if not number or not 0 < epochs < math.inf:
            raise UsageError(f"epochs is {epochs!r}, but must be a number of passes above 0.")
        frozen = (freeze,) if isinstance(freeze, str) else tuple(freeze)
        values = {
            n: tuple(_checked(n, part) for part in v)
            if isinstance(v, list | tuple)
            else _checked(n, v)
            for n, v in settings.items()
        }
        for name, value in (("epochs", epochs), ("freeze", frozen), ("decay", decay)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "settings", values)

    def __repr__(self) -> str:
        parts = [f"{self.epochs!r}"]
        parts += [f"freeze={self.freeze!r}"] if self.freeze else []
        parts += [f"decay={self.decay!r}"] if self.decay else []
        return f"Phase({', '.join([*parts, *(f'{n}={v!r}' for n, v in self.settings.items())])})"

    def data(self) -> dict[str, Any]:
        """The phase as plain data, such as JSON holds."""
        return {
            "epochs": self.epochs,
            "freeze": list(self.freeze),
            "decay": self.decay,
            "settings": {name: as_data(value) for name, value in self.settings.items()},
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Phase":
        """The phase that `data` returned."""
        settings = {name: _value(value) for name, value in data["settings"].items()}
        return cls(data["epochs"], freeze=data["freeze"], decay=data["decay"], **settings)


def _checked(name: str, value: Any) -> Value:
    """A setting's value; a number of another kind, such as NumPy's, as Python's."""
    if callable(value):
        return cast("Callable[[int], float]", value)
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{name} of a phase is {value!r}, but must be a number, a schedule such as "
            "thalweg.one_cycle(3e-3), or several of them, one for each layer group."
        ) from None


def as_data(value: Any) -> Any:
    """A setting's value as plain data; a function of one's own is told by its name only."""
    if isinstance(value, tuple):
        return [as_data(part) for part in cast("tuple[Any, ...]", value)]
    try:
        if isinstance(value, Schedule):
            return {"schedule": value.data()}
    except UsageError:
        # A function of the caller's own is a part of it.
        return _function(value)
    if callable(value):
        return _function(value)
    return value if value is None or isinstance(value, bool | int | float | str) else float(value)


def _function(value: Any) -> dict[str, str]:
    return {"function": getattr(value, "__qualname__", type(value).__qualname__)}


def _value(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_value(part) for part in cast("list[Any]", data))
    if isinstance(data, dict):
        held = cast("dict[str, Any]", data)
        if "schedule" not in held:
            raise UsageError(
                f"{held.get('function')} is a function of the program that began the run: go on "
                "with that program, which has it."
            )
        return Schedule.from_data(held["schedule"])
    return data


@dataclass(frozen=True)
class Span:
    """A phase, and where it stands among the steps of its run.

    Attributes:
        phase: with schedules that are as long as it is.
        first: its first step, counted from 0.
        steps: how many it has.
    """

    phase: Phase
    first: int
    steps: int


def spans(phases: Sequence[Phase], per_epoch: int) -> list[Span]:
    """Where each phase begins and ends.

    Args:
        phases: one after the other.
        per_epoch: steps in one pass over the training data.

    Raises:
        UsageError: there is no phase, one is shorter than a step, or a schedule is longer or
            shorter than its phase.
    """
    for i, phase in enumerate(phases):
        if not isinstance(phase, Phase):  # pyright: ignore
            raise UsageError(f"phase {i} is {phase!r}, but must be a thalweg.Phase.")
    if not phases:
        raise UsageError("phases is empty, but a run needs one: Phase(epochs=10).")
    ends = [math.floor(epochs * per_epoch + 0.5) for epochs in accumulate(p.epochs for p in phases)]
    found: list[Span] = []
    for i, (phase, first, end) in enumerate(zip(phases, (0, *ends), ends, strict=False)):
        steps = end - first
        if steps < 1:
            raise UsageError(
                f"phase {i} has {phase.epochs:g} epochs, less than a step: an epoch has "
                f"{per_epoch} steps."
            )
        settings: dict[str, Value | tuple[Value, ...]] = {}
        for name, value in phase.settings.items():
            if isinstance(value, tuple):
                settings[name] = tuple(fitted(v, steps, name, f"phase {i}") for v in value)
            else:
                settings[name] = fitted(value, steps, name, f"phase {i}")
        whole = Phase(phase.epochs, freeze=phase.freeze, decay=phase.decay, **settings)
        found.append(Span(whole, first, steps))
    return found


def fitted(value: Value, steps: int, name: str, where: str, *, whole: bool = True) -> Value:
    """The value, as a schedule that knows its length if it is one that was to learn it.

    Args:
        value: a setting's.
        steps: how many there are.
        name: the setting's.
        where: what has so many.
        whole: whether the schedule must cover all of them.

    Raises:
        UsageError: a schedule takes more, or covers fewer.
    """
    if not isinstance(value, Schedule):
        return value
    schedule = value.over(steps)
    covers = schedule.steps in (None, steps) or not whole
    if (schedule.length or 0) > steps or not covers:
        raise UsageError(
            f"{name} in {where} has a schedule of {schedule.length} steps, but there are {steps}: "
            "leave its steps out, and it takes as many as there are."
        )
    return schedule
