"""What a rule's signature declares: its state, its hyperparameters and its options."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import import_module
from typing import Any, TypeAlias

from thalweg.errors import UsageError, unknown
from thalweg.rules.vocabulary import Expr

__all__ = [
    "CONVENTIONS",
    "Flag",
    "GradientAt",
    "Hyper",
    "Link",
    "Setting",
    "State",
    "flag",
    "hyper",
    "linked",
    "state",
]

Setting: TypeAlias = "float | bool | str | tuple[float, ...]"
"""A value of a hyperparameter (a number or a tuple of them) or of a flag (a bool or a word)."""

CONVENTIONS = ("paper", "torch", "keras", "optax")
"""Whose reading of a rule is followed, where libraries and papers disagree."""


@dataclass(frozen=True)
class Hyper:
    """A hyperparameter: what it means, what it may be, and where to look for a good value.

    Attributes:
        default: the paper's recommendation, or the field's where the paper has none.
        interval: the valid values, as an interval such as `"[0, 1)"`.
        help: its meaning in one line.
        search: the range in which a search looks; None: not searched. The scale is logarithmic in
            the value, or in its distance from 1 where 1 is the interval's open end.
        off: the value that takes its term out of the rule altogether, if there is one.
        integer: whether only whole numbers are valid.
    """

    default: float | tuple[float, ...]
    interval: str
    help: str
    search: tuple[float, float] | None = None
    off: float | None = None
    integer: bool = False

    @cached_property
    def _bounds(self) -> tuple[float, bool, float, bool]:
        match = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", self.interval)
        if match is None:
            raise ValueError(f"not an interval: {self.interval!r}; write it as '[0, 1)'")
        opening, low, high, closing = match.groups()
        return float(low), opening == "(", float(high), closing == ")"

    def checked(self, name: str, value: object) -> float | tuple[float, ...]:
        """`value`, if it is valid.

        Raises:
            UsageError: it is not; the message names the argument, the value and the range.
        """
        if isinstance(self.default, tuple):
            try:
                values = tuple(_number(v) for v in value)  # pyright: ignore
            except TypeError:
                values = (math.nan,)
            if not values or not all(map(self._valid, values)):
                raise UsageError(
                    f"{name} is {value!r}, but must be a non-empty sequence of numbers, each in "
                    f"{self.interval} ({self.help})."
                )
            return values
        number = _number(value)
        if not self._valid(number):
            kind = "a whole number" if self.integer else "a number"
            raise UsageError(
                f"{name} is {value!r}, but must be {kind} in {self.interval} ({self.help}). "
                f"The default is {self.default:g}."
            )
        return number

    def _valid(self, value: float) -> bool:
        low, low_open, high, high_open = self._bounds
        return (
            (low < value if low_open else low <= value)
            and (value < high if high_open else value <= high)
            and (not self.integer or value == int(value))
        )


def _number(value: object) -> float:
    """The number that `value` is; NaN, which no interval holds, if it is none."""
    try:
        return math.nan if isinstance(value, str) else float(value)  # pyright: ignore
    except (TypeError, ValueError, RuntimeError):
        return math.nan


@dataclass(frozen=True)
class Flag:
    """A choice that is made once, when the rule is traced, and so costs nothing in a step.

    Attributes:
        default: what is chosen unless something else is said: the paper's way.
        help: what the choice changes.
        choices: what may be chosen.
    """

    default: bool | str
    help: str
    choices: tuple[bool | str, ...] = (False, True)

    def checked(self, name: str, value: object) -> bool | str:
        """`value`, if it is one of the choices, else a `UsageError` that lists them."""
        for choice in self.choices:
            if value is choice or (isinstance(choice, str) and value == choice):
                return choice
        allowed = " or ".join(map(repr, self.choices))
        raise UsageError(f"{name} is {value!r}, but must be {allowed} ({self.help}).")


@dataclass(frozen=True)
class State:
    """A part of a rule's state.

    Attributes:
        name: the symbol it has in the rule, or `name_i` for the i-th of several.
        init: the value it starts with: a number or the name of a hyperparameter.
        scalar: one number per parameter instead of one per element; it is kept in float64.
        each: the name of a hyperparameter that is a tuple, if there is one state for each entry.
    """

    name: str = ""
    init: float | str = 0.0
    scalar: bool = False
    each: str | None = None


# These three are written as defaults in a rule's signature, so they are typed as whatever the
# parameter they stand for is.
def hyper(
    default: float | tuple[float, ...],
    interval: str,
    help: str,
    *,
    search: tuple[float, float] | None = None,
    off: float | None = None,
    integer: bool = False,
) -> Any:
    """Declare a hyperparameter; see `Hyper`."""
    return Hyper(default, interval, help, search, off, integer)


def flag(default: bool | str, help: str, *choices: str) -> Any:
    """Declare an option; see `Flag`."""
    return Flag(default, help, choices or (False, True))


def state(*, init: float | str = 0.0, scalar: bool = False, each: str | None = None) -> Any:
    """Declare a state that is not simply an array of zeros; see `State`."""
    return State("", init, scalar, each)


@dataclass(frozen=True)
class GradientAt:
    """Returned last by a rule whose gradient is taken elsewhere than at `theta`: that point."""

    point: Expr


@dataclass(frozen=True)
class Link:
    """One function of a chain, with what its signature declares."""

    name: str
    title: str
    paper: str
    doc: str
    function: Callable[..., Any]
    incoming: str
    states: tuple[State, ...]
    hypers: Mapping[str, Hyper]
    flags: Mapping[str, Flag]
    conventions: Mapping[str, Mapping[str, Setting]]
    is_stage: bool
    uses: frozenset[str]

    def __reduce__(self) -> Any:
        # The function's own name now stands for the rule made of it, so pickle cannot find it.
        where = (self.function.__module__, self.function.__qualname__)
        try:
            named = where[0] != "__main__" and _link_named(*where) is self
        except (ImportError, AttributeError):
            named = False
        # What has no name that another process could find goes there whole, if the pickler can.
        values = tuple(getattr(self, f.name) for f in fields(self))
        return (_link_named, where) if named else (Link, values)


def _link_named(module: str, name: str) -> Link:
    return getattr(import_module(module), name).links[0]


def linked(
    function: Callable[..., Any],
    title: str,
    paper: str,
    conventions: Mapping[str, Mapping[str, Setting]],
    *,
    is_stage: bool,
) -> Link:
    """What a function declares by its signature; see `thalweg.rules.rule`."""
    incoming, *others = inspect.signature(function).parameters.values()
    states: list[State] = []
    hypers: dict[str, Hyper] = {}
    flags: dict[str, Flag] = {}
    uses: set[str] = set()
    for p in others:
        match p.default:
            case Hyper():
                hypers[p.name] = p.default
            case Flag():
                flags[p.name] = p.default
            case State():
                states.append(replace(p.default, name=p.name))
            case _ if p.name in ("theta", "t", "norm") or (p.name == "lr" and is_stage):
                uses.add(p.name)
            case _ if p.kind is p.POSITIONAL_OR_KEYWORD:
                states.append(State(p.name))
            case _:
                raise TypeError(
                    f"{function.__name__}: declare the keyword parameter {p.name!r} with hyper() "
                    "or flag()"
                )
    doc = inspect.getdoc(function) or ""
    name = function.__name__
    for convention, values in conventions.items():
        if convention not in CONVENTIONS:
            raise unknown("convention", convention, CONVENTIONS)
        for n, v in values.items():
            declared = hypers.get(n) or flags.get(n)
            if declared is None:
                raise unknown(f"setting of {name}", n, (*hypers, *flags))
            declared.checked(n, v)
    return Link(
        name,
        title,
        paper,
        doc,
        function,
        incoming.name,
        tuple(states),
        hypers,
        flags,
        conventions,
        is_stage,
        frozenset(uses),
    )
