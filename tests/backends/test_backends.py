"""Which backend takes a step, and what is said when the one that was asked for cannot."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg import backends, rules
from thalweg.backends import BACKENDS, eager, kernel
from thalweg.optim import CLASSES


def refused(*args: object) -> None:
    raise AssertionError("this backend must not be used")


def parameter(x: Tensor | None = None, grad: Tensor | None = None) -> Tensor:
    p = (torch.ones(2, 3) if x is None else x).requires_grad_()
    p.grad = torch.full_like(p, 0.5) if grad is None else grad
    return p


def moved(p: Tensor) -> bool:
    return bool((p.detach() != 1).all())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_has_a_name(name: str) -> None:
    assert backends.checked(name) == name
    assert tw.Adam([parameter()], backend=name).backend == name


@pytest.mark.parametrize("name", ["Numba", "triton", ""])
def test_an_unknown_backend_is_refused_at_once(name: str) -> None:
    with pytest.raises(tw.UsageError, match=f"unknown backend '{name}'.*auto, eager, numba"):
        tw.Optimizer([parameter()], rules.adam, backend=name)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_takes_one(name: str) -> None:
    assert CLASSES[name]([parameter()], backend="eager").backend == "eager"


@pytest.mark.parametrize("name", ["auto", "numba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_kernel_takes_what_it_can(name: str, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(eager, "step", refused)
    p = parameter(torch.ones(3, dtype=dtype))
    tw.SGD([p], lr=0.1, backend=name).step()
    assert moved(p)


def test_eager_never_uses_a_kernel(monkeypatch) -> None:
    monkeypatch.setattr(kernel, "bound", refused)
    p = parameter()
    optimizer = tw.SGD([p], lr=0.1, backend="eager")
    optimizer.step()
    optimizer.step()
    assert moved(p)
    with pytest.raises(AssertionError, match="must not be used"):
        tw.SGD([p], lr=0.1, backend="auto").step()


def sgd(params: list[Tensor], backend: str) -> tw.Optimizer:
    return tw.SGD(params, lr=0.1, momentum=0.9, backend=backend)


def noisy(params: list[Tensor], backend: str) -> tw.Optimizer:
    return tw.Optimizer(params, rules.chain(rules.noise, rules.momentum), backend=backend)


KINDS: dict[str, Callable[[str], tuple[list[Tensor], tw.Optimizer]]] = {}
for kind, x in {
    "transposed": torch.ones(2, 3).t(),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "mixed types": torch.ones(3, dtype=torch.float64),
}.items():
    KINDS[kind] = lambda backend, x=x: (ps := [parameter(), parameter(x.clone())], sgd(ps, backend))
KINDS["a strided gradient"] = lambda backend: (
    ps := [parameter(grad=torch.ones(3, 2).t())],
    sgd(ps, backend),
)
KINDS["noise"] = lambda backend: (ps := [parameter()], noisy(ps, backend))


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_auto_falls_back(made, monkeypatch) -> None:
    params, optimizer = made("auto")
    optimizer.step()
    expected, by_eager = made("eager")
    by_eager.step()
    assert all(map(moved, params))
    assert all(map(torch.equal, params, expected))


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_numba_refuses_and_changes_nothing(made) -> None:
    params, optimizer = made("numba")
    with pytest.raises(tw.UsageError, match=r"backend is 'numba', which takes .* use backend="):
        optimizer.step()
    for p in params:
        assert torch.all(p == 1)
        state = optimizer.state[p]
        assert state["step"] == 0
        assert all(torch.all(x == 0) for x in state.values())


def test_each_group_may_have_a_type_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(eager, "step", refused)
    params = [parameter(), parameter(torch.ones(3, dtype=torch.float64))]
    tw.Adam([{"params": [p]} for p in params], backend="numba").step()
    assert all(map(moved, params))
