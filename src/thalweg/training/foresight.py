"""What would go wrong at a later step, found before the first one."""

import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from thalweg.errors import UsageError, unknown
from thalweg.optim import Optimizer
from thalweg.optimizer import number_of
from thalweg.rules.decaying import DECAYS
from thalweg.scheduling import Place, put
from thalweg.training.phases import Span, Value

if TYPE_CHECKING:
    import torch

__all__ = ["check_decay", "check_values"]


def check_decay(optimizer: "torch.optim.Optimizer", phase: int, decay: str | None) -> None:
    """See that an optimizer's weights can decay as a phase says.

    Raises:
        UsageError: there is no such decay, or the optimizer's class has no choice of it.
    """
    if decay is None:
        return
    if decay not in DECAYS:
        raise unknown("decay", str(decay), DECAYS)
    if not (isinstance(optimizer, Optimizer) and optimizer.has_decay_modes):
        raise UsageError(
            f"phase {phase} has decay={decay!r}, but {type(optimizer).__name__} has no choice of "
            "it: use one of Thalweg's classes, such as thalweg.AdamW."
        )


def check_values(
    optimizer: "torch.optim.Optimizer",
    group: Mapping[str, Any],
    span: Span,
    values: Sequence[tuple[Place, Value, int]],
) -> None:
    """See that the settings of a group are valid at each step of a phase.

    Args:
        optimizer: whose class says what is valid.
        group: the group's settings as the optimizer was made with.
        span: the phase.
        values: where each setting of the phase stands, what it is, and its first step.

    Raises:
        UsageError: they are not; the message names the first such step.
    """
    curves = [(where, _curve(where[0], value, first, span)) for where, value, first in values]

    def check(at: int) -> None:
        made = dict(group) if span.phase.decay is None else {**group, "decay": span.phase.decay}
        for where, curve in curves:
            put(made, where, curve[min(at, len(curve) - 1)])
        try:
            _check(optimizer, made)
        except (UsageError, ValueError) as error:
            raise UsageError(f"at step {span.first + at}: {error}") from None

    try:
        # A range has two ends, so the ends of each setting's own are enough.
        for at in {0} | {c.index(f(c)) for _, c in curves for f in (min, max)}:
            check(at)
    except UsageError:
        for at in range(span.steps):
            check(at)
        raise


def _curve(name: str, value: Value, first: int, span: Span) -> list[float]:
    """The values at the steps of a phase; a constant's once."""
    length = getattr(value, "steps", None)
    end = span.first + span.steps
    if length is not None and first + length < end:
        raise UsageError(
            f"the schedule of {name} covers {length} steps, but the run has {end} that it is for: "
            "leave its steps out, and it takes as many as there are."
        )
    steps = range(span.first, end)
    given = [value(s - first) for s in steps] if callable(value) else [value]
    curve: list[Any] = [number_of(y) for y in given]
    for s, y in enumerate(curve, span.first):
        if not isinstance(y, Real) or not math.isfinite(y):
            raise UsageError(f"{name} is {y!r} at step {s}, but must be a finite number.")
    return [float(y) for y in curve]


def _check(optimizer: "torch.optim.Optimizer", group: dict[str, Any]) -> None:
    """Have the optimizer's class say whether a group's settings are valid."""
    import torch

    if isinstance(optimizer, Optimizer):
        optimizer.check(group)
        return
    # Defaults have more: what torch's AdamW hands on to Adam is no argument of its own.
    known = inspect.signature(type(optimizer)).parameters
    kept = {n: v for n, v in group.items() if n in known and n != "params"}
    try:
        type(optimizer)([torch.zeros(())], **kept)
    except TypeError:
        # A class of somebody's own, which makes its groups of other arguments.
        return
