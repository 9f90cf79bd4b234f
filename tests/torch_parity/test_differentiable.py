"""Gradients flow through steps: to the parameters, gradients and states before, and to settings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import thalweg as tw
from thalweg import UsageError
from thalweg.optim import CLASSES
from torch_parity.paths import MIRRORS, assert_close, noise, parameters, walk
from torch_parity.table import Arguments, label, options, plain

CASES = [
    pytest.param(name, arguments, id=f"{name}-{label(arguments)}")
    for name in MIRRORS
    for arguments in options(name)
]
# Rprop's rate is where its step sizes begin, and its steps depend on the gradient's sign alone.
LEARNING = MIRRORS
WITH_DECAY = [name for name in MIRRORS if any("weight_decay" in o for o in options(name))]
# Numbers kept for each weight that are never negative, and by which is divided.
SQUARES = ("sum", "square_avg", "acc_delta", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "step_size")


def drawn(seed: int) -> Tensor:
    return noise(0, seed, torch.Size([5]), torch.float64).clone().requires_grad_()


def states(name: str, arguments: Arguments) -> dict[str, Tensor]:
    """States as after some steps, each to be followed; the count is no continuous quantity."""
    (p,) = parameters(torch.float64, [(5,)])
    optimizer = getattr(torch.optim, name)([p], **arguments)
    p.grad = torch.ones_like(p)
    optimizer.step()
    found = {}
    for seed, key in enumerate(optimizer.state[p]):
        if key == "step":
            found[key] = torch.tensor(10.0)
        elif key == "mu_product":
            found[key] = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        else:
            x = drawn(seed + 2).detach()
            # The square of an average is at most the average of squares.
            x = x.abs() + 0.5 if key in SQUARES else 0.1 * x
            found[key] = x.requires_grad_()
    return found


def stepped(
    made: Callable[..., torch.optim.Optimizer],
    arguments: Arguments,
    held: dict[str, Tensor],
) -> Callable[..., tuple[Tensor, ...]]:
    """A function from a parameter, its gradient and its states to the same after a step."""
    keys = [key for key, x in held.items() if x.requires_grad]

    def function(p: Tensor, g: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        p = p.clone()
        p.grad = g
        optimizer = made([p], **arguments, differentiable=True)
        mine = {key: x.clone() for key, x in zip(keys, before, strict=True)}
        optimizer.state[p].update({key: mine.get(key, x.clone()) for key, x in held.items()})
        optimizer.step()
        state = optimizer.state[p]
        return (p, *(x for x in state.values() if isinstance(x, Tensor) and x.requires_grad))

    return function


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_step_is_differentiated(name: str, arguments: Arguments) -> None:
    held = states(name, arguments)
    inputs = (drawn(0), drawn(1), *(x for x in held.values() if x.requires_grad))
    function = stepped(CLASSES[name], arguments, held)
    assert len(function(*inputs)) == len(inputs) - 1
    assert gradcheck(function, inputs)
    twin = stepped(getattr(torch.optim, name), plain(arguments), held)
    weights = [noise(1, i, x.shape, x.dtype) for i, x in enumerate(function(*inputs))]
    # Rprop does not depend on the size of a gradient at all.
    slopes = [
        torch.autograd.grad(f(*inputs), inputs, weights, materialize_grads=True)
        for f in (function, twin)
    ]
    for ours, torchs in zip(*slopes, strict=True):
        # torch counts steps, and corrects for the start, in float32.
        assert_close(ours, torchs, 1e-5)


def settings(name: str) -> list[Arguments]:
    """Settings to be learned, each alone: rates and decays of all, and the betas torch takes."""
    found: list[Arguments] = [{"lr": 0.1}]
    if name in WITH_DECAY:
        found.append({"weight_decay": 0.2})
        found.append({"lr": 0.1, "weight_decay": 0.2})
    if name in ("Adam", "AdamW"):
        found.append({"betas": (0.8, 0.9)})
        found.append({"lr": 0.1, "betas": (0.8, 0.9), "amsgrad": True})
    if name in ("NAdam", "RAdam"):
        found.append({"lr": 0.1, "weight_decay": 0.2, "decoupled_weight_decay": True})
    if name == "SGD":
        found.append({"lr": 0.1, "momentum": 0.9, "nesterov": True})
    return found


def walked(name: str, arguments: Arguments) -> Callable[..., Tensor]:
    """A function from a parameter and settings to the parameter after some steps."""
    fixed = {key: x for key, x in arguments.items() if key in ("amsgrad", "momentum", "nesterov")}
    fixed |= {key: x for key, x in arguments.items() if isinstance(x, bool)}
    learned = [key for key in arguments if key not in fixed]

    def function(p: Tensor, *values: Tensor) -> Tensor:
        given: dict[str, Any] = dict(zip(learned, values, strict=False))
        if "betas" in given:
            given["betas"] = values[-2:]
        p = p.clone()
        optimizer = CLASSES[name]([p], **given, **fixed, differentiable=True)
        for t in range(3):
            p.grad = p.clone() + noise(t, 3, p.shape, p.dtype)
            optimizer.step()
        return p

    return function


@pytest.mark.parametrize(
    ("name", "arguments"),
    [pytest.param(n, a, id=f"{n}-{label(a)}") for n in LEARNING for a in settings(n)],
)
def test_settings_can_be_learned(name: str, arguments: Arguments) -> None:
    numbers = [x for x in arguments.values() if isinstance(x, float) and x != 0.9]
    numbers += arguments.get("betas", ())
    values = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    function = walked(name, arguments)
    assert gradcheck(function, (drawn(0), *values))
    slopes = torch.autograd.grad(function(drawn(0), *values).sum(), values)
    assert all(slope != 0 for slope in slopes)


def trained(name: str, start: Tensor, rate: Tensor, followed: bool) -> Tensor:
    """The loss on new data after a line has been fitted to old data, from `start`."""
    x = noise(0, 10, torch.Size([8, 2]), torch.float64)
    y = x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + 0.3
    w = start.clone()
    optimizer = CLASSES[name]([w], lr=rate, differentiable=followed)
    for _ in range(4):
        # Autograd needs what it has seen as it was, and a step changes w in place.
        seen = w.clone() if followed else w.detach().requires_grad_()
        loss = torch.log(torch.cosh(x @ seen - y)).mean()
        (w.grad,) = torch.autograd.grad(loss, seen, create_graph=followed)
        if followed:
            optimizer.step()
        else:
            with torch.no_grad():
                optimizer.step()
    new = noise(1, 10, torch.Size([8, 2]), torch.float64)
    return (new @ w - new.sum(1)).square().mean()


@pytest.mark.parametrize("name", LEARNING)
def test_a_rate_and_a_start_are_learned_through_training(name: str) -> None:
    """The slopes of the loss after training are those of training again with other values.

    The runs that are compared with are plain ones, in the compiled kernel.
    """
    start = torch.tensor([0.2, 0.1], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(trained(name, start, rate, followed=True), (start, rate))

    def loss(shift: Tensor, change: float) -> float:
        moved = (start + shift).detach()
        return trained(name, moved, (rate + change).detach(), followed=False).item()

    h, none = 1e-5, torch.zeros(2, dtype=torch.float64)
    expected = [(loss(none, h) - loss(none, -h)) / (2 * h)]
    for i in range(2):
        shift = h * torch.eye(2, dtype=torch.float64)[i]
        expected.append((loss(shift, 0) - loss(-shift, 0)) / (2 * h))
    found = torch.cat([slopes[1].view(1), slopes[0]])
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=1e-8)
    assert found.ne(0).all()


@pytest.mark.parametrize("name", MIRRORS)
def test_a_complex_step_is_followed(name: str) -> None:
    ours, torchs = parameters(torch.complex128), parameters(torch.complex128)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=name != "Rprop")
    followed = [p.clone() for p in ours]
    optimizer = CLASSES[name](followed, lr=rate, differentiable=True)
    found = walk(followed, optimizer, range(4))
    twin = getattr(torch.optim, name)(torchs, lr=0.1, foreach=False)
    assert_close(found, walk(torchs, twin, range(4)), 1e-6)
    end = sum(p.abs().square().sum() for p in followed)
    assert all(slope.ne(0).all() for slope in torch.autograd.grad(end, ours))


def test_a_leaf_is_refused_as_torch_refuses_it() -> None:
    (p,) = parameters(shapes=[(3,)])
    p.grad = torch.ones_like(p)
    for made in (torch.optim.SGD, CLASSES["SGD"]):
        with pytest.raises((RuntimeError, UsageError), match="leaf"):
            made([p], differentiable=True).step()


def test_nothing_flows_through_a_step_that_is_not_followed() -> None:
    """The check above sees it when a step is cut off."""
    held = states("Adam", {})
    inputs = (drawn(0), drawn(1), *(x for x in held.values() if x.requires_grad))

    def cut(params: list[Tensor], **given: Any) -> torch.optim.Optimizer:
        params[0].grad = params[0].grad.detach()
        return CLASSES["Adam"](params, **given)

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(stepped(cut, {}, held), inputs)


def test_what_is_wrong_is_said_before_anything_is_changed() -> None:
    params = [torch.ones(3).clone(), torch.ones(2).clone()]
    optimizer = tw.Adam([("a", params[0]), ("b", params[1])], lr=0.1, differentiable=True)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.clone() for p in params]
    optimizer.state[params[1]]["exp_avg"] = torch.ones(5)
    with pytest.raises(tw.UsageError, match=r"the state 'm' of parameter 'b' .* has shape \(5,\)"):
        optimizer.step()
    assert all(map(torch.equal, params, before))


def test_autograd_may_be_sent_away_on_the_way() -> None:
    p = torch.ones(3, requires_grad=True).clone()
    optimizer = tw.Adam([p], lr=0.1, differentiable=True)
    p.grad = torch.ones(3)
    optimizer.step()
    with torch.no_grad():
        optimizer.param_groups[0]["differentiable"] = False
        optimizer.step()
    torch.testing.assert_close(p, torch.full((3,), 0.8))
