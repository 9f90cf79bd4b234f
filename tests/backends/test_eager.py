"""The eager backend against the float64 reference."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import CASES, Case
from thalweg import rules
from thalweg.backends import eager
from thalweg.backends.program import program
from thalweg.rules import hyper, rule, state
from thalweg.rules.reference import MEANING, inputs
from thalweg.rules.vocabulary import maximum, minimum, normal, sign, sqrt, where

LAYOUTS = {
    "contiguous": lambda x: x[:2, :3, 0, 0].clone(),
    "transposed": lambda x: x[:, :, 0, 0].clone().t(),
    "0-dim": lambda x: x[0, 0, 0, 0].clone(),
    "empty": lambda x: x[:0].clone(),
    "channels_last": lambda x: x.clone().to(memory_format=torch.channels_last),
    "strided": lambda x: x.clone()[:, 1, ::2, 0],
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def compare(case: Case, dtype: torch.dtype, layouts: list[str], *, seed: int, steps: int) -> None:
    """Walk some steps in both, a parameter for each layout, and hold them against each other."""
    rng = np.random.default_rng(seed)
    settings = case.rule.settings(case.convention, **case.drawn(rng))
    trace = case.rule.trace(settings)
    made, numbers = program(trace), inputs(settings)

    def random(layout: str) -> Tensor:
        return LAYOUTS[layout](torch.tensor(rng.normal(size=(3, 4, 4, 2))).to(dtype))

    buffers = {"theta": [random(layout) for layout in layouts], "g": []}
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

    def gradients(at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken_at.append(at)
        return {str(i): g.double().numpy() for i, g in enumerate(buffers["g"])}

    for t in range(1, steps + 1):
        buffers["g"] = [random(layout) for layout in layouts]
        before = [g.clone() for g in buffers["g"]]
        ks, new_scalars = made.scalars({**numbers, **scalars, "t": t})
        points = eager.gradient_points(made, ks, buffers) if made.at is not None else None
        reference, held = case.rule.step(
            reference, gradients, held, **settings.hypers, **settings.flags
        )
        eager.step(made, ks, buffers, range(len(layouts)))
        scalars = new_scalars
        for g, same in zip(buffers["g"], before, strict=True):
            assert torch.equal(g, same)
        if points is not None:
            agree(points, taken_at[-1], TOLERANCE[dtype], 1.0)
    agree(buffers["theta"], reference, TOLERANCE[dtype], 1.0)
    assert set(trace.states) == {*buffers, *scalars} - {"theta", "g"}
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


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_agrees_with_the_reference(case: Case, layout: str, dtype: torch.dtype) -> None:
    compare(case, dtype, [layout, layout], seed=3, steps=8)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_layouts_at_once_over_many_steps(case: Case, seed: int) -> None:
    compare(case, torch.float64, [*LAYOUTS], seed=seed, steps=50)


# Every operation of the vocabulary and every form that products and sums are matched to, with
# tensors and numbers on either side; also values that a buffer still holds when it is overwritten.


@rule("Everything", paper="")
def everything(
    g,
    a,
    b=state(init=0.5),
    *,
    t,
    lr=hyper(1e-2, "[0, 1]", ""),
    seed=hyper(5, "[0, 999]", "", integer=True),
):
    c = where(g > a, maximum(a, b), minimum(g, 1))
    d = sqrt(abs(b) + 1) * sign(g) / (1 + a * a) - 2 / (3 + b * b)
    e = where(t > 2, c, d) + where(a > 1, a, 0) - lr * (a * b) + lr * (g / (2 + abs(d)))
    f = 1.5 ** -abs(e) + abs(e) ** 1.5 + maximum(1, e) + minimum(e, 2) + (3 - e)
    f = f + (g + lr * (a * g)) * (g + lr * (a / (2 + abs(b)))) + minimum(2 * abs(e), 1)
    n = normal(seed, t)
    return lr * (e + f + n * g), 0.5 * a - 0.5 * g, -b + 0.1 * a


@rule("Exchange", paper="")
def exchange(g, a, b, *, lr=hyper(1e-2, "[0, 1]", "")):
    return lr * g, b, a + g


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


@rule("Gate", paper="")
def gate(g, *, lr=hyper(1e-2, "[0, 1]", "")):
    return lr * abs((g > 0) * g)


def own(one: rules.Rule) -> Case:
    return Case(one.name, one, {}, CASES[0].worked)


@pytest.mark.parametrize("one", [everything, exchange], ids=lambda one: one.name)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rules_of_ones_own(one: rules.Rule, dtype: torch.dtype) -> None:
    compare(own(one), dtype, [*LAYOUTS], seed=0, steps=5)


@pytest.mark.xfail(reason="a buffer that holds one new state is overwritten with another's")
def test_two_new_states_that_need_both_old_ones() -> None:
    compare(own(together), torch.float64, ["contiguous"], seed=0, steps=5)


@pytest.mark.xfail(reason="a condition on scalars cannot choose between a tensor and a number")
def test_a_switch_between_a_tensor_and_a_number() -> None:
    compare(own(switch), torch.float64, ["contiguous"], seed=0, steps=5)


@pytest.mark.xfail(reason="a choice between two numbers is made in torch's default dtype")
def test_a_choice_between_two_numbers() -> None:
    compare(own(levels), torch.float64, ["contiguous"], seed=0, steps=5)


@pytest.mark.xfail(reason="a condition that is multiplied is overwritten as a tensor of bools")
def test_a_condition_that_is_a_factor() -> None:
    compare(own(gate), torch.float64, ["contiguous"], seed=0, steps=5)


# The program turns -x into -1 x, so this one is never asked for.
UNREACHED = {"neg"}
FORMS = [
    (table, form)
    for table in ("_CALLS", "_IN_PLACE")
    for form in getattr(eager, table)
    if form not in UNREACHED
]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Programs lowered anew, and no trace left of what they were lowered to."""
    eager._lowered.cache_clear()
    yield
    eager._lowered.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("table", "form"), FORMS, ids=str)
def test_a_planted_error_is_caught(table: str, form: str, monkeypatch) -> None:
    right = getattr(eager, table)[form]

    def wrong(*operands):
        result = right(*operands)
        if result[0].dtype == torch.bool:
            return [~x for x in result]
        torch._foreach_mul_(result, 1.001)
        return result

    def everything_agrees() -> None:
        for one in (own(everything), *CASES):
            compare(one, torch.float64, ["contiguous"], seed=0, steps=3)

    everything_agrees()
    eager._lowered.cache_clear()
    monkeypatch.setitem(getattr(eager, table), form, wrong)
    with pytest.raises(AssertionError):
        everything_agrees()


def test_every_operation_can_be_lowered() -> None:
    assert {*MEANING, "normal"} <= set(eager._CALLS)
    assert set(eager._IN_PLACE) <= set(eager._CALLS)
