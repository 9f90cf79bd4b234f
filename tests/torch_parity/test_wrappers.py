"""What is put around an optimizer: schedules, averages of weights, hooks of the backward pass."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from thalweg.optim import CLASSES
from torch_parity.paths import MIRRORS, assert_close, assert_fused, noise, parameters, walk

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.2, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 20),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8, 1e-3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 12),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.7)], [4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.01, anneal_epochs=5),
}
OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "Adam": {},
    "tensor": {"lr": torch.tensor(0.05, dtype=torch.float64)},
}


def followed(scheduler: lr_scheduler.LRScheduler) -> Callable[[int], None]:
    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    return lambda t: scheduler.step(*[1.0] * plateau)


def test_every_schedule_of_torchs_is_tried() -> None:
    known = {*lr_scheduler.__all__} - {"LRScheduler"}
    assert known <= {*SCHEDULERS}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_is_followed_and_goes_on_after_a_restart(name: str, kind: str) -> None:
    """Also where the rate is a tensor, which schedules change in place."""
    ends, settings = [], []
    made_by = "Adam" if kind == "tensor" else kind
    for made in (CLASSES[made_by], getattr(torch.optim, made_by)):
        arguments = {"lr": 0.05, **copy.deepcopy(OPTIMIZERS[kind])}
        params = parameters()
        optimizer = made(params, **arguments)
        scheduler = SCHEDULERS[name](optimizer)
        path = [walk(params, optimizer, range(6), after=followed(scheduler))]
        other = made(params, **copy.deepcopy(arguments))
        again = SCHEDULERS[name](other)
        again.load_state_dict(copy.deepcopy(scheduler.state_dict()))
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        path.append(walk(params, other, range(6, 11), after=followed(again)))
        (group,) = other.param_groups
        settings.append([float(group["lr"]), group.get("momentum"), group.get("betas")])
        ends.append(torch.cat(path))
        if made is CLASSES[made_by]:
            assert_fused(other)
    assert settings[0] == settings[1]
    assert settings[0][0] != 0.05
    assert_close(ends[0], ends[1], 1e-6)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # A bias before the normalization would have no gradient but rounding errors.
        first, last = nn.Linear(3, 6, bias=False), nn.Linear(6, 2)
        self.layers = nn.Sequential(first, nn.BatchNorm1d(6), nn.Tanh(), last)
        with torch.no_grad():
            for i, p in enumerate(self.layers.parameters()):
                p.copy_(0.5 * noise(0, i, p.shape, p.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def batch(t: int) -> Tensor:
    return noise(t, 20, torch.Size([8, 3]), torch.float32)


def learn(model: nn.Module, t: int, scale: float = 1.0) -> None:
    (scale * (model(batch(t)) - 1).square().mean()).backward()


AVERAGES = {
    "equal": lambda model: swa_utils.AveragedModel(model),
    "exponential": lambda model: swa_utils.AveragedModel(
        model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.7)
    ),
    "with buffers": lambda model: swa_utils.AveragedModel(
        model, avg_fn=swa_utils.get_ema_avg_fn(0.7), use_buffers=True
    ),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_weights_are_averaged(name: str, average: str) -> None:
    ends = []
    for made in (CLASSES[name], getattr(torch.optim, name)):
        model = Network()
        averaged = AVERAGES[average](model)
        optimizer = made(model.parameters(), lr=0.05)
        scheduler = swa_utils.SWALR(optimizer, 0.01, anneal_epochs=4)
        for t in range(10):
            optimizer.zero_grad()
            learn(model, t)
            optimizer.step()
            averaged.update_parameters(model)
            scheduler.step()
        swa_utils.update_bn((batch(t) for t in range(4)), averaged)
        ends.append(torch.cat([x.flatten().float() for x in averaged.state_dict().values()]))
        last = torch.cat([p.detach().flatten() for p in model.parameters()])
        mean = torch.cat([p.detach().flatten() for p in averaged.parameters()])
        assert not torch.allclose(last, mean)
        if made is CLASSES[name]:
            assert_fused(optimizer)
    assert_close(ends[0], ends[1], 1e-6)


@pytest.mark.parametrize("name", MIRRORS)
def test_a_hook_may_step_as_soon_as_a_gradient_is_there(name: str) -> None:
    """One optimizer for each parameter, stepped inside of the backward pass."""
    ends = []
    for made in (CLASSES[name], getattr(torch.optim, name)):
        model = Network()
        optimizers = {p: made([p], lr=0.05) for p in model.parameters()}

        def step(p: Tensor, optimizers=optimizers) -> None:
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(step)
        for t in range(6):
            learn(model, t)
            assert all(p.grad is None for p in model.parameters())
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        if made is CLASSES[name]:
            for optimizer in optimizers.values():
                assert_fused(optimizer)
    assert_close(ends[0], ends[1], 1e-6)


@pytest.mark.parametrize("to_none", [False, True])
@pytest.mark.parametrize("name", MIRRORS)
def test_gradients_are_accumulated_and_changed_on_the_way(name: str, to_none: bool) -> None:
    paths = []
    for made in (CLASSES[name], getattr(torch.optim, name)):
        params = parameters()
        for p in params:
            p.register_hook(lambda g: g / 4)
        optimizer, path = made(params, lr=0.05), []
        for t in range(6):
            optimizer.zero_grad(set_to_none=to_none)
            for part in range(4):
                loss = sum((p * noise(10 * t + part, 5, p.shape, p.dtype)).sum() for p in params)
                (loss + 0.1 * sum(torch.log(torch.cosh(p)).sum() for p in params)).backward()
            optimizer.step()
            path.append(torch.cat([p.detach().flatten() for p in params]))
        paths.append(torch.stack(path))
        if made is CLASSES[name]:
            assert_fused(optimizer)
    assert_close(paths[0], paths[1], 1e-6)


@pytest.mark.parametrize("name", MIRRORS)
def test_a_complex_network_is_trained(name: str) -> None:
    losses = []
    for made in (CLASSES[name], getattr(torch.optim, name)):
        a, b = parameters(torch.complex64, [(4, 3), (2, 4)])
        x = noise(0, 30, torch.Size([3, 8]), torch.complex64)
        optimizer, seen = made([a, b], lr=0.02), []
        for _ in range(8):
            optimizer.zero_grad()
            loss = (b @ torch.tanh(a @ x) - 1).abs().square().mean()
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        losses.append(torch.stack(seen))
        if made is CLASSES[name]:
            assert_fused(optimizer)
    assert_close(losses[0], losses[1], 1e-5)
    assert losses[0][-1] < losses[0][0]
