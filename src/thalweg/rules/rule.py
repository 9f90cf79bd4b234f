"""What a rule is: a pure function of symbols, and the meaning of its hyperparameters.

A rule's signature is its whole declaration. The first parameter is what comes in (for an optimizer
the gradient); `theta` is the parameter being trained; the other positional ones are its state, one
array of the parameter's shape each and zero at first unless a `state()` says otherwise. Keyword
parameters are `t` (the number of this step, from 1), hyperparameters declared with `hyper()` and
options declared with `flag()`. The function returns the step to subtract from `theta`, then the new
state in the order of its signature.

A stage is declared the same way; it changes what comes in and passes it on, and may use the `lr` of
the rule it stands beside. `chain` puts stages
before and after a rule, in the order in which they act.
"""

import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib import import_module
from types import FrameType
from typing import Any, TypeAlias, cast

from thalweg.errors import UsageError, unknown
from thalweg.rules.vocabulary import Expr, const, symbol, walk

__all__ = [
    "CONVENTIONS",
    "Flag",
    "GradientAt",
    "Hyper",
    "Link",
    "LinkTrace",
    "Rule",
    "Setting",
    "Settings",
    "State",
    "Trace",
    "chain",
    "flag",
    "hyper",
    "rule",
    "stage",
    "state",
]

Setting: TypeAlias = "float | bool | str | tuple[float, ...]"
"""A value of a hyperparameter (a number or a tuple of them) or of a flag (a bool or a word)."""

CONVENTIONS = ("paper", "torch", "keras")
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
        return _link_named, (self.function.__module__, self.function.__qualname__)


def _link_named(module: str, name: str) -> Link:
    return getattr(import_module(module), name).links[0]


@dataclass(frozen=True)
class LinkTrace:
    """What one link did: its variables as it named them, what came in and what went out."""

    link: Link
    incoming: Expr
    variables: Mapping[str, Expr | tuple[Expr, ...]]
    outgoing: Expr
    gradient_at: Expr | None


@dataclass(frozen=True, eq=False)
class Trace:
    """A rule, recorded: every output as a graph over symbols.

    A state that no step ever depends on, such as the velocity of RMSprop without momentum, is
    left out.

    Attributes:
        links: the same, link by link, for printing.
        step: what is subtracted from `theta`.
        states: the new value of each state, by the name of its symbol.
        declared: how each of those states is kept and what it starts with.
        gradient_at: where the gradient is to be taken, if not at `theta`.
    """

    links: tuple[LinkTrace, ...]
    step: Expr
    states: Mapping[str, Expr]
    declared: Mapping[str, State]
    gradient_at: Expr | None


@dataclass(frozen=True)
class Settings:
    """Every value a rule runs with: hyperparameters, which may change from step to step, and flags.

    Attributes:
        hypers: numbers and tuples of numbers, by name.
        flags: the choices, by name.
    """

    hypers: Mapping[str, float | tuple[float, ...]]
    flags: Mapping[str, bool | str]


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer, or a stage of one, as a pure function that every backend derives from.

    Calling a rule gives the same rule with other defaults: `adam(beta2=0.99)`.

    Attributes:
        name: the name it is called by, such as `"adam"`.
        title: the name it is written with, such as `"Adam"`; also its class's.
        paper: where it comes from: authors, year, identifier, equation or algorithm.
        doc: what it does, in a sentence or two.
        links: the functions it is made of, in the order in which they act.
        given: settings fixed by a call; they stand whatever the convention.
        conventions: settings of the whole chain by convention, after those of its links.
    """

    name: str
    title: str
    paper: str
    doc: str
    links: tuple[Link, ...]
    given: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    conventions: Mapping[str, Mapping[str, Setting]] = field(
        default_factory=dict[str, Mapping[str, Setting]]
    )

    def __repr__(self) -> str:
        links = f"({', '.join(link.name for link in self.links)})" if self.name == "chain" else ""
        given = ", ".join(f"{k}={v!r}" for k, v in self.given.items())
        return f"{self.name}{links}" + (f"({given})" if given or not links else "")

    def __deepcopy__(self, memo: object) -> "Rule":
        # It never changes, and what has been compiled for it is found by its identity.
        return self

    @property
    def is_stage(self) -> bool:
        """Whether this only changes a gradient or a step and needs a rule beside it."""
        return all(link.is_stage for link in self.links)

    @cached_property
    def _qualified(self) -> tuple[Mapping[str, str], ...]:
        """For each link, its own names of settings to the chain's.

        The rule's names stay as they are. A stage's do too if no other link has the name, else
        they are preceded by the stage's: `noise_gamma` beside momentum's `gamma`.
        """
        owners: dict[str, list[str]] = {}
        for link in self.links:
            for name in (*link.hypers, *link.flags):
                owners.setdefault(name, []).append(link.name)
        return tuple(
            {
                n: f"{link.name}_{n}" if link.is_stage and len(owners[n]) > 1 else n
                for n in (*link.hypers, *link.flags)
            }
            for link in self.links
        )

    @cached_property
    def hypers(self) -> Mapping[str, Hyper]:
        """Every hyperparameter by name, with this rule's own defaults."""
        found = {
            names[n]: h
            for link, names in zip(self.links, self._qualified, strict=True)
            for n, h in link.hypers.items()
        }
        for name, value in self.given.items():
            if name in found:
                found[name] = replace(found[name], default=value)
        return found

    @cached_property
    def flags(self) -> Mapping[str, Flag]:
        """Every option by name, with this rule's own defaults."""
        found = {
            names[n]: f
            for link, names in zip(self.links, self._qualified, strict=True)
            for n, f in link.flags.items()
        }
        for name, value in self.given.items():
            if name in found:
                found[name] = replace(found[name], default=value)
        return found

    def __call__(self, *values: Setting, **given: Setting) -> "Rule":
        """This rule with other defaults, by name, or in the order of `hypers`.

        Raises:
            UsageError: no setting has that name, or the value is out of range.
        """
        if len(values) > len(self.hypers):
            raise UsageError(
                f"{self.name} takes at most {len(self.hypers)} values "
                f"({', '.join(self.hypers)}), got {len(values)}."
            )
        given = {**dict(zip(self.hypers, values, strict=False)), **given}
        return replace(self, given={**self.given, **self._checked(given)})

    def _checked(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        checked: dict[str, Setting] = {}
        for name, value in given.items():
            declared = self.hypers.get(name) or self.flags.get(name)
            if declared is None:
                raise unknown(f"setting of {self.name}", name, (*self.hypers, *self.flags))
            checked[name] = declared.checked(name, value)
        return checked

    def named(
        self,
        name: str,
        title: str,
        *,
        paper: str,
        doc: str,
        conventions: Mapping[str, Mapping[str, Setting]],
    ) -> "Rule":
        """This chain as an optimizer of its own, under a name of its own."""
        return replace(self, name=name, title=title, paper=paper, doc=doc, conventions=conventions)

    def by_convention(self, convention: str) -> dict[str, Setting]:
        """What a convention sets differently from the paper."""
        if convention not in CONVENTIONS:
            raise unknown("convention", convention, CONVENTIONS)
        found: dict[str, Setting] = {}
        for link, names in zip(self.links, self._qualified, strict=True):
            found |= {names[n]: v for n, v in link.conventions.get(convention, {}).items()}
        return found | dict(self.conventions.get(convention, {}))

    def settings(self, convention: str = "paper", /, **given: Setting) -> Settings:
        """Every value to run with: what is given, else the convention's, else the default.

        Raises:
            UsageError: an unknown name or convention, or a value out of range.
        """
        defaults = {name: h.default for name, h in (*self.hypers.items(), *self.flags.items())}
        chosen = defaults | self.by_convention(convention) | dict(self.given) | self._checked(given)
        return Settings(
            hypers={name: _as_hyper(chosen[name]) for name in self.hypers},
            flags={name: _as_flag(chosen[name]) for name in self.flags},
        )

    def trace(self, settings: Settings) -> Trace:
        """The rule's graph under these settings; equal choices give the same object."""
        shape = tuple(
            (name, len(value) if isinstance(value, tuple) else value == self.hypers[name].off)
            for name, value in settings.hypers.items()
        )
        return _trace(self, tuple(settings.flags.items()), shape)

    def step(
        self,
        params: Any,
        grads: Any,
        state: Any = None,
        *,
        convention: str = "paper",
        **given: Setting,
    ) -> tuple[Any, Any]:
        """Take one step on NumPy arrays; see `thalweg.rules.reference.step`."""
        from thalweg.rules import reference

        return reference.step(self, params, grads, state, self.settings(convention, **given))


def _as_hyper(value: Setting) -> float | tuple[float, ...]:
    return value if isinstance(value, tuple) else float(value)


def _as_flag(value: Setting) -> bool | str:
    assert isinstance(value, bool | str)
    return value


@lru_cache(maxsize=1024)
def _trace(
    rule: Rule, flags: tuple[tuple[str, bool | str], ...], shape: tuple[tuple[str, int], ...]
) -> Trace:
    chosen, shapes = dict(flags), dict(shape)
    flowing = symbol("g", element=True)
    links: list[LinkTrace] = []
    states: dict[str, Expr] = {}
    declared: dict[str, State] = {}
    for link, names in zip(rule.links, rule._qualified, strict=True):  # pyright: ignore
        arguments: dict[str, Any] = {
            n: _hyper_symbol(names[n], h, shapes[names[n]]) for n, h in link.hypers.items()
        }
        arguments |= {n: chosen[names[n]] for n in link.flags}
        arguments |= {n: symbol(n, element=n == "theta") for n in link.uses}
        olds: list[list[State]] = []
        for s in link.states:
            own = [replace(s, init=names.get(s.init, s.init))] if isinstance(s.init, str) else [s]
            if s.each is not None:
                count = shapes[names[s.each]]
                own = [replace(s, name=f"{s.name}_{i + 1}") for i in range(count)]
            symbols = tuple(symbol(o.name, element=not o.scalar) for o in own)
            arguments[s.name] = symbols if s.each is not None else symbols[0]
            declared |= {o.name: o for o in own}
            olds.append(own)
        result: Any
        result, variables = _call(link.function, {link.incoming: flowing, **arguments})
        returned = cast("list[Any]", [*result] if isinstance(result, tuple) else [result])
        outgoing: Expr = returned[0]
        news = returned[1:]
        point: Expr | None = None
        if news and isinstance(news[-1], GradientAt):
            point = news.pop().point
        if len(news) != len(olds):
            raise TypeError(
                f"{link.name} returned {len(news)} new states, but its signature declares "
                f"{len(olds)} ({', '.join(s.name for s in link.states)})"
            )
        for own, new in zip(olds, news, strict=True):
            values = cast("tuple[Expr, ...]", new if isinstance(new, tuple) else (new,))
            states |= {o.name: value for o, value in zip(own, values, strict=True)}
            if not own[0].scalar and not all(value.element for value in values):
                raise TypeError(
                    f"{link.name} returned one number as its new state {own[0].name}, which has "
                    "one per element: declare it with state(scalar=True)"
                )
        changed = {
            n: v
            for n, v in variables.items()
            if v is not arguments.get(n) and n != link.incoming and _is_graph(v)
        }
        links.append(LinkTrace(link, flowing, changed, outgoing, point))
        flowing = outgoing
    point = next((link.gradient_at for link in links if link.gradient_at is not None), None)
    live = _live(states, flowing, *([] if point is None else [point]))
    return Trace(
        tuple(links),
        flowing,
        {name: new for name, new in states.items() if name in live},
        {name: s for name, s in declared.items() if name in live},
        point,
    )


def _live(states: Mapping[str, Expr], *roots: Expr) -> set[str]:
    """The states that what is computed from the roots depends on, now or in a later step."""
    live: set[str] = set()
    pending = list(roots)
    while pending:
        read = {e.name for e in walk(pending.pop()) if e.op == "symbol"}
        pending += [states[name] for name in read & states.keys() - live]
        live |= read & states.keys()
    return live


def _is_graph(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(v, Expr) for v in value)  # pyright: ignore
    return isinstance(value, Expr)


def _hyper_symbol(name: str, declared: Hyper, shape: int) -> Expr | tuple[Expr, ...]:
    if isinstance(declared.default, tuple):
        return tuple(symbol(f"{name}_{i + 1}", element=False) for i in range(shape))
    if shape:
        assert declared.off is not None
        return const(declared.off)
    return symbol(name, element=False)


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the function returns, and its local variables as they were then.

    The names a rule gives to its intermediate values are those of its paper, so the printed
    formula uses them.
    """
    variables: dict[str, Any] = {}

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "return" and frame.f_code is function.__code__:
            variables.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function(**arguments)
    finally:
        if before is None or callable(before):
            sys.setprofile(before)
        else:
            # cProfile's profiler, which is no function, turns itself on again.
            before.enable()
    return result, variables


def _declared(
    function: Callable[..., Any],
    title: str,
    paper: str,
    conventions: Mapping[str, Mapping[str, Setting]],
    *,
    is_stage: bool,
) -> Rule:
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
            case _ if p.name in ("theta", "t") or (p.name == "lr" and is_stage):
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
    link = Link(
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
    return Rule(name, title, paper, doc, (link,))


def rule(
    title: str, *, paper: str, **conventions: Mapping[str, Setting]
) -> Callable[[Callable[..., Any]], Rule]:
    """Make a rule of a function; see this module's docstring for how the function is read.

    Args:
        title: the name as the field writes it; the torch class is called so.
        paper: authors, year, identifier, equation or algorithm number.
        conventions: for each convention the settings in which it differs from the paper.
    """
    return lambda function: _declared(function, title, paper, conventions, is_stage=False)


def stage(title: str, *, paper: str) -> Callable[[Callable[..., Any]], Rule]:
    """Make a stage of a function: what comes in, changed, goes to the next link of a chain."""
    return lambda function: _declared(function, title, paper, {}, is_stage=True)


def chain(*rules: Rule) -> Rule:
    """Stages around a rule, in the order in which they act on the gradient and then on the step.

    `chain(l2(1e-4), adam())` adds the decay to the gradient, `chain(adam(), decay(1e-2))` to the
    step.

    Raises:
        UsageError: there is not exactly one rule among the stages, or a stage stands there twice.
    """
    names = [r.name for r in rules]
    optimizers = [r.name for r in rules if not r.is_stage]
    if len(optimizers) != 1:
        raise UsageError(
            f"chain({', '.join(names)}) has {len(optimizers)} rules among its stages, but must "
            "have exactly one, such as chain(l2(1e-4), adam())."
        )
    links = tuple(link for r in rules for link in r.links)
    rule_of_chain = next(r for r in rules if not r.is_stage)
    if "lr" not in rule_of_chain.hypers and any("lr" in link.uses for link in links):
        raise UsageError(
            f"chain({', '.join(names)}) has a stage that is scaled by the learning rate, but "
            f"{rule_of_chain.name} has no lr."
        )
    repeated = {a.name for a in links if sum(a.name == b.name for b in links) > 1}
    if repeated:
        raise UsageError(f"{', '.join(sorted(repeated))} stands more than once in a chain.")
    chained = Rule(
        name="chain",
        title=" + ".join(r.title for r in rules),
        paper="; ".join(dict.fromkeys(r.paper for r in rules if r.paper)),
        doc="",
        links=links,
    )
    qualified = {
        link.name: names
        for link, names in zip(links, chained._qualified, strict=True)  # pyright: ignore
    }
    given: dict[str, Setting] = {}
    conventions: dict[str, dict[str, Setting]] = {}
    for r in rules:
        inverse = {
            old: qualified[link.name][own]
            for link, names in zip(r.links, r._qualified, strict=True)  # pyright: ignore
            for own, old in names.items()
        }
        given |= {inverse[n]: v for n, v in r.given.items()}
        for convention, values in r.conventions.items():
            conventions.setdefault(convention, {}).update(
                {inverse[n]: v for n, v in values.items()}
            )
    return replace(chained, given=given, conventions=conventions)
