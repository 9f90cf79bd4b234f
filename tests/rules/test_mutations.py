"""The worked steps are sharp: break any one thing in a rule's graph, and they see it.

Every operand that is a number or a hyperparameter is broken in turn, every operation is exchanged
for its counterpart, and any two states are mixed up. A mutant that no row with the same graph
catches would be a hole in the case table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import pytest

from cases import CASES, Case
from thalweg.rules import reference
from thalweg.rules.tracing import Trace
from thalweg.rules.vocabulary import Expr, const, node, normal, symbol, walk

Change = Callable[[Expr, tuple[Expr, ...]], Expr]

COUNTERPART = {
    "add": "sub",
    "sub": "add",
    "mul": "div",
    "div": "mul",
    "pow": "mul",
    "maximum": "minimum",
    "minimum": "maximum",
}

# Mutants that are the same rule after all.
EQUIVALENT = {
    # The sign of RMSprop's mean of gradients, which enters only as its square.
    "operation of add(mul(rho, mean), mul(sub(1.0, rho), g))",
    # A learning rate that is a little larger is above 0 where it was.
    "operand 0 of gt(lr, 0.0)",
}


@dataclass(frozen=True)
class Mutant:
    """What the reference needs of a rule, with a graph of our own."""

    broken: Trace
    name: str = "mutant"
    is_stage: bool = False

    def trace(self, settings: object) -> Trace:
        return self.broken


def unchanged(expr: Expr, operands: tuple[Expr, ...]) -> Expr:
    return normal(*operands) if expr.op == "normal" else node(expr.op, *operands)


def rebuilt(trace: Trace, change: Change, leaves: Mapping[Expr, Expr] | None = None) -> Trace:
    """The trace with every operation made anew by `change`."""
    new = dict(leaves or {})
    outputs = {"": trace.step, **trace.states}
    if trace.gradient_at is not None:
        outputs[" at"] = trace.gradient_at
    for expr in walk(*outputs.values()):
        if expr not in new:
            operands = tuple(new[a] for a in expr.operands)
            new[expr] = change(expr, operands) if operands else expr
    made = {name: new[expr] for name, expr in outputs.items()}
    return replace(trace, step=made.pop(""), gradient_at=made.pop(" at", None), states=made)


def broken(parent: Expr, operand: Expr) -> Expr:
    if operand.op == "const":
        return const(1) if operand.constant == inf else 2 * operand + 1
    # Noise is a function of whole numbers.
    return operand + 1 if parent.op == "normal" else 1.01 * operand


def mutants(trace: Trace) -> Iterator[tuple[str, Trace]]:
    """Every mutant of a graph, with what was done to it."""
    at = () if trace.gradient_at is None else (trace.gradient_at,)
    nodes = [e for e in walk(trace.step, *trace.states.values(), *at) if e.operands]
    for parent in nodes:
        for i, operand in enumerate(parent.operands):
            if operand.op == "const" or (operand.op == "symbol" and not operand.element):

                def operand_broken(expr, operands, parent=parent, i=i, operand=operand):
                    if expr is parent:
                        operands = (*operands[:i], broken(parent, operand), *operands[i + 1 :])
                    return unchanged(expr, operands)

                yield f"operand {i} of {parent}", rebuilt(trace, operand_broken)

        def exchanged(expr, operands, parent=parent):
            if expr is not parent:
                return unchanged(expr, operands)
            if expr.op in COUNTERPART:
                return node(COUNTERPART[expr.op], *operands)
            # What is left: a root, a sign or a draw is dropped, a condition turned around.
            if expr.op == "gt":
                return unchanged(expr, operands[::-1])
            return operands[-1]

        yield f"operation of {parent}", rebuilt(trace, exchanged)
    names = list(trace.states)
    for i, a in enumerate(names):
        for b in names[:i]:
            if trace.declared[a].scalar != trace.declared[b].scalar:
                continue
            old = {n: symbol(n, element=not trace.declared[n].scalar) for n in (a, b)}
            yield (
                f"{a} and {b} as they were",
                rebuilt(trace, unchanged, {old[a]: old[b], old[b]: old[a]}),
            )
            news = {a: trace.states[b], b: trace.states[a]}
            yield f"new {a} and {b}", replace(trace, states=trace.states | news)


def agrees(case: Case, trace: Trace) -> bool:
    """Whether a graph takes the row's worked steps."""
    worked = case.worked
    theta, state, settings = np.array(worked.start), None, dict(case.settings)
    points = []
    for g, expected, change in zip(worked.gradients, worked.after, worked.changes, strict=False):
        settings |= change
        chosen = case.rule.settings(case.convention, **settings)

        def gradient(at, g=g):
            points.append(at)
            return np.array(g)

        with np.errstate(all="ignore"):
            theta, state = reference.step(Mutant(trace), theta, gradient, state, chosen)
        if not np.allclose(theta, expected, rtol=1e-12, atol=0):
            return False
    return worked.at is None or np.allclose(points, worked.at, rtol=1e-12, atol=0)


def graphs() -> dict[Trace, list[Case]]:
    """The rows by graph: those that differ in numbers alone stand together."""
    found: dict[Trace, list[Case]] = {}
    for case in CASES:
        settings = case.rule.settings(case.convention, **case.settings)
        found.setdefault(case.rule.trace(settings), []).append(case)
    return found


GRAPHS = graphs()


@pytest.mark.parametrize("trace", GRAPHS, ids=lambda trace: GRAPHS[trace][0].name)
def test_every_mutant_is_caught(trace: Trace) -> None:
    cases = GRAPHS[trace]
    assert all(agrees(case, rebuilt(trace, unchanged)) for case in cases)
    made = dict(mutants(trace))
    survivors = {what for what, mutant in made.items() if all(agrees(c, mutant) for c in cases)}
    assert survivors == EQUIVALENT & made.keys()


def test_there_are_mutants_of_every_kind() -> None:
    kinds = {what.split()[0] for trace in GRAPHS for what, _ in mutants(trace)}
    assert {"operand", "operation", "new"} <= kinds
