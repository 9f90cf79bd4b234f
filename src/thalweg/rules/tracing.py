"""A rule, recorded: called once with symbols, it leaves a graph of what it does to them."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from thalweg.rules.declaration import GradientAt, Hyper, Link, State
from thalweg.rules.vocabulary import Expr, const, symbol, walk

if TYPE_CHECKING:
    from thalweg.rules.rule import Rule

__all__ = ["LinkTrace", "Trace", "traced"]


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


@lru_cache(maxsize=1024)
def traced(
    rule: "Rule", flags: tuple[tuple[str, bool | str], ...], shape: tuple[tuple[str, int], ...]
) -> Trace:
    chosen, shapes = dict(flags), dict(shape)
    flowing = symbol("g", element=True)
    links: list[LinkTrace] = []
    states: dict[str, Expr] = {}
    declared: dict[str, State] = {}
    for link, names in zip(rule.links, rule.qualified, strict=True):
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
