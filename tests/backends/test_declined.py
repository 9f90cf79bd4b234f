"""What the compiled backend declines: it says so, changes nothing, and the step is taken anyway."""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg as tw
from thalweg import rules
from thalweg.backends import eager, kernel
from thalweg.backends.program import program
from thalweg.rules import Rule, chain
from thalweg.rules.reference import inputs

SETTINGS = rules.adam.settings()
ADAM = program(rules.adam.trace(SETTINGS))
NUMBERS = ADAM.scalars({**inputs(SETTINGS), "t": 1})[0]


class Marked(Tensor):
    """A tensor that may mean anything by its operations."""


def buffers(theta: Tensor, *, m: Tensor | None = None) -> dict[str, list[Tensor]]:
    made = {"theta": theta, "m": torch.zeros_like(theta) if m is None else m}
    made["v"] = torch.zeros_like(theta)
    return {name: [torch.ones(2), x] for name, x in made.items()}


TAKEN = {
    "a tensor": torch.ones(2, 3),
    "a parameter": Parameter(torch.ones(2, 3)),
    "a view that is whole": torch.ones(4, 3)[1:3],
    "one element of many": torch.ones(3, 3)[:1, 0],
    "none of many": torch.ones(3, 3)[:0],
}
DECLINED = {
    "transposed": torch.ones(2, 3).t(),
    "strided": torch.ones(4)[::2],
    "expanded": torch.ones(1).expand(3),
    "channels last": torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "float16": torch.ones(2, dtype=torch.float16),
    "complex": torch.ones(2, dtype=torch.complex64),
    "another real": torch.ones(2, dtype=torch.float64),
    "a subclass": torch.ones(2).as_subclass(Marked),
    "on no device": torch.ones(2, device="meta"),
    "a lazy negative": torch._neg_view(torch.ones(2)),
}


@pytest.mark.parametrize("theta", TAKEN.values(), ids=TAKEN)
def test_these_parameters_are_taken(theta: Tensor) -> None:
    assert kernel.bound(ADAM, buffers(theta)) is not None


@pytest.mark.parametrize("theta", DECLINED.values(), ids=DECLINED)
def test_these_parameters_are_declined(theta: Tensor) -> None:
    assert kernel.bound(ADAM, buffers(theta)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_these_types_are_declined_even_where_all_have_them(dtype: torch.dtype) -> None:
    ones = torch.ones(2, dtype=dtype)
    assert kernel.bound(ADAM, {"theta": [ones], "m": [ones], "v": [ones]}) is None


@pytest.mark.parametrize("m", DECLINED.values(), ids=DECLINED)
def test_these_states_are_declined(m: Tensor) -> None:
    assert kernel.bound(ADAM, buffers(torch.ones(m.shape), m=m)) is None


@pytest.mark.parametrize("rule", [chain(rules.noise, rules.sgd), chain(rules.noise, rules.adam)])
def test_noise_is_declined(rule: Rule) -> None:
    trace = rule.trace(rule.settings())
    held = {name: [torch.ones(2)] for name in ("theta", *trace.states)}
    assert kernel.bound(program(trace), held) is None


GRADIENTS = {
    **{name: x for name, x in DECLINED.items() if name != "a subclass"},
    "sparse": torch.ones(2).to_sparse(),
    "of another size": torch.ones(200),
}


@pytest.mark.parametrize("grad", GRADIENTS.values(), ids=GRADIENTS)
def test_these_gradients_are_declined(grad: Tensor) -> None:
    size = (2,) if grad.numel() == 200 else grad.shape
    held = buffers(torch.ones(size))
    step = kernel.bound(ADAM, held)
    assert step is not None
    before = {name: [x.clone() for x in tensors] for name, tensors in held.items()}
    assert step(NUMBERS, [torch.ones(2), grad]) is False
    for name, tensors in before.items():
        assert all(map(torch.equal, held[name], tensors))


def with_data(x: Tensor, data: Tensor) -> None:
    x.data = data


@pytest.mark.parametrize("name", ["theta", "m", "v"])
@pytest.mark.parametrize("size", [2, 400])
def test_data_of_another_size_is_declined(name: str, size: int) -> None:
    """A kernel that kept the sizes would write beside the new data."""
    held = buffers(torch.ones(40))
    step = kernel.bound(ADAM, held)
    assert step is not None
    memory = torch.full((500,), 7.0)
    held[name][1].data = memory[40 : 40 + size]
    assert step(NUMBERS, [torch.ones(2), torch.ones(40)]) is False
    assert torch.all(memory == 7)


REPLACED = {
    "another": lambda x: x.clone(),
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


@pytest.mark.parametrize("name", ["theta", "exp_avg"])
@pytest.mark.parametrize("replaced", REPLACED.values(), ids=REPLACED)
def test_data_may_be_replaced_between_steps(name: str, replaced, monkeypatch) -> None:
    taken: list[str] = []

    def counted(*args) -> None:
        taken.append("eager")
        eager_step(*args)

    eager_step = eager.step
    monkeypatch.setattr(eager, "step", counted)
    ends = []
    for made in (tw.Adam, torch.optim.Adam):
        p = torch.arange(6.0).view(2, 3).requires_grad_()
        optimizer = made([p], lr=0.1)
        for t in range(6):
            if t in (2, 4):
                x = p if name == "theta" else optimizer.state[p][name]
                old, kept = x.data, x.detach().clone()
                x.data = replaced(x.data) if t == 2 else x.data.contiguous()
            p.grad = torch.cos(p.detach() + t)
            optimizer.step()
            if t == 2:
                # What was replaced is not written any more.
                assert torch.equal(old, kept)
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)
    # Compiled before, and again as soon as the data allows it.
    assert taken == ([] if replaced is REPLACED["another"] else ["eager"] * 2)


def test_a_parameter_of_a_subclass_is_trained_all_the_same() -> None:
    ends = []
    for made in (lambda x: x.as_subclass(Marked), lambda x: x):
        p = made(torch.ones(3)).requires_grad_()
        optimizer = tw.Adam([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
        ends.append(p.detach().as_subclass(Tensor))
    torch.testing.assert_close(*ends)
    assert not torch.equal(ends[0], torch.ones(3))
