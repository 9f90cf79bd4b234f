"""A rule's graph, made ready to run over many tensors.

What depends on scalars alone is taken out of the elementwise part and computed once per step, on
the host, in float64. What is left is rewritten so that scalar factors meet and fold into one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from thalweg.rules.declaration import State
from thalweg.rules.tracing import Trace
from thalweg.rules.vocabulary import Expr, const, node, normal, symbol, walk

__all__ = ["Program", "program", "python"]


@dataclass(frozen=True, eq=False)
class Program:
    """What a backend runs.

    Attributes:
        states: the states that are kept, in the order of `outputs`.
        scalars: the host's part: from every scalar symbol's number (`t`, hyperparameters, scalar
            states) to the numbers of the symbols `k0`, `k1`, ... and the new scalar states.
        count: how many numbers those are.
        outputs: the elementwise part, by name: `theta`'s and the states' new values, as graphs
            over the symbols `g`, `theta`, the states and `k0`, `k1`, ...
        at: the point at which the gradient is taken, as such a graph, if not at `theta`.
        constants: which of the numbers the rule itself gives, such as Adamax's infinity.
    """

    states: tuple[State, ...]
    scalars: Callable[[Mapping[str, float]], tuple[Sequence[float], dict[str, float]]]
    count: int
    outputs: Mapping[str, Expr]
    at: Expr | None
    constants: frozenset[int] = frozenset()


@lru_cache(maxsize=1024)
def program(trace: Trace) -> Program:
    """The program of a traced rule."""
    theta = symbol("theta", element=True)
    element = {"theta": theta - trace.step}
    element |= {n: e for n, e in trace.states.items() if not trace.declared[n].scalar}
    if trace.gradient_at is not None:
        element["at"] = trace.gradient_at
    simple = _rewritten(element, _canonical)
    hoisted: dict[Expr, Expr] = {}

    def hoist(op: str, args: tuple[Expr, ...]) -> Expr:
        if op == "normal" or any(a.element for a in args):
            args = tuple(
                a if a.element else hoisted.setdefault(a, symbol(f"k{len(hoisted)}", element=False))
                for a in args
            )
        return normal(*args) if op == "normal" else node(op, *args)

    outputs = _rewritten(simple, hoist)
    at = outputs.pop("at", None)
    new_scalars = {n: e for n, e in trace.states.items() if trace.declared[n].scalar}
    return Program(
        states=tuple(trace.declared[n] for n in trace.states),
        scalars=_host(list(hoisted), new_scalars),
        count=len(hoisted),
        outputs=outputs,
        at=at,
        constants=frozenset(k for k, e in enumerate(hoisted) if e.op == "const"),
    )


def _rewritten(
    outputs: Mapping[str, Expr], rewrite: Callable[[str, tuple[Expr, ...]], Expr]
) -> dict[str, Expr]:
    """The graphs, each node rebuilt by `rewrite` from its rebuilt operands."""
    new: dict[Expr, Expr] = {}
    for expr in walk(*outputs.values()):
        operands = expr.operands
        new[expr] = rewrite(expr.op, tuple(new[a] for a in operands)) if operands else expr
    return {name: new[expr] for name, expr in outputs.items()}


def _scaled(expr: Expr) -> tuple[Expr | None, Expr]:
    """`(s, x)` of a canonical product `s * x` of a scalar and an element, else `(None, expr)`."""
    if expr.op == "mul" and expr.element:
        s, x = expr.operands
        if not s.element:
            return s, x
    return None, expr


def _without(expr: Expr, x: Expr) -> tuple[Expr, Expr] | None:
    """`(k, y)` if the expression is the sum `y + k x`."""
    if expr.op == "add":
        for term, y in (expr.operands, expr.operands[::-1]):
            k, z = _scaled(term)
            if z is x and k is not None:
                return k, y
    return None


def _canonical(op: str, args: tuple[Expr, ...]) -> Expr:
    """The same value with at most one scalar factor, in front."""
    if op == "normal":
        return normal(*args)
    if not any(a.element for a in args):
        return node(op, *args)
    a, b = args[0], args[-1]
    match op:
        case "neg":
            return _canonical("mul", (const(-1), a))
        case "pow" if b.constant == 2:
            return _canonical("mul", (a, a))
        case "div" if not b.element:
            return _canonical("mul", (1 / b, a))
        case "sub" if (rest := _without(b, a)) is not None:
            # Weight decay: (1 - k) theta - step, as every library has it, and one operation less.
            k, others = rest
            return _canonical("sub", ((1 - k) * a, others))
        case "sub" if (factor := _scaled(b))[0] is not None:
            return a + (-factor[0]) * factor[1]
        case "mul" | "div":
            if op == "mul" and not b.element:
                a, b = b, a
            s, x = _scaled(a) if a.element else (a, const(1))
            r, y = _scaled(b)
            factor = const(1) if s is None else s
            if r is not None:
                factor = factor * r if op == "mul" else factor / r
            return factor * node(op, x, y)
        case _:
            return node(op, *args)


_PYTHON: Mapping[str, str] = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "pow": "{} ** {}",
    "neg": "-{}",
    "abs": "abs({})",
    "gt": "{} > {}",
    "sqrt": "sqrt({})",
    # As in NumPy, NaN stays NaN; Python's own max and min depend on the order.
    "sign": "{0} if ({0} == 0) | ({0} != {0}) else copysign(one, {0})",
    "maximum": "{0} if ({0} >= {1}) | ({0} != {0}) else {1}",
    "minimum": "{0} if ({0} <= {1}) | ({0} != {0}) else {1}",
    "where": "{1} if {0} else {2}",
}


# Where NumPy has infinity or NaN, Python's own numbers raise.
_HOST = {**_PYTHON, "div": "divide({}, {})", "pow": "power({}, {})"}


def _divide(x: float, y: float) -> float:
    return x / y if y else (math.nan if x == 0 or x != x else math.copysign(math.inf, x))


def _power(x: float, y: float) -> float:
    try:
        return x**y
    except OverflowError:
        return math.inf


def _host(
    values: Sequence[Expr], states: Mapping[str, Expr]
) -> Callable[[Mapping[str, float]], tuple[Sequence[float], dict[str, float]]]:
    """A Python function that computes the values and the new scalar states."""
    values_named = {f"k{i}": e for i, e in enumerate(values)}
    body, results = python({**values_named, **states}, lambda name: f"given[{name!r}]", _HOST)
    numbers = "".join(f"{results[name]}, " for name in values_named)
    news = ", ".join(f"{name!r}: {results[name]}" for name in states)
    lines = ["def host(given):", *body, f"return ({numbers}), {{{news}}}"]
    scope: dict[str, Any] = {
        "sqrt": math.sqrt,
        "copysign": math.copysign,
        "divide": _divide,
        "power": _power,
        "one": 1.0,
    }
    exec("\n    ".join(lines), scope)
    return scope["host"]


def python(
    outputs: Mapping[str, Expr],
    symbol_as: Callable[[str], str],
    templates: Mapping[str, str] = _PYTHON,
) -> tuple[list[str], dict[str, str]]:
    """Python statements that compute the outputs on scalars, and what each output is called.

    They use `sqrt`, `copysign` and the number `one`.
    """
    names: dict[Expr, str] = {}
    lines: list[str] = []
    for expr in walk(*outputs.values()):
        match expr.op:
            case "const":
                names[expr] = f"float('{expr.constant!r}')"
            case "symbol":
                names[expr] = symbol_as(expr.name)
            case _:
                names[expr] = f"x{len(lines)}"
                source = templates[expr.op].format(*(names[a] for a in expr.operands))
                lines.append(f"{names[expr]} = {source}")
    return lines, {name: names[expr] for name, expr in outputs.items()}
