"""Who takes the step: each is what it says, and all do the same."""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.backends.fused import Pass
from thalweg.bench import contestants as module
from thalweg.bench.contestants import COMPILED, OURS, contestants, outside_kernels
from thalweg.rules import OPTIMIZERS

FUSED = ("sgd", "momentum", "nag", "adagrad", "adam", "amsgrad", "adamw")
UNFUSED = ("adadelta", "rmsprop", "adamax", "nadam")
LACKED = ("qhm", "aggmo", "qhadam")


def parameters() -> list[Tensor]:
    torch.manual_seed(3)
    params = [nn.Parameter(torch.randn(shape)) for shape in [(5, 3), (4,)]]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@pytest.mark.parametrize("name", [*FUSED, *UNFUSED, *LACKED])
def test_none_that_there_is_is_missing(name: str):
    torchs = [] if name in LACKED else ["for-loop", "foreach"]
    if name in FUSED:
        torchs.append("fused")
    assert [*contestants(name, parameters(), compiled=False)] == [*torchs, OURS]
    compiled = [] if name in LACKED else [COMPILED]
    assert [*contestants(name, parameters(), compiled=True)] == [*torchs, *compiled, OURS]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_that_there_are_take_the_same_steps(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LR", 0.01)
    params = parameters()
    before = [p.detach().clone() for p in params]
    found = contestants(name, params, compiled=False)
    after: list[list[Tensor]] = []
    for make in found.values():
        one = make()
        for _ in range(2):
            one.step()
            if one.restore is not None:
                one.restore()
        assert one.first > 0
        assert not one.strange()
        after.append(one.optimizer.param_groups[0]["params"])
        for mine, p, was in zip(after[-1], params, before, strict=True):
            assert torch.equal(p, was)
            assert not torch.equal(mine, was)
    for other in after[1:]:
        for a, b in zip(after[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_each_of_torchs_runs_its_own_implementation(monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return original(*args, **kwargs)

        return call

    adam = sys.modules["torch.optim.adam"]
    for name in ("_single_tensor_adam", "_multi_tensor_adam", "_fused_adam"):
        monkeypatch.setattr(adam, name, noting(name, getattr(adam, name)))
    found = contestants("adam", parameters(), compiled=False)
    for way, function in (
        ("for-loop", "_single_tensor_adam"),
        ("foreach", "_multi_tensor_adam"),
        ("fused", "_fused_adam"),
    ):
        called.clear()
        found[way]().step()
        assert called == [function, function]
    called.clear()
    found[OURS]().step()
    assert called == []


def test_gradient_that_a_step_changes_is_given_back():
    params = parameters()
    for way, make in contestants("nag", params, compiled=False).items():
        one = make()
        (group,) = one.optimizer.param_groups
        assert (one.restore is not None) == (way == "foreach")
        one.step()
        if one.restore is not None:
            assert not torch.equal(group["params"][0].grad, params[0].grad)
            one.restore()
        for mine, p in zip(group["params"], params, strict=True):
            assert torch.equal(mine.grad, p.grad)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e-40])
@pytest.mark.parametrize("where", ["parameter", "state"])
def test_strange_numbers_are_found(number: float, where: str):
    one = contestants("adam", parameters(), compiled=False)[OURS]()
    assert not one.strange()
    p = one.optimizer.param_groups[0]["params"][1]
    x = p if where == "parameter" else one.optimizer.state[p]["exp_avg"]
    with torch.no_grad():
        x[2] = number
    assert one.strange()


def test_what_torch_does_not_compile_is_no_contestant(monkeypatch: pytest.MonkeyPatch):
    assert COMPILED not in contestants("adam", parameters(), compiled=False)
    make = contestants("adam", parameters(), compiled=True)[COMPILED]
    monkeypatch.setattr(torch, "compile", lambda step: step)
    with pytest.raises(RuntimeError, match="nothing to compile"):
        make()


def test_step_is_taken_apart_into_kernels_and_the_rest():
    one = contestants("adam", parameters(), compiled=False)[OURS]()
    outside = outside_kernels(one, 5)
    assert len(outside) == 5
    assert min(outside) > 0
    one.step()
    state = next(iter(one.optimizer.state.values()))
    assert float(state["step"]) == 1 + 1 + 5 + 1


def test_kernels_are_not_among_the_rest(monkeypatch: pytest.MonkeyPatch):
    original = Pass.__call__

    def slow(self: Pass, numbers: Any) -> None:
        time.sleep(0.02)
        original(self, numbers)

    one = contestants("adam", parameters(), compiled=False)[OURS]()
    monkeypatch.setattr(Pass, "__call__", slow)
    assert min(outside_kernels(one, 3)) < 0.02


def test_step_without_kernels_has_no_rest():
    one = contestants("adam", parameters(), compiled=False)[OURS]()
    one.optimizer.backend = "eager"
    one.step()
    assert outside_kernels(one, 3) == []
