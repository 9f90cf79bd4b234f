"""What a schedule is: a pure function of the step with its settings, which are data."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import update_wrapper
from operator import index
from typing import Any, Concatenate, Generic, ParamSpec, cast

from thalweg.errors import UsageError, unknown
from thalweg.schedules.arguments import LENGTH, Allowed

__all__ = ["SCHEDULES", "Form", "Schedule", "schedule"]

P = ParamSpec("P")

SCHEDULES: dict[str, "Form[...]"] = {}


@dataclass(frozen=True, repr=False)
class Schedule:
    """A value for each step: `schedule(step)`, of the step about to be taken, counted from 0.

    Made by the functions of `thalweg.schedules`. It holds its settings and nothing else, so it can
    be compared, hashed, pickled, written as data, and typed back from its `repr`.

    Attributes:
        name: of the function that made it.
        arguments: its settings in order, each a name and a value.
        open: whether its length is still to be given (see `over`).
        length: the steps that it takes to its end; None where it has no end, or is open.
        steps: how many steps it covers; None for any number. It may be None beside a `length`:
            `linear` holds its last value.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]
    open: bool = field(init=False, compare=False)
    length: int | None = field(init=False, compare=False)
    steps: int | None = field(init=False, compare=False)
    _value: Callable[[int], float] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        form = SCHEDULES[self.name]
        values = (*self._span(form), form.bound(dict(self.arguments)))
        for name, value in zip(("open", "length", "steps", "_value"), values, strict=True):
            object.__setattr__(self, name, value)

    def __call__(self, step: int) -> float:
        """The value for a step.

        Raises:
            UsageError: the step is not a whole number from 0, or beyond the last that is covered,
                or the schedule's length is still open.
        """
        try:
            at = index(step)
        except TypeError:
            at = -1
        if at < 0:
            raise UsageError(f"step is {step!r}, but must be a whole number from 0.")
        if self.steps is not None and at >= self.steps:
            raise UsageError(
                f"{self.name} covers {self.steps} steps, the last of which is step "
                f"{self.steps - 1}, but is asked for step {at}: give it more steps, or join "
                "another schedule to it."
            )
        if self.open:
            raise UsageError(
                f"{self!r} does not know its length: give steps, or fill it in with .over(steps)."
            )
        try:
            return self._value(at)
        except OverflowError:  # Python's own power raises it; who sets the value says what is wrong
            return math.inf

    def __repr__(self) -> str:
        return SCHEDULES[self.name].spelled(dict(self.arguments))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.arguments)

    def over(self, steps: int) -> "Schedule":
        """The schedule with its length filled in where it was left open, and else unchanged.

        Raises:
            UsageError: `steps` is not a whole number from 1, or too few.
        """
        form = SCHEDULES[self.name]
        length = form.taken("steps", steps, LENGTH)
        arguments = dict(self.arguments)
        return form.made({**arguments, str(form.length): length}) if self.open else self

    def data(self) -> dict[str, Any]:
        """The schedule as plain data, ready for JSON; `Schedule.from_data` takes it back.

        Raises:
            UsageError: a function of the caller's own is part of it.
        """
        return {"schedule": self.name, **{n: _as_data(v) for n, v in self.arguments}}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Schedule":
        """The schedule that `data` describes.

        Raises:
            UsageError: an unknown schedule or setting, or a value that is not allowed.
        """
        name = str(data.get("schedule"))
        if name not in SCHEDULES:
            raise unknown("schedule", name, SCHEDULES)
        settings = {n: _from_data(v) for n, v in data.items() if n != "schedule"}
        return SCHEDULES[name].of(settings)

    def _span(self, form: "Form[...]") -> tuple[bool, int | None, int | None]:
        """Whether it is open, its length, and the steps it covers."""
        if form.length is None:
            return False, None, None
        length = dict(self.arguments)[form.length]
        return length is None, length, length if form.ends else None


def _as_data(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.data()
    if isinstance(value, tuple):
        return [_as_data(v) for v in cast("tuple[Any, ...]", value)]
    if callable(value):
        raise UsageError(
            f"{value!r} is a function of your own, which cannot be stored as data: use schedules "
            "of thalweg.schedules, joined where needed."
        )
    return value


def _from_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Schedule.from_data(cast("Mapping[str, Any]", value))
    if isinstance(value, list):
        return tuple(_from_data(v) for v in cast("list[Any]", value))
    return value


class Form(Generic[P]):
    """A kind of schedule: called with settings, it makes one.

    Attributes:
        name: of the kind.
        source: paper, or library, and where in it.
        example: settings that show it; its value is 1 at most, and its length is open.
        doc: its meaning; the first line says it in short.
        parameters: its settings.
        allowed: what each may be.
        length: the name of the setting that says how many steps it takes; None: it has none.
        ends: whether it has no values after that.
    """

    def __init__(
        self,
        function: Callable[Concatenate[int, P], float],
        source: str,
        example: Mapping[str, Any],
        ends: bool,
        type: type[Schedule],
    ) -> None:
        update_wrapper(self, function)
        self.name = function.__name__
        self.doc = inspect.getdoc(function) or ""
        self.source = source
        self.example = example
        self.ends = ends
        self._function = function
        self._type = type
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]
        # For help and editors: the plain types.
        plain = [p.replace(annotation=p.annotation.__origin__) for p in parameters]
        self.__signature__ = signature.replace(parameters=plain, return_annotation=Schedule)
        self.parameters = {p.name: p for p in parameters}
        self.allowed: dict[str, Allowed] = {
            name: p.annotation.__metadata__[0] for name, p in self.parameters.items()
        }
        self.length = next((n for n, a in self.allowed.items() if a.is_length), None)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        names = [n for n, p in self.parameters.items() if p.kind is not p.KEYWORD_ONLY]
        given: dict[str, Any] = dict(kwargs)
        values = tuple(args)
        for position, name in enumerate(names):
            if self.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                given[name], values = values[position:], ()
            elif position < len(values):
                if name in given:
                    raise UsageError(f"{self.name} got {name} twice: give it once.")
                given[name] = values[position]
        if len(values) > len(names):
            raise UsageError(
                f"{self.name} takes {', '.join(names)}, but got {len(values)} values: write the "
                "others as name=value."
            )
        return self.of(given)

    def of(self, given: Mapping[str, Any]) -> Schedule:
        """The schedule with these settings by name, the others at their defaults.

        Raises:
            UsageError: an unknown or missing setting, or a value that is not allowed.
        """
        for name in given:
            if name not in self.parameters:
                raise unknown(f"setting of {self.name}", name, self.parameters)
        missing = [
            n for n, p in self.parameters.items() if n not in given and _default(p) is p.empty
        ]
        if missing:
            raise UsageError(
                f"{self.name} needs {' and '.join(missing)}: {self.allowed[missing[0]].words}."
            )
        return self.made(
            {
                name: self.taken(name, given.get(name, _default(parameter)))
                for name, parameter in self.parameters.items()
            }
        )

    def made(self, arguments: Mapping[str, Any]) -> Schedule:
        """The schedule with all of its settings, which have been checked one by one.

        Raises:
            UsageError: they do not go together.
        """
        made = self._type(self.name, tuple(arguments.items()))
        if not made.open:
            made(0)
        return made

    def taken(self, name: str, value: Any, allowed: Allowed | None = None) -> Any:
        """What is kept of a setting's value."""
        parameter, allowed = self.parameters.get(name), allowed or self.allowed[name]
        if parameter is not None and value is None and parameter.default is None:
            return None
        try:
            if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
                return tuple(allowed.take(v) for v in cast("tuple[Any, ...]", value))
            return allowed.take(value)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(
                f"{name} of {self.name} is {value!r}, but must be {allowed.words}."
            ) from None

    def bound(self, arguments: Mapping[str, Any]) -> Callable[[int], float]:
        """The pure function with its settings given."""
        function, (args, named) = self._function, self._split(arguments)
        return lambda step: function(step, *args, **named)  # pyright: ignore[reportCallIssue]

    def spelled(self, arguments: Mapping[str, Any]) -> str:
        """The call that makes a schedule with these settings."""
        args, named = self._split(arguments)
        words = [
            *map(repr, args),
            *(f"{n}={v!r}" for n, v in named.items() if v != self.parameters[n].default),
        ]
        return f"{self.name}({', '.join(words)})"

    def _split(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The settings that are given by position, and those by name."""
        args: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        for name, value in arguments.items():
            if self.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                args = value
            else:
                named[name] = value
        return args, named


def _default(parameter: inspect.Parameter) -> Any:
    return () if parameter.kind is parameter.VAR_POSITIONAL else parameter.default


def schedule(
    *, source: str, example: Mapping[str, Any], ends: bool = False, type: type[Schedule] = Schedule
) -> Callable[[Callable[Concatenate[int, P], float]], Form[P]]:
    """Make a pure function of the step and settings a kind of schedule.

    The settings' annotations (`thalweg.schedules.arguments`) say what they may be. The function
    raises UsageError where settings do not go together; it is called for step 0 to see that.
    """

    def decorate(function: Callable[Concatenate[int, P], float]) -> Form[P]:
        form = Form(function, source, example, ends, type)
        SCHEDULES[form.name] = cast("Form[...]", form)
        return form

    return decorate
