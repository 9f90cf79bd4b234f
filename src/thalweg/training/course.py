"""The course of an optimizer: each of its settings at every step, known before the first."""

# A function might be a tuple too, as a type checker sees it.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from thalweg.errors import UsageError, unknown
from thalweg.optimizer import number_of
from thalweg.scheduling import Place, place, put, released
from thalweg.training.foresight import check_decay, check_values
from thalweg.training.phases import Phase, Value, as_data, fitted, spans

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Course", "layers_needed"]

_LR: Place = ("lr", None)
_LISTS = ("params", "param_names")
_Setter: TypeAlias = tuple[dict[str, Any], Place, Callable[[int], float], int]


def layers_needed(phases: Sequence[Phase]) -> bool:
    """Whether a phase has settings of its own for each layer group."""
    return any(isinstance(v, tuple) for phase in phases for v in phase.settings.values())


class Course:
    """What every setting of an optimizer is in each step of a run.

    Args:
        phases: of the run.
        per_epoch: steps in one pass over the training data.
        optimizer: as it was made. Schedules that it was given are taken over: they run through all
            phases that do not say otherwise.
        layers: the parameters of each layer group by name, from the input to the output.
        names: all parameters, by all of their names.

    Raises:
        UsageError: a phase names a setting or layers that are not there, or a value is out of range
            at some step, or a schedule ends before its phase or the run.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        per_epoch: int,
        optimizer: "torch.optim.Optimizer",
        layers: "Mapping[str, Sequence[nn.Parameter]]",
        names: "Sequence[tuple[str, nn.Parameter]]",
    ) -> None:
        self.spans = spans(phases, per_epoch)
        self.total = self.spans[-1].first + self.spans[-1].steps
        self.scale = 1.0
        self._optimizer = optimizer
        self._layers = layers
        self._wanted = {p: p.requires_grad for _, p in names}
        self._frozen = [_frozen(span.phase, layers, names) for span in self.spans]
        self._throughout = released(optimizer)
        # A tensor that is a learning rate is changed in place, and so would be what is kept of it.
        self._base = [
            {k: v if k in _LISTS else number_of(v) for k, v in group.items()}
            for group in optimizer.param_groups
        ]
        self._setters: list[_Setter] = []
        self.phase, self.span = 0, self.spans[0]
        # Some optimizers keep numbers of their own in their groups: those are not for us to set.
        self._led = [
            {where[0] for at in range(len(self.spans)) for where, _, _ in self._values(i, at)}
            for i in range(len(self._base))
        ]
        for at, span in enumerate(self.spans):
            check_decay(optimizer, at, span.phase.decay)
            for i, group in enumerate(self._base):
                check_values(optimizer, group, span, self._values(i, at))
        self.enter(0)

    def enter(self, step: int) -> None:
        """Begin with a step, which may be any: set what holds for the whole of its phase."""
        at = next(i for i, s in enumerate(self.spans) if step < s.first + s.steps)
        self.phase, self.span = at, self.spans[at]
        for p, wanted in self._wanted.items():
            p.requires_grad_(wanted and p not in self._frozen[at])
        self._setters = []
        for i, group in enumerate(self._groups):
            for key in self._led[i] | ({"lr"} if self.scale != 1 else set[str]()):
                put(group, (key, None), self._base[i][key])
            group.pop("decay", None)
            group |= {k: v for k, v in self._base[i].items() if k == "decay"}
            if self.span.phase.decay is not None:
                group["decay"] = self.span.phase.decay
            if self.scale != 1:
                put(group, _LR, group["lr"] * self.scale)
            for where, value, first in self._values(i, at):
                if callable(value):
                    self._setters.append((group, where, value, first))
                else:
                    put(group, where, value * self.scale if where == _LR else value)

    def follow(self, step: int) -> None:
        """Set what changes with the step."""
        if step >= self.span.first + self.span.steps:
            self.enter(step)
        for group, where, schedule, first in self._setters:
            value = float(schedule(step - first))
            put(group, where, value * self.scale if where == _LR else value)

    def shrink(self, step: int, factor: float) -> None:
        """Multiply the learning rate by a factor from a step on."""
        self.scale *= factor
        self.enter(step)
        self.follow(step)

    def settings(self) -> dict[str, float]:
        """The numbers that the last parameter group has now."""
        found: dict[str, float] = {}
        for name, value in self._groups[-1].items():
            if name == "betas" and len(value) == 2:
                found |= {"beta1": float(value[0]), "beta2": float(value[1])}
            elif type(value) in (int, float) or getattr(value, "ndim", None) == 0:
                found[name] = float(value)
        return found

    def made_with(self) -> dict[str, Any]:
        """The settings that the optimizer was made with, as plain data."""
        groups = [
            {n: as_data(v) for n, v in {**g, **s}.items() if n not in ("params", "param_names")}
            for g, s in zip(self._base, self._throughout, strict=True)
        ]
        differing = {
            f"{n} of group {i}": v
            for i, group in enumerate(groups)
            for n, v in group.items()
            if v != groups[0].get(n)
        }
        return groups[0] | differing

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def _values(self, i: int, at: int) -> list[tuple[Place, Value, int]]:
        """Where each setting of a group stands in a phase, what it is, and from which step on."""
        group, span = self._base[i], self.spans[at]
        found: dict[Place, tuple[Value, int]] = {
            place(group, name): (fitted(schedule, self.total, name, "the run", whole=False), 0)
            for name, schedule in self._throughout[i].items()
        }
        for name, given in span.phase.settings.items():
            if isinstance(given, tuple) and isinstance(group.get(name), tuple):
                raise UsageError(
                    f"{name} in phase {at} is {given}, but several values are for as many layer "
                    "groups: name the settings one by one, such as beta1 and beta2."
                )
            if isinstance(given, tuple) and len(given) != len(self._layers):
                raise UsageError(
                    f"{name} in phase {at} has {len(given)} values, but must have one for each of "
                    f"the {len(self._layers)} layer groups: {', '.join(self._layers)}."
                )
            value = given[i] if isinstance(given, tuple) else given
            found[place(group, name)] = value, span.first
        return [(where, *pair) for where, pair in found.items()]


def _frozen(
    phase: Phase,
    layers: "Mapping[str, Sequence[nn.Parameter]]",
    names: "Sequence[tuple[str, nn.Parameter]]",
) -> "set[nn.Parameter]":
    found: set[nn.Parameter] = set()
    for name in phase.freeze:
        groups = list(layers.values())[:-1] if name == "body" and name not in layers else []
        groups += [layers[name]] if name in layers else []
        some = {p for group in groups for p in group}
        some |= {p for n, p in names if n == name or n.startswith(f"{name}.")}
        if not some and name == "body":
            raise UsageError(
                "freeze is 'body', which is all layer groups but the last, but the model has one "
                "group only: name its parameters, or give the task layers."
            )
        if not some:
            raise unknown("layers to freeze", name, (*layers, "body", *(n for n, _ in names)))
        found |= some
    if found and not any(p.requires_grad and p not in found for _, p in names):
        raise UsageError(f"freeze is {phase.freeze!r}, which leaves nothing to train.")
    return found
