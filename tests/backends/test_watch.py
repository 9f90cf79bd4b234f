"""Whatever is changed between steps is seen, by the compiled look and by the one in Python."""

import copy
import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.backends import watch
from thalweg.backends.watch import Watch

LOOKS = ["compiled", "python"]


@pytest.fixture(params=LOOKS)
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two looks is taken."""
    if request.param == "python":
        monkeypatch.setattr(watch, "_look", lambda: None)
    elif watch._look() is None:
        pytest.skip("this torch has no functions of DLPack for C")
    return request.param


class Marked(Tensor):
    """A tensor that may mean anything by its operations."""


class Watched:
    """Four parameters, of which the last has no gradient, and what a watch needs of them."""

    def __init__(self) -> None:
        shapes = [(2, 3), (4,), (), (5,)]
        self.params = [torch.ones(s).requires_grad_() for s in shapes]
        self.empty = torch.ones(0, 2).requires_grad_()
        self.params.append(self.empty)
        for p in (*self.params[:3], self.empty):
            p.grad = torch.full_like(p, 0.5)
        self.words = np.zeros(5, np.uint64)
        trained = [True, True, True, False, True]
        addresses = [
            self.words.ctypes.data + 8 * i if wanted else 0 for i, wanted in enumerate(trained)
        ]
        self.states: list[dict[str, Any]] = [
            {"step": torch.tensor(1.0), "m": torch.zeros_like(p)} for p in self.params[:3]
        ]
        held = [*self.params[:3], *(state["m"] for state in self.states)]
        grads = [p.grad for p in self.params]
        self.watch = Watch(self.params, grads, addresses, held, self.states, ["step", "m"])

    def unchanged(self) -> bool:
        return self.watch.unchanged(self.params)

    def addresses_are_known(self) -> bool:
        grads = [p.grad for p in self.params]
        return all(
            g is None or g.data_ptr() == word
            for g, word in zip(grads, self.words.tolist(), strict=True)
        )


def with_data(x: Tensor, data: Tensor) -> None:
    x.data = data


def with_gradient(p: Tensor, grad: Tensor | None) -> None:
    p.grad = grad


KEPT: dict[str, Callable[[Watched], object]] = {
    "nothing": lambda w: None,
    "values in place": lambda w: (w.params[0].data.add_(1), w.states[0]["m"].add_(1)),
    "gradient's values in place": lambda w: w.params[0].grad.add_(1),
    "a new gradient": lambda w: with_gradient(w.params[0], torch.ones(2, 3)),
    "new gradients": lambda w: [with_gradient(p, p.grad.clone()) for p in w.params[:3]],
    "gradient's data": lambda w: with_data(w.params[1].grad, torch.ones(4)),
    "a gradient that is part of another tensor": lambda w: with_gradient(
        w.params[1], torch.ones(9)[3:7]
    ),
    "a gradient of nothing": lambda w: with_gradient(w.empty, torch.ones(0, 2)),
    "a key that is not looked at": lambda w: w.states[0].update(other=torch.ones(1)),
}
CHANGED: dict[str, Callable[[Watched], object]] = {
    "parameter's data": lambda w: with_data(w.params[0], torch.ones(2, 3)),
    "parameter's data of another size": lambda w: with_data(w.params[0], torch.ones(3, 3)),
    "parameter's data of fewer dimensions": lambda w: with_data(w.params[0], torch.ones(6)),
    "parameter's data of another type": lambda w: with_data(w.params[0], w.params[0].double()),
    "parameter's data in another order": lambda w: with_data(
        w.params[0], torch.as_strided(w.params[0].data, (2, 3), (1, 2))
    ),
    "parameter's view of itself": lambda w: with_data(w.params[1], w.params[1].data[:2]),
    "parameter freed": lambda w: w.params[1].untyped_storage().resize_(0),
    "parameter made larger": lambda w: w.params[1].untyped_storage().resize_(1 << 24),
    "gradient None": lambda w: with_gradient(w.params[1], None),
    "gradient where there was none": lambda w: with_gradient(w.params[3], torch.ones(5)),
    "gradient in another order": lambda w: with_gradient(w.params[0], torch.ones(3, 2).t()),
    "gradient strided": lambda w: with_gradient(w.params[1], torch.ones(8)[::2]),
    "gradient expanded": lambda w: with_gradient(w.params[1], torch.ones(1).expand(4)),
    "gradient's data of another type": lambda w: with_data(
        w.params[1].grad, torch.ones(4, dtype=torch.float64)
    ),
    "gradient's data of another size": lambda w: with_data(w.params[1].grad, torch.ones(3)),
    "gradient's data of another shape": lambda w: with_data(w.params[0].grad, torch.ones(3, 2)),
    "gradient freed": lambda w: w.params[1].grad.untyped_storage().resize_(0),
    "gradient of a subclass": lambda w: with_gradient(
        w.params[1], torch.ones(4).as_subclass(Marked)
    ),
    "gradient that is a parameter": lambda w: with_gradient(
        w.params[1], torch.nn.Parameter(torch.ones(4))
    ),
    "gradient sparse": lambda w: with_gradient(w.params[1], torch.ones(4).to_sparse()),
    "state replaced": lambda w: w.states[0].update(m=torch.zeros(2, 3)),
    "state deleted": lambda w: w.states[1].pop("m"),
    "states cleared": lambda w: w.states[2].clear(),
    "state None": lambda w: w.states[0].update(m=None),
    "state's data": lambda w: with_data(w.states[0]["m"], torch.zeros(2, 3)),
    "state's data of another type": lambda w: with_data(
        w.states[0]["m"], torch.zeros(2, 3, dtype=torch.float64)
    ),
    "state freed": lambda w: w.states[1]["m"].untyped_storage().resize_(0),
    "count replaced": lambda w: w.states[1].update(step=torch.tensor(1.0)),
    "parameter exchanged": lambda w: w.params.__setitem__(1, torch.ones(4, requires_grad=True)),
    "parameters in another order": lambda w: w.params.reverse(),
    "parameter added": lambda w: w.params.append(torch.ones(2)),
    "parameter taken away": lambda w: w.params.pop(),
    "no parameters": lambda w: w.params.clear(),
    "no tensor": lambda w: w.params.__setitem__(0, None),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_does_not_matter_is_let_pass(change, look: str) -> None:
    w = Watched()
    assert w.unchanged()
    assert w.addresses_are_known()
    change(w)
    assert w.unchanged()
    assert w.addresses_are_known()


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_what_matters_is_seen(change, look: str) -> None:
    w = Watched()
    assert w.unchanged()
    change(w)
    assert not w.unchanged()
    assert not w.unchanged()


@pytest.mark.parametrize("shape", [(2,), (1,), ()], ids=str)
def test_a_gradient_that_is_negated_when_it_is_read_is_seen(
    shape: tuple[int, ...], look: str
) -> None:
    complex_numbers = torch.full(shape, 3 - 4j)
    p = torch.zeros(shape).requires_grad_()
    optimizer = tw.SGD([p], lr=1.0)
    p.grad = torch.view_as_real(complex_numbers)[..., 1]
    optimizer.step()
    p.grad = complex_numbers.conj().imag
    assert p.grad.is_neg()
    optimizer.step()
    assert torch.equal(p.detach(), torch.zeros(shape))


@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_complex_numbers_that_are_conjugated_when_they_are_read_are_seen(
    backend: str, look: str
) -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    p = torch.zeros(2, dtype=torch.complex64).requires_grad_()
    optimizer = tw.SGD([p], lr=1.0, backend=backend)
    p.grad = z.clone()
    optimizer.step()
    assert optimizer.backend_of(p) == "fused"
    p.grad = z.conj()
    if backend == "fused":
        with pytest.raises(tw.UsageError, match="conjugated when it is read"):
            optimizer.step()
        p.grad = z.conj().resolve_conj()
    optimizer.step()
    assert torch.equal(p.detach(), -2 * z.real + 0j)
    p.data = p.data.conj()
    with pytest.raises(tw.UsageError, match=r"conjugated only .* resolve_conj"):
        optimizer.step()


def test_complex_gradients_may_come_to_lie_anywhere(look: str) -> None:
    p = torch.zeros(2, dtype=torch.complex64).requires_grad_()
    ends = []
    for optimizer in (tw.SGD([p], lr=0.1, momentum=0.9), torch.optim.SGD([p], 0.1, 0.9)):
        p.data = torch.zeros(2, dtype=torch.complex64)
        kept = []
        for t in range(6):
            p.grad = torch.tensor([1 + 2j, 3 - 4j]) * (t + 1j)
            kept.append(p.grad)
            optimizer.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(*ends)


def test_types_of_equal_size_are_told_apart(look: str) -> None:
    p = torch.ones(4, dtype=torch.bfloat16).requires_grad_()
    p.grad = torch.ones(4, dtype=torch.bfloat16)
    words = np.zeros(1, np.uint64)
    seen = Watch([p], [p.grad], [words.ctypes.data], [p], [], [])
    assert seen.unchanged([p])
    p.grad.data = torch.ones(4, dtype=torch.float16)
    assert not seen.unchanged([p])
    p.grad.data = torch.ones(4, dtype=torch.bfloat16)
    assert seen.unchanged([p])


def test_real_and_complex_numbers_are_told_apart(look: str) -> None:
    p = torch.ones(4, dtype=torch.complex64).requires_grad_()
    p.grad = torch.ones(4, dtype=torch.complex64)
    words = np.zeros(1, np.uint64)
    seen = Watch([p], [p.grad], [words.ctypes.data], [p], [], [])
    assert seen.unchanged([p])
    p.grad.data = torch.ones(4, dtype=torch.float64)
    assert not seen.unchanged([p])
    p.grad.data = torch.ones(4, dtype=torch.complex64)
    assert seen.unchanged([p])
    assert words[0] == p.grad.data_ptr()
    p.grad.data = p.grad.data.conj()
    assert not seen.unchanged([p])
    p.grad.data = torch._neg_view(p.grad.data.conj())
    assert not seen.unchanged([p])


def test_a_look_leaves_nothing_behind(look: str) -> None:
    """No reference is kept or given away, and no error is left pending."""
    w = Watched()
    g = w.params[0].grad
    before = [sys.getrefcount(x) for x in (g, None, w.params[0], w.params, w.states[0]["m"])]
    for _ in range(1000):
        assert w.unchanged()
    after = [sys.getrefcount(x) for x in (g, None, w.params[0], w.params, w.states[0]["m"])]
    # None is everyone's.
    assert abs(before.pop(1) - after.pop(1)) < 500
    assert after == before


def test_what_torchs_operations_run_may_have_any_layout(monkeypatch) -> None:
    p = torch.ones(2, 3).requires_grad_()
    p.grad = torch.ones(2, 3)
    seen = Watch([p], [p.grad], [0], [], [], [])
    for grad in (torch.ones(3, 2).t(), torch.ones(2, 3).as_subclass(Marked)):
        p.grad = grad
        assert seen.unchanged([p])
    p.grad = torch.ones(2, 3)
    p.grad.data = torch.ones(2, 3, dtype=torch.float64)
    assert not seen.unchanged([p])


MAKERS = {
    "sgd": (lambda p: tw.SGD(p, lr=0.01, momentum=0.9), lambda p: torch.optim.SGD(p, 0.01, 0.9)),
    "adam": (lambda p: tw.Adam(p, lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("seen", [True, False], ids=["states seen", "states not seen"])
@pytest.mark.parametrize(("ours", "torchs"), MAKERS.values(), ids=MAKERS)
def test_gradients_may_come_to_lie_anywhere(
    ours, torchs, seen: bool, set_to_none: bool, look: str
) -> None:
    torch.manual_seed(0)
    start = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
    ).double()
    models = [copy.deepcopy(start) for _ in range(2)]
    optimizers = [ours(models[0].parameters()), torchs(models[1].parameters())]
    kept = []
    for t in range(20):
        x = torch.randn(7, 3, dtype=torch.float64)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=set_to_none)
            # What is freed comes back elsewhere.
            kept.append([torch.ones(n) for n in (15, 10, 5, 2) for _ in range(t % 3)])
            if t % 5 != 4:
                model(x).square().mean().backward()
            else:
                model[0](x).square().mean().backward()
            optimizer.step()
            if seen:
                assert optimizer.state
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
    assert not torch.equal(models[0][0].weight, start[0].weight)


REPLACED = {
    "another": lambda x: x.clone(),
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


@pytest.mark.parametrize("name", ["theta", "exp_avg"])
@pytest.mark.parametrize("replaced", REPLACED.values(), ids=REPLACED)
def test_data_may_be_replaced_between_steps(name: str, replaced, look: str) -> None:
    ends = []
    for made in (
        lambda p: tw.Adam(p, lr=0.1, backend="fused"),
        lambda p: torch.optim.Adam(p, lr=0.1),
    ):
        p = torch.arange(6.0).view(2, 3).requires_grad_()
        optimizer = made([p])
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


def test_words_are_written_only_when_a_gradient_has_moved_or_stayed(look: str) -> None:
    w = Watched()
    words = w.words.copy()
    w.params[0].grad = torch.ones(2, 3)
    assert w.unchanged()
    assert w.words[0] == w.params[0].grad.data_ptr()
    assert w.words[3] == words[3] == 0
    assert ctypes.c_uint64.from_address(w.words.ctypes.data).value == w.words[0]
