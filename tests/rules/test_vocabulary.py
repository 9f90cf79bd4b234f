"""The graph a rule is recorded as."""

import gc
import sys
import threading

import numpy as np
import pytest

from thalweg.rules.reference import MEANING, evaluate
from thalweg.rules.vocabulary import (
    Expr,
    const,
    maximum,
    minimum,
    node,
    normal,
    sign,
    sqrt,
    symbol,
    walk,
    where,
)

x, y = symbol("x", element=True), symbol("y", element=True)
s = symbol("s", element=False)

X, Y, S = np.array([1.5, -2.0, 0.0]), np.array([2.0, 0.5, -3.0]), 0.25

MEANINGS = {
    "add": (x + y, [3.5, -1.5, -3.0]),
    "add a number": (1 + x + 1, [3.5, 0.0, 2.0]),
    "sub": (x - y, [-0.5, -2.5, 3.0]),
    "sub from a number": (1 - x, [-0.5, 3.0, 1.0]),
    "mul": (x * y, [3.0, -1.0, 0.0]),
    "mul by a number": (2 * x * 3, [9.0, -12.0, 0.0]),
    "div": (x / y, [0.75, -4.0, 0.0]),
    "div a number": (1 / y, [0.5, 2.0, -1 / 3]),
    "pow": (x**2, [2.25, 4.0, 0.0]),
    "pow of a number": (2**x, [2**1.5, 0.25, 1.0]),
    "neg": (-x, [-1.5, 2.0, 0.0]),
    "abs": (abs(x), [1.5, 2.0, 0.0]),
    "sqrt": (sqrt(x * x), [1.5, 2.0, 0.0]),
    "sign": (sign(x), [1.0, -1.0, 0.0]),
    "maximum": (maximum(x, y), [2.0, 0.5, 0.0]),
    "minimum": (minimum(x, y), [1.5, -2.0, -3.0]),
    "where greater": (where(x > y, 1, 2), [2, 2, 1]),
    "where less": (where(x < y, 1, 2), [1, 1, 2]),
    "scalar": (s * s + x * 0, S * S),
}


@pytest.mark.parametrize(("expr", "expected"), MEANINGS.values(), ids=MEANINGS)
def test_meaning(expr: Expr, expected: object) -> None:
    found = evaluate({"out": expr}, {"x": X, "y": Y, "s": S})["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_every_operation_has_its_meaning_tested() -> None:
    tested = {e.op for expr, _ in MEANINGS.values() for e in walk(expr)}
    assert set(MEANING) == tested - {"symbol", "const"}


def test_nan_is_not_lost_in_maximum_and_minimum() -> None:
    outputs = {"a": maximum(x, 0), "b": minimum(0, x)}
    found = evaluate(outputs, {"x": np.array([np.nan])})
    assert np.isnan(found["a"])
    assert np.isnan(found["b"])


def test_equal_expressions_are_one_object() -> None:
    assert (x + 1) * y is (x + 1) * y
    assert x + y is not y + x
    assert symbol("x", element=True) is x
    assert symbol("x", element=False) is not x
    assert normal(1, s) is normal(1, s)


def test_expressions_nobody_holds_are_forgotten() -> None:
    from thalweg.rules.vocabulary import _pool

    gc.collect()
    before = len(_pool)
    held = x * 123.5 + 678.25
    assert len(_pool) == before + 4
    del held
    gc.collect()
    assert len(_pool) == before


def test_what_is_made_of_scalars_is_a_scalar() -> None:
    assert not (1 - s**2).element
    assert (s * x).element
    assert where(s > 1, x, s).element
    assert normal(0, s).element


FOLDED = {
    "0 + x": (0 + x, x),
    "x + 0": (x + 0, x),
    "x - 0": (x - 0, x),
    "0 x": (0 * x, const(0)),
    "x 0": (x * 0, const(0)),
    "1 x": (1 * x, x),
    "x 1": (x * 1, x),
    "x / 1": (x / 1, x),
    "x ** 1": (x**1, x),
    "0 / x": (0 / x, const(0)),
    "3 - 1": (const(3) - 1, const(2)),
    "where equal": (where(x > y, s, s), s),
}


@pytest.mark.parametrize(("expr", "expected"), FOLDED.values(), ids=FOLDED)
def test_0_and_1_cost_nothing(expr: Expr, expected: Expr) -> None:
    assert expr is expected


@pytest.mark.parametrize("expr", [0 - x, x - 1, 1 / x, 1 + x, x**2, 1**x, const(1) / s], ids=repr)
def test_what_0_and_1_do_not_decide_is_kept(expr: Expr) -> None:
    assert expr.operands


def test_a_value_cannot_be_branched_on() -> None:
    with pytest.raises(TypeError, match="flag"):
        bool(x > 0)
    with pytest.raises(TypeError, match="flag"):
        max(x, y)


@pytest.mark.parametrize(
    "mistake",
    [lambda: np.ones(2) * x, lambda: x + None, lambda: x + "a", lambda: x @ y, lambda: x >= y],
)
def test_nothing_but_numbers_and_expressions_may_stand_in_one(mistake) -> None:
    with pytest.raises((TypeError, ValueError)):
        mistake()


MISUSED = {
    "factor": lambda c: c * x,
    "term": lambda c: 1 - c,
    "numerator": lambda c: c / x,
    "exponent": lambda c: x**c,
    "negated": lambda c: -c,
    "of a function": lambda c: sqrt(c),
    "compared": lambda c: c > 0,
    "a maximum's": lambda c: maximum(0, c),
    "chosen": lambda c: where(c, c, 0),
    "chosen else": lambda c: where(c, 0, c),
}


@pytest.mark.parametrize("condition", [x > y, x < 1, s > 0], ids=repr)
@pytest.mark.parametrize("misused", MISUSED.values(), ids=MISUSED)
def test_a_comparison_is_nothing_but_a_condition(misused, condition: Expr) -> None:
    with pytest.raises(TypeError, match="a comparison is a condition, not a number"):
        misused(condition)


@pytest.mark.parametrize("value", [x, s, 1, x + y, where(x > y, 1, 0)], ids=repr)
def test_a_condition_is_nothing_but_a_comparison(value) -> None:
    with pytest.raises(TypeError, match="whose first argument must be one"):
        where(value, x, y)


def test_walk_gives_each_node_once_and_operands_first() -> None:
    a = x + y
    b = a * a - sqrt(a)
    order = list(walk(b, a))
    assert len(order) == len(set(order)) == 6
    for e in order:
        assert all(order.index(o) < order.index(e) for o in e.operands)


def test_a_rebuilt_node_is_the_same() -> None:
    e = maximum(x, 2)
    assert node(e.op, *e.operands) is e


def test_a_long_graph_does_not_overflow_the_stack() -> None:
    e = x
    for _ in range(5000):
        e = e + y
    assert sum(1 for _ in walk(e)) == 5002


def test_repr() -> None:
    assert repr(sqrt(x + 2)) == "sqrt(add(x, 2.0))"


def test_threads_that_ask_for_the_same_expression_at_once_get_one() -> None:
    count, expressions = 8, 2000
    alike = threading.Barrier(count)
    found: list[list[Expr]] = [[] for _ in range(count)]

    def ask(mine: list[Expr]) -> None:
        x = symbol("x", element=True)
        alike.wait(60)
        mine += [x + (0.5 + i) for i in range(expressions)]

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(mine,)) for mine in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert all(len({id(e) for e in same}) == 1 for same in zip(*found, strict=True))
