"""The comparison every backend has to stand: steps of a rule against the float64 reference.

Over many steps (`compare`), tolerances are relative to the largest parameter, or to 1. In float64
both sides round some ten operations a step by 1.1e-16 each, so 1e-12 leaves room for 50 steps and
for what hyperparameters near 1 magnify, and none for a wrong term. In float32 every operation
rounds by up to 6e-8, while the reference starts from the same float32 numbers and rounds next to
nothing: 2e-6 is 33 roundings. States, which nothing else keeps near 1, may lose a digit more of
their own largest element.

For one step (`compare_each_step`) the float32 result of each element is within 2 units of its last
place (2 * 2^-23) of what float64 makes of the very same float32 numbers, relative to the element's
natural scale: the sum, over the numbers that it is computed from, of how far it moves if one of
them changes by its whole size. For `a + b` that is |a| + |b|, for `a * b` twice |a * b|, and for
`E - mean^2`, in which digits cancel, E + 2 mean^2: relative to the difference itself no float32
arithmetic can have a bound, for its operands have been rounded already.

That 2 is enough is counted, not measured. Each operation rounds once, by half a unit of its own
result, as does each of the host's numbers when it becomes float32; what that does to an output is
followed through the rule's program, element by element and at its worst, by `bounds`. The count is
asserted to stay within 2 units (of the rules there are, AggMo with four velocities comes to most,
1.6), and the backend to stay within the count. Nothing else may be wrong by even one rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import CASES, Case
from thalweg.backends import eager
from thalweg.backends.program import Program, program
from thalweg.rules import Rule, hyper, rule, state
from thalweg.rules.reference import MEANING, evaluate, inputs
from thalweg.rules.vocabulary import Expr, maximum, minimum, sign, sqrt, symbol, walk, where

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
UNITS = 2
"""Units in the last place by which one step in float32 may differ, relative to its scale."""
UNITS_64 = 16
"""The same in float64, where the reference rounds too, and puts scalars together otherwise."""

Lay = Callable[[Tensor], Tensor]


def _alike(lay: Lay) -> tuple[Lay, Lay]:
    return lay, lay


def _whole(x: Tensor) -> Tensor:
    return x.clone()


def _channels_last(x: Tensor) -> Tensor:
    return x.clone().to(memory_format=torch.channels_last)


LAYOUTS: Mapping[str, tuple[Lay, Lay]] = {
    "contiguous": _alike(lambda x: x[:2, :3, 0, 0].clone()),
    "transposed": _alike(lambda x: x[:, :, 0, 0].clone().t()),
    "0-dim": _alike(lambda x: x[0, 0, 0, 0].clone()),
    "empty": _alike(lambda x: x[:0].clone()),
    "channels_last": _alike(_channels_last),
    "strided": _alike(lambda x: x.clone()[:, 1, ::2, 0]),
    "one": _alike(lambda x: x.flatten()[:1].clone()),
    "odd": _alike(lambda x: x.flatten()[:37].clone()),
    "shifted": _alike(lambda x: x.flatten().clone()[3:40]),
    "whole": _alike(_whole),
    "whole, gradient channels_last": (_whole, _channels_last),
    "whole, gradient transposed": (
        _whole,
        lambda x: x.permute(3, 2, 1, 0).clone().permute(3, 2, 1, 0),
    ),
    "whole, gradient expanded": (_whole, lambda x: x[:, :1, :, :1].clone().expand(3, 4, 4, 2)),
    "whole, gradient strided": (_whole, lambda x: torch.stack([x, x], dim=2)[:, :, 1]),
    "channels_last, gradient contiguous": (_channels_last, _whole),
    "strided, gradient contiguous": (
        lambda x: x.clone()[:, 1, ::2, 0],
        lambda x: x[:, 1, ::2, 0].clone(),
    ),
}
"""How a parameter and its gradient lie in memory, made of 3 x 4 x 4 x 2 numbers."""

Buffers = Mapping[str, list[Tensor]]
Take = Callable[[Sequence[float], list[Tensor]], object]
Bind = Callable[[Program, Buffers, Sequence[int]], Take]
"""From a program, tensors and the parameters' positions to what takes a step of them."""


class Walk:
    """A rule's parameters, a layout each, that a backend trains along random gradients.

    Attributes:
        trace: the rule as it is written.
        made: its program.
        numbers: the hyperparameters, some of them drawn at random.
        buffers: the tensors that are trained.
        scalars: the states that are one number each, which the host keeps.
    """

    def __init__(
        self, bind: Bind, case: Case, dtype: torch.dtype, layouts: Sequence[str], seed: int
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype, self.layouts = dtype, layouts
        self.settings = case.rule.settings(case.convention, **case.drawn(self.rng))
        self.trace = case.rule.trace(self.settings)
        self.made, self.numbers = program(self.trace), inputs(self.settings)
        self.buffers = {"theta": self._random(0)}
        self.scalars: dict[str, float] = {}
        for s in self.trace.declared.values():
            init = self.numbers[s.init] if isinstance(s.init, str) else s.init
            if s.scalar:
                self.scalars[s.name] = init
            else:
                self.buffers[s.name] = [torch.full_like(p, init) for p in self.buffers["theta"]]
        self._take = bind(self.made, self.buffers, range(len(layouts)))

    def _random(self, which: int) -> list[Tensor]:
        draws = (
            torch.tensor(self.rng.normal(size=(3, 4, 4, 2))).to(self.dtype) for _ in self.layouts
        )
        return [LAYOUTS[layout][which](x) for layout, x in zip(self.layouts, draws, strict=True)]

    def gradients(self) -> list[Tensor]:
        """New gradients."""
        return self._random(1)

    def given(self, t: int, grads: Sequence[Tensor]) -> dict[str, float]:
        """The numbers that a step of the program follows from."""
        norm = torch.stack([g.double().norm() for g in grads]).norm()
        return {**self.numbers, **self.scalars, "t": t, "norm": norm.item()}

    def take(self, t: int, grads: list[Tensor]) -> Sequence[float]:
        """Take a step, which leaves the gradients as they are; the numbers it was taken with."""
        before = [g.clone() for g in grads]
        ks, new_scalars = self.made.scalars(self.given(t, grads))
        self._take(ks, grads)
        self.scalars = new_scalars
        assert all(map(equal, grads, before))
        return ks


def equal(x: Tensor, y: Tensor) -> bool:
    """Whether the bits are equal, or both are NaN."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    same = x.contiguous().view(bits) == y.contiguous().view(bits)
    return x.dtype == y.dtype and bool((same | (x.isnan() & y.isnan())).all())


def compare(
    bind: Bind, case: Case, dtype: torch.dtype, layouts: Sequence[str], *, seed: int, steps: int
) -> None:
    """Walk some steps in both, a parameter for each layout, and hold them against each other."""
    path = Walk(bind, case, dtype, layouts, seed)
    # Names sort as the parameters stand, so that both count the streams alike.
    reference = {str(i): p.double().numpy() for i, p in enumerate(path.buffers["theta"])}
    reference = {name: p.copy() for name, p in reference.items()}
    held = None
    taken_at: list[dict[str, np.ndarray]] = []
    settings = path.settings

    for t in range(1, steps + 1):
        grads = path.gradients()

        def gradients(at: dict[str, np.ndarray], grads=grads) -> dict[str, np.ndarray]:
            taken_at.append(at)
            return {str(i): g.double().numpy() for i, g in enumerate(grads)}

        points = None
        if path.made.at is not None:
            ks, _ = path.made.scalars(path.given(t, grads))
            points = eager.gradient_points(path.made, ks, path.buffers)
        reference, held = case.rule.step(
            reference, gradients, held, **settings.hypers, **settings.flags
        )
        path.take(t, grads)
        if points is not None:
            agree(points, taken_at[-1], TOLERANCE[dtype], 1.0)
    agree(path.buffers["theta"], reference, TOLERANCE[dtype], 1.0)
    assert set(path.trace.states) == {*path.buffers, *path.scalars} - {"theta"}
    for name in path.trace.states:
        if name in path.buffers:
            agree(path.buffers[name], held[name], 10 * TOLERANCE[dtype])
            assert all(x.dtype == dtype for x in path.buffers[name])
        else:
            assert path.scalars[name] == pytest.approx(held[name]["0"], rel=1e-12)


def agree(
    found: list[Tensor], expected: dict[str, np.ndarray], tolerance: float, least: float = 1e-3
) -> None:
    """To a tolerance relative to the largest element, or to `least` if that is larger."""
    for x, y in zip(found, expected.values(), strict=True):
        assert x.shape == y.shape
        if y.size:
            np.testing.assert_allclose(
                x.double().numpy(), y, rtol=0, atol=tolerance * max(np.abs(y).max(), least)
            )


def compare_each_step(
    bind: Bind, case: Case, dtype: torch.dtype, layouts: Sequence[str], *, seed: int, steps: int
) -> None:
    """Hold each step by itself against float64, to the last place; see above."""
    path = Walk(bind, case, dtype, layouts, seed)
    elements = {n: e for n, e in path.trace.states.items() if n in path.buffers}
    outputs = {"theta": symbol("theta", element=True) - path.trace.step, **elements}
    unit, least = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    may_be_unsure = any(e.op in ("sign", "gt") for e in walk(*path.made.outputs.values()))
    for t in range(1, steps + 1):
        grads = path.gradients()
        given = [
            {name: x.double().numpy().copy() for name, x in (("g", g), *row)}
            for i, g in enumerate(grads)
            for row in [[(name, xs[i]) for name, xs in path.buffers.items()]]
        ]
        scalars = path.given(t, grads)
        ks = path.take(t, grads)
        for i, values in enumerate(given):
            expected = evaluate(outputs, {**values, **scalars}, stream=i)
            values |= {f"k{j}": k for j, k in enumerate(ks)}
            for name, bound in bounds(path.made.outputs, values, unit, stream=i).items():
                found = path.buffers[name][i].double().numpy()
                allowed = UNITS_64 * unit * bound.scale
                if dtype is torch.float32:
                    # Where a rounding may change a sign or a choice, anything may come out.
                    sure = np.isfinite(bound.counted)
                    assert np.all((bound.counted <= UNITS * unit * bound.scale) | ~sure)
                    assert np.all(sure) or may_be_unsure
                    # The reference rounds too, if 2^29 times less.
                    allowed = bound.counted + 1e-6 * unit * bound.scale
                wrong = np.abs(found - expected[name]) > allowed + least
                assert not np.any(wrong), (
                    f"{name} of the parameter that is {layouts[i]!r}, step {t}: "
                    f"{found[wrong]} instead of {expected[name][wrong]}"
                )


@dataclass(frozen=True)
class Bound:
    """What is known about the rounding errors of a value.

    Attributes:
        value: the value, in float64.
        scale: how far it moves if the numbers it is made of change by their whole size.
        counted: the most by which all roundings together can make it wrong.
    """

    value: Any
    scale: Any
    counted: Any


@np.errstate(all="ignore")
def bounds(
    outputs: Mapping[str, Expr], values: Mapping[str, Any], unit: float, *, stream: int = 0
) -> dict[str, Bound]:
    """The errors of a program whose numbers have so large a unit in their last place."""
    known: dict[Expr, Bound] = {}
    for e in walk(*outputs.values()):
        if e.op == "normal" or not e.operands:
            value = np.asarray(evaluate({"": e}, values, stream=stream)[""], np.float64)
            exact = e.op == "symbol" and e.element
            known[e] = Bound(value, np.abs(value), 0 if exact else unit / 2 * np.abs(value))
        else:
            known[e] = _bound(e.op, [known[a] for a in e.operands], unit)
    return {name: known[e] for name, e in outputs.items()}


def _bound(op: str, operands: list[Bound], unit: float) -> Bound:
    value = MEANING[op](*(a.value for a in operands))
    rounding = unit / 2 * np.abs(value)
    x, y = operands[0], operands[-1]
    match op:
        case "add" | "sub":
            scale, counted = x.scale + y.scale, x.counted + y.counted + rounding
        case "mul":
            scale = x.scale * np.abs(y.value) + np.abs(x.value) * y.scale
            errors = x.counted * np.abs(y.value) + np.abs(x.value) * y.counted
            counted = errors + x.counted * y.counted + rounding
        case "div":
            scale = (x.scale + np.abs(value) * y.scale) / np.abs(y.value)
            # With a divisor that may be 0, anything may come out.
            left = np.maximum(np.abs(y.value) - y.counted, 0)
            errors = x.counted + np.abs(value) * y.counted
            counted = np.where(errors > 0, errors / left, 0) + rounding
        case "sqrt":
            scale = np.where(x.scale > 0, x.scale / (2 * value), 0)
            least = np.sqrt(np.maximum(x.value - x.counted, 0))
            counted = np.where(x.counted > 0, x.counted / (value + least), 0) + rounding
        case "maximum" | "minimum":
            # If they are as good as equal, either may be taken.
            near = np.abs(x.value - y.value) <= x.counted + y.counted
            scale, counted = (
                np.where(near, np.maximum(a, b), np.where(value == x.value, a, b))
                for a, b in ((x.scale, y.scale), (x.counted, y.counted))
            )
        case "gt":
            margin = x.counted + y.counted
            scale = np.zeros_like(x.value - y.value)
            counted = np.where((np.abs(x.value - y.value) <= margin) & (margin > 0), inf, 0)
        case "where":
            condition, x, y = operands
            scale = np.where(condition.value, x.scale, y.scale)
            counted = np.where(condition.value, x.counted, y.counted) + condition.counted
        case "abs":
            scale, counted = x.scale, x.counted
        case "sign":
            scale = np.abs(value)
            counted = np.where((np.abs(x.value) <= x.counted) & (x.counted > 0), inf, 0)
        case "pow":
            # Of the base and of the exponent; libraries compute it to a unit, not to half of one.
            base, exponent = np.abs(value * y.value / x.value), np.abs(value * np.log(x.value))
            scale = base * x.scale + exponent * y.scale
            counted = base * x.counted + exponent * y.counted + 2 * rounding
        case _:
            raise AssertionError(f"say here what {op} does to an error")
    # A value is of its own size at least.
    return Bound(value, np.maximum(scale, np.abs(value)), counted)


_SPECIAL = torch.tensor([nan, inf, -inf, 0.0, -0.0, 2.25, -4.0])


def compare_special_values(bind: Bind, dtype: torch.dtype, names: Sequence[str]) -> None:
    """NaN, infinities and zeros, each with each, exactly as in NumPy."""
    theta, g = (x.flatten().to(dtype) for x in torch.meshgrid(_SPECIAL, _SPECIAL, indexing="ij"))
    given = {"theta": theta.numpy().copy(), "g": g.numpy(), "k0": 2.0}
    outputs = {"theta": _x + _g} | {name: SPECIAL[name] for name in names}
    with np.errstate(all="ignore"):
        expected = evaluate(outputs, given)
    buffers = {name: [theta.clone()] for name in outputs}
    take = bind(Program((), lambda given: ((2.0,), {}), 1, outputs, None), buffers, [0])
    take((2.0,), [g])
    for name, value in expected.items():
        np.testing.assert_array_equal(buffers[name][0].numpy(), value, err_msg=name)


_x, _g = symbol("theta", element=True), symbol("g", element=True)
_two = symbol("k0", element=False)
SPECIAL = {
    "sub": _x - _g,
    "mul": _x * _g,
    "div": _x / _g,
    "pow": _x**_two,
    "abs": abs(_x),
    "sign": sign(_x),
    "maximum": maximum(_x, _g),
    "minimum": minimum(_x, _g),
    "where": where(_x > _g, _x, _g),
    "sqrt": sqrt(_x),
}


# Every operation of the vocabulary and every form that products and sums are matched to, with
# tensors and numbers on either side; also values that a buffer still holds when it is overwritten.


@rule("Everything", paper="")
def everything(g, a, b=state(init=0.5), *, t, lr=hyper(1e-2, "[0, 1]", "")):
    c = where(g > a, maximum(a, b), minimum(g, 1))
    d = sqrt(abs(b) + 1) * sign(g) / (1 + a * a) - 2 / (3 + b * b)
    e = where(t > 2, c, d) + where(a > 1, a, 0) - lr * (a * b) + lr * (g / (2 + abs(d)))
    f = 1.5 ** -abs(e) + abs(e) ** 1.5 + maximum(1, e) + minimum(e, 2) + (3 - e)
    f = f + (g + lr * (a * g)) * (g + lr * (a / (2 + abs(b)))) + minimum(2 * abs(e), 1)
    return lr * (e + f), 0.5 * a - 0.5 * g, -b + 0.1 * a


@rule("Exchange", paper="")
def exchange(g, a, b, *, lr=hyper(1e-2, "[0, 1]", "")):
    return lr * (g + a), b, a + g


@rule("Together", paper="")
def together(g, a=state(init=1.0), b=state(init=0.5), *, lr=hyper(1e-2, "[0, 1]", "")):
    a, b = 0.5 * (a + b), 0.5 * (a - b)
    return lr * (g + a - b), a + g, b


@rule("Switch", paper="")
def switch(g, *, t, lr=hyper(1e-2, "[0, 1]", "")):
    return lr * where(t > 1, g, 0)


@rule("Levels", paper="")
def levels(g, *, lr=hyper(1e-2, "[0, 1]", "")):
    return lr * where(g > 0, 0.1, 0.3)


@rule("Bare", paper="")
def bare(g):
    return g


def own(one: Rule) -> Case:
    """A row for a rule that has none."""
    return Case(one.name, one, {}, CASES[0].worked)


OWN = [own(one) for one in (everything, exchange, together, switch, levels, bare)]
