"""A run as it is ordered in words, on the command line or in the file that keeps it."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from thalweg.errors import UsageError, unknown
from thalweg.rules import OPTIMIZERS
from thalweg.rules.spelling import parsed as parsed_rule
from thalweg.schedules import Schedule
from thalweg.schedules.cycles import momentum_of
from thalweg.schedules.spelling import parsed
from thalweg.training.phases import Phase

if TYPE_CHECKING:
    import torch

__all__ = ["Order", "check_settings", "course", "factory", "read_phases"]


@dataclass(frozen=True)
class Order:
    """What is to be trained, and how: plain data, which is kept with the run.

    Attributes:
        task: a name in `thalweg.tasks.TASKS`, or `path.py:name`.
        optimizer: as `thalweg compare` takes it: `adamw`, `sgd:lr=0.1`, `l2+adam`.
        settings: of the optimizer, by name: a number, or a schedule, in words.
        convention: whose reading of the optimizer is followed.
        schedule: of the learning rate, in words; its momentum goes against a 1cycle.
        epochs: passes over the training data.
        decay: how weights decay; see `Phase`.
        phases: as `Phase.data` writes them, instead of the three above.
        options: the other arguments of `train` that decide the result.
    """

    task: str
    optimizer: str
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    convention: str = "paper"
    schedule: str | None = None
    epochs: float | None = None
    decay: str | None = None
    phases: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.phases is not None:
            for name in ("schedule", "epochs", "decay"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{name} is {getattr(self, name)!r}, but the phases say that: leave one "
                        "of the two out."
                    )

    def data(self) -> dict[str, Any]:
        """The order as JSON holds it; `Order(**data)` takes it back."""
        return json.loads(json.dumps(asdict(self)))

    def factory(self) -> "Callable[[Iterable[Any]], torch.optim.Optimizer]":
        """What makes the optimizer."""
        return factory(self.optimizer, self.convention, self.settings)

    def course(self, epochs: float) -> list[Phase]:
        """The run's phases.

        Args:
            epochs: the task's own number.
        """
        if self.phases is not None:
            return [Phase.from_data(phase) for phase in self.phases]
        length = epochs if self.epochs is None else self.epochs
        return course(self.factory(), length, self.schedule, self.decay, self.settings)


def course(
    make: "Callable[..., torch.optim.Optimizer]",
    epochs: float,
    schedule: str | None = None,
    decay: str | None = None,
    given: Mapping[str, str] | None = None,
) -> list[Phase]:
    """The one phase of a run whose learning rate may follow a schedule.

    Args:
        make: makes the optimizer of parameters.
        epochs: passes over the training data.
        schedule: of the learning rate, in words; its momentum goes against a 1cycle.
        decay: as in `Phase`.
        given: the settings that the optimizer is made with, in words.

    Raises:
        UsageError: there is no such schedule, or the learning rate has one already.
    """
    settings = {} if schedule is None else _scheduled(make, schedule, given or {})
    return [Phase(epochs, decay=decay, **settings)]


def _scheduled(
    make: "Callable[..., torch.optim.Optimizer]", text: str, given: Mapping[str, str]
) -> dict[str, Any]:
    """The schedule of the learning rate, and that of a momentum which goes with it."""
    import torch

    from thalweg.scheduling import place

    made: Any = make([torch.zeros(1, requires_grad=True)])
    group = made.param_groups[0]
    if "schedules" in group and "lr" in group["schedules"]:
        raise UsageError(
            f"lr is {given['lr']!r} and schedule {text!r}: both say how the learning "
            "rate goes, so leave one of them out."
        )
    settings: dict[str, Any] = {"lr": parsed(text, float(group["lr"]))}
    against = momentum_of(settings["lr"])
    if against is not None and not {"momentum", "beta1", "beta", "gamma"} & {*given}:
        try:
            key, index = place(group, "momentum")
        except UsageError:
            return settings
        if group[key] if index is None else group[key][index]:
            settings["beta1" if index == 0 else key] = against
    return settings


def factory(
    text: str, convention: str, settings: Mapping[str, str]
) -> "Callable[[Iterable[Any]], torch.optim.Optimizer]":
    """What makes the optimizer that is called so, with settings in words.

    Raises:
        UsageError: an unknown optimizer or setting, or a value that is not allowed.
    """
    from thalweg.optim import CLASSES, Optimizer

    check_settings(text, settings)
    rule = parsed_rule(text)
    several = {name for name, hyper in rule.hypers.items() if isinstance(hyper.default, tuple)}
    values = {name: _value(name, v, name in several | _PAIRS) for name, v in settings.items()}
    if rule.name not in OPTIMIZERS:
        return lambda params: Optimizer(params, rule, convention=convention, **values)
    cls, values = CLASSES[rule.title], {**rule.given, **values}
    return lambda params: cls(params, convention=convention, **values)  # pyright: ignore


_PAIRS = {"betas", "etas", "step_sizes"}
_NO_SETTINGS = {
    *("params", "self", "settings", "convention", "backend", "decay"),
    *("foreach", "fused", "capturable", "differentiable"),
}


def check_settings(text: str, settings: Iterable[str], others: Iterable[str] = ()) -> None:
    """See that the optimizer that is called so has these settings.

    Args:
        text: the optimizer.
        settings: their names.
        others: what else could have been meant.

    Raises:
        UsageError: one is unknown.
    """
    from thalweg.optim import CLASSES

    rule = parsed_rule(text)
    known = [*rule.hypers, *rule.flags]
    if rule.name in OPTIMIZERS:
        cls = CLASSES[rule.title]
        own = getattr(cls, "mirror", None)
        known = [*inspect.signature(cls).parameters, *(own.settings if own else ()), *rule.hypers]
    names = [name for name in dict.fromkeys(known) if name not in _NO_SETTINGS]
    for name in settings:
        if name not in names:
            raise unknown(f"setting of {rule.title} or option", name, (*names, *others))


def _value(name: str, text: str, several: bool) -> Any:
    """A number or fraction, a truth, several numbers with / between them, or a schedule."""
    try:
        numbers = tuple(float(part) for part in text.split("/"))
        return numbers if several and len(numbers) > 1 else reduce(lambda a, b: a / b, numbers)
    except (ValueError, ZeroDivisionError):
        truth = {"true": True, "false": False}.get(text.lower())
        return _schedule(name, text) if truth is None else truth


def read_phases(path: Path) -> list[dict[str, Any]]:
    """The phases in a JSON file: a list of what `Phase.data` returns; only epochs must be there.

    A schedule may be written in words: `"lr": "one-cycle:lr=3e-3"`.

    Raises:
        UsageError: the file cannot be read, or something in it is not a phase.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the phases in {path} cannot be read: {error}.") from error
    if not isinstance(content, list) or not content:
        raise UsageError(
            f"{path} must hold a list of phases, such as [{{"
            '"epochs": 10, "settings": {"lr": 0.1}}].'
        )
    found: list[dict[str, Any]] = []
    for i, given in enumerate(cast("list[Any]", content)):
        where = f"phase {i} in {path}"
        if not isinstance(given, dict) or "epochs" not in given:
            raise UsageError(f"{where} is {given!r}, but must be an object with epochs.")
        phase: dict[str, Any] = {"freeze": [], "decay": None, "settings": {}, **given}
        for name, value in phase.items():
            if name not in _ENTRIES:
                raise unknown(f"entry of {where}", name, _ENTRIES)
            fits, words = _ENTRIES[name]
            if not fits(value):
                raise UsageError(f"{name} of {where} is {value!r}, but must be {words}.")
        try:
            settings = {n: _worded(n, v) for n, v in phase["settings"].items()}
            found.append(Phase.from_data({**phase, "settings": settings}).data())
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    return found


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in cast("list[Any]", value))


_BESIDE = ("epochs", "freeze", "decay")
_ENTRIES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda _: True, ""),  # Phase says what is wrong with it.
    "freeze": (lambda x: isinstance(x, str) or _strings(x), "a list of layers' names"),
    "decay": (lambda x: x is None or isinstance(x, str), "a word, such as decoupled"),
    "settings": (
        lambda x: isinstance(x, dict) and not {*_BESIDE} & {*cast("dict[str, Any]", x)},
        f'an object, such as {{"lr": 0.1}}, without {", ".join(_BESIDE)}',
    ),
}


def _worded(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return {"schedule": _schedule(name, value).data()}
    if isinstance(value, list):
        return [_worded(name, v) for v in cast("list[Any]", value)]
    held: Any = cast("dict[str, Any]", value).get("schedule") if isinstance(value, dict) else None
    if not isinstance(value, bool | int | float) and not isinstance(held, dict):
        raise UsageError(
            f"{name} is {value!r}, but must be a number, a schedule in words, or a list of those."
        )
    return cast("Any", value)


def _schedule(name: str, text: str) -> Schedule:
    try:
        return parsed(text)
    except UsageError as error:
        raise UsageError(
            f"{name} is {text!r}, but must be a number or a schedule: {error}"
        ) from error
