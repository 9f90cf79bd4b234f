"""Mixed precision: a gradient scaler drives our classes as it does torch's."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

import thalweg as tw
from thalweg.optim import CLASSES
from torch_parity.paths import MIRRORS, assert_close, assert_fused, noise, parameters, set_gradients

FUSED = [name for name in MIRRORS if "fused" in CLASSES[name](parameters()).defaults]
CASES = [(name, {}) for name in MIRRORS] + [(name, {"fused": True}) for name in FUSED]
OVERFLOW = 3
"""The step in which a gradient is too large for its type."""


def scaler() -> GradScaler:
    return GradScaler("cpu", init_scale=2.0**10, growth_interval=2)


def loss(params: Sequence[Tensor], t: int, *, overflows: bool = False) -> Tensor:
    """Its gradients are in each parameter's own type, as those of a model in low precision."""
    total = torch.zeros(())
    for i, p in enumerate(params):
        pull = torch.log(torch.cosh(p.float())).sum()
        total = total + 0.1 * pull + (p.float() * noise(t, i, p.shape, torch.float32)).sum()
    return total + (params[0].float().sum() * torch.inf if overflows else 0.0)


def nothing(scaler: GradScaler, optimizer: torch.optim.Optimizer) -> None: ...


def clipped(scaler: GradScaler, optimizer: torch.optim.Optimizer) -> None:
    scaler.unscale_(optimizer)
    params = optimizer.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(params, 0.5)


def clipped_by_value(scaler: GradScaler, optimizer: torch.optim.Optimizer) -> None:
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], 0.3)


def contents(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that a step may change."""
    params = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    held = [x for state in optimizer.state_dict()["state"].values() for x in state.values()]
    return copy.deepcopy([*params, *held])


def scaled(
    optimizer: torch.optim.Optimizer,
    between: Callable[[GradScaler, torch.optim.Optimizer], None] = nothing,
) -> tuple[Tensor, Tensor, list[float]]:
    """Steps through a scaler: the path, the gradients that were left, and the scales."""
    (group,) = optimizer.param_groups
    params, by = group["params"], scaler()
    path, left, scales = [], [], []
    for t in range(8):
        optimizer.zero_grad()
        by.scale(loss(params, t, overflows=t == OVERFLOW)).backward()
        between(by, optimizer)
        before = contents(optimizer)
        by.step(optimizer)
        if t == OVERFLOW:
            after = contents(optimizer)
            assert all(map(torch.equal, before, after))
        else:
            assert not all(map(torch.equal, before, contents(optimizer)))
            left.append(torch.cat([p.grad.flatten() for p in params]))
        by.update()
        scales.append(by.get_scale())
        path.append(torch.cat([p.detach().flatten() for p in params]))
    assert scales[0] < scales[OVERFLOW - 1] > scales[OVERFLOW] < scales[-1]
    return torch.stack(path), torch.stack(left), scales


@pytest.mark.parametrize("between", [nothing, clipped, clipped_by_value])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_a_scaler_takes_torchs_path(name: str, arguments: dict, between) -> None:
    ours = CLASSES[name](parameters(), lr=0.01, **arguments)
    torchs = getattr(torch.optim, name)(parameters(), lr=0.01, **arguments)
    found, expected = scaled(ours, between), scaled(torchs, between)
    assert_close(found[0], expected[0], 1e-6)
    assert_close(found[1], expected[1], 1e-6)
    assert found[2] == expected[2]
    assert_fused(ours)


def by_a_scaler(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> None:
    by = scaler()
    for t in range(5):
        optimizer.zero_grad()
        by.scale(loss(params, t)).backward()
        by.step(optimizer)
        by.update()


def by_itself(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> None:
    for t in range(5):
        optimizer.zero_grad()
        loss(params, t).backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_a_scale_changes_nothing_in_any_type(name: str, dtype: torch.dtype) -> None:
    """It is a power of two, so that nothing is rounded."""
    ends = []
    for train in (by_a_scaler, by_itself):
        params = parameters(dtype)
        optimizer = CLASSES[name](params, lr=0.01, fused=True)
        train(optimizer, params)
        assert_fused(optimizer)
        ends.append(contents(optimizer))
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("made", [tw.Adam, torch.optim.Adam], ids=["ours", "torch"])
def test_a_scaler_refuses_float16_gradients_it_would_have_to_divide(made) -> None:
    params, by = parameters(torch.float16), scaler()
    by.scale(loss(params, 0)).backward()
    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        by.step(made(params))


@pytest.mark.parametrize("arguments", [{}, {"fused": True}], ids=str)
def test_one_scaler_serves_several_optimizers(arguments: dict) -> None:
    """Where the gradients of one overflow the other's step is taken, and one scale is for both."""
    ends = []
    for module in (tw, torch.optim):
        first, second = parameters()[:2], parameters()[2:]
        optimizers = [module.Adam(first, **arguments), module.SGD(second, lr=0.01, **arguments)]
        by, path = scaler(), []
        for t in range(6):
            for optimizer in optimizers:
                optimizer.zero_grad()
            by.scale(loss(first, t, overflows=t == 2) + loss(second, t + 9)).backward()
            before = [contents(optimizer) for optimizer in optimizers]
            for optimizer in optimizers:
                by.step(optimizer)
            same = [
                all(map(torch.equal, old, contents(optimizer)))
                for old, optimizer in zip(before, optimizers, strict=True)
            ]
            assert same == [t == 2, False]
            by.update()
            path.append(torch.cat([p.detach().flatten() for p in (*first, *second)]))
        ends.append((torch.stack(path), by.get_scale()))
    assert_close(ends[0][0], ends[1][0], 1e-6)
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize("name", FUSED)
def test_what_a_scaler_sets_may_be_set_by_hand(name: str) -> None:
    ends = []
    for made in (CLASSES[name], getattr(torch.optim, name)):
        params = parameters()
        optimizer = made(params, lr=0.01, fused=True)
        for t in range(4):
            set_gradients(params, t)
            optimizer.grad_scale = torch.tensor(4.0)
            optimizer.found_inf = torch.tensor(float(t == 2))
            before = contents(optimizer)
            optimizer.step()
            assert all(map(torch.equal, before, contents(optimizer))) == (t == 2)
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert_close(ends[0], ends[1], 1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("stage", ["clip_norm", "clip_value"])
def test_clipping_inside_the_step_sees_what_the_scale_is_divided_from(stage, fused) -> None:
    """It is what unscaling, clipping and stepping one after the other come to."""
    limit = {"clip_norm": 0.5, "clip_value": 0.3}[stage]
    inside = tw.Optimizer(parameters(), tw.chain(getattr(tw, stage)(limit), tw.adam), lr=0.01)
    if fused:
        inside._step_supports_amp_scaling = True
    before = tw.Adam(parameters(), lr=0.01)
    between = {"clip_norm": clipped, "clip_value": clipped_by_value}[stage]
    assert_close(scaled(inside)[0], scaled(before, between)[0], 1e-6)
    assert_fused(inside)


def test_a_step_that_is_not_skipped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradScaler, "_maybe_opt_step", lambda self, o, *_: o.step())
    with pytest.raises(AssertionError):
        scaled(tw.Adam(parameters()))
