"""The comparison every backend has to stand: steps of a rule against the float64 reference.

Tolerances are relative to the largest parameter, or to 1. In float64 both sides round some ten
operations a step by 1.1e-16 each, so 1e-12 leaves room for 50 steps and for what hyperparameters
near 1 magnify, and none for a wrong term. In float32 every operation rounds by up to 6e-8, while
the reference starts from the same float32 numbers and rounds next to nothing: 2e-6 is 33 roundings.
States, which nothing else keeps near 1, may lose a digit more of their own largest element.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf, nan

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import CASES, Case
from thalweg.backends import eager
from thalweg.backends.program import Program, program
from thalweg.rules import Rule, hyper, rule, state
from thalweg.rules.reference import evaluate, inputs
from thalweg.rules.vocabulary import maximum, minimum, sign, sqrt, symbol, where

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}

LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x[:2, :3, 0, 0].clone(),
    "transposed": lambda x: x[:, :, 0, 0].clone().t(),
    "0-dim": lambda x: x[0, 0, 0, 0].clone(),
    "empty": lambda x: x[:0].clone(),
    "channels_last": lambda x: x.clone().to(memory_format=torch.channels_last),
    "strided": lambda x: x.clone()[:, 1, ::2, 0],
    "one": lambda x: x.flatten()[:1].clone(),
    "odd": lambda x: x.flatten()[:37].clone(),
    "whole": lambda x: x.clone(),
}
DENSE = ["contiguous", "0-dim", "empty", "one", "odd", "whole"]

Buffers = Mapping[str, list[Tensor]]
Take = Callable[[Sequence[float], list[Tensor]], object]
Bind = Callable[[Program, Buffers, Sequence[int]], Take]
"""From a program, tensors and the parameters' positions to what takes a step of them."""


def compare(
    bind: Bind, case: Case, dtype: torch.dtype, layouts: Sequence[str], *, seed: int, steps: int
) -> None:
    """Walk some steps in both, a parameter for each layout, and hold them against each other."""
    rng = np.random.default_rng(seed)
    settings = case.rule.settings(case.convention, **case.drawn(rng))
    trace = case.rule.trace(settings)
    made, numbers = program(trace), inputs(settings)

    def random() -> list[Tensor]:
        draws = (torch.tensor(rng.normal(size=(3, 4, 4, 2))).to(dtype) for _ in layouts)
        return [LAYOUTS[layout](x) for layout, x in zip(layouts, draws, strict=True)]

    buffers = {"theta": random()}
    scalars: dict[str, float] = {}
    for s in trace.declared.values():
        init = numbers[s.init] if isinstance(s.init, str) else s.init
        if s.scalar:
            scalars[s.name] = init
        else:
            buffers[s.name] = [torch.full_like(p, init) for p in buffers["theta"]]
    # Names sort as the parameters stand, so that both count the streams alike.
    reference = {str(i): p.double().numpy() for i, p in enumerate(buffers["theta"])}
    held = None
    taken_at: list[dict[str, np.ndarray]] = []
    take = bind(made, buffers, range(len(layouts)))

    for t in range(1, steps + 1):
        grads = random()
        before = [g.clone() for g in grads]

        def gradients(at: dict[str, np.ndarray], before=before) -> dict[str, np.ndarray]:
            taken_at.append(at)
            return {str(i): g.double().numpy() for i, g in enumerate(before)}

        ks, new_scalars = made.scalars({**numbers, **scalars, "t": t})
        points = eager.gradient_points(made, ks, buffers) if made.at is not None else None
        reference, held = case.rule.step(
            reference, gradients, held, **settings.hypers, **settings.flags
        )
        take(ks, grads)
        scalars = new_scalars
        for g, same in zip(grads, before, strict=True):
            assert torch.equal(g, same)
        if points is not None:
            agree(points, taken_at[-1], TOLERANCE[dtype], 1.0)
    agree(buffers["theta"], reference, TOLERANCE[dtype], 1.0)
    assert set(trace.states) == {*buffers, *scalars} - {"theta"}
    for name in trace.states:
        if name in buffers:
            agree(buffers[name], held[name], 10 * TOLERANCE[dtype])
            assert all(x.dtype == dtype for x in buffers[name])
        else:
            assert scalars[name] == pytest.approx(held[name]["0"], rel=1e-12)


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
