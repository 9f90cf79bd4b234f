"""A model, the optimizers, and the path of one process that those of several have to keep to.

All is float64. Several processes sum a batch in another order, and so have gradients that differ by
some 1e-16. At worst an optimizer divides such a difference by eps = 1e-8 and multiplies it by
lr = 0.01, which makes 1e-10 a step, so 1e-9 leaves room for the steps that are taken here; a shard
or a gradient that is the wrong one moves a weight by lr.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import thalweg as tw

TOLERANCE = 1e-9
STEPS = 5
BATCH = 8

_NAMED: Mapping[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.01, "initial_accumulator_value": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "NAdam": {"lr": 0.01},
}
Maker = Callable[[Iterable[Any]], torch.optim.Optimizer]


def _of(classes: Any, name: str, **others: Any) -> Maker:
    return lambda params: getattr(classes, name)(params, **_NAMED[name], **others)


OURS: Mapping[str, Maker] = {name: _of(tw, name) for name in _NAMED}
TORCHS: Mapping[str, Maker] = {name: _of(torch.optim, name) for name in _NAMED}


def noisy(params: Iterable[Any]) -> tw.Optimizer:
    """With noise that depends on where in a parameter a weight is."""
    return tw.Optimizer(params, tw.chain(tw.noise, tw.momentum), lr=0.01, eta=1.0)


def network() -> nn.Sequential:
    """Always the same; some of its parameters are smaller than the number of processes."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 1)
    return nn.Sequential(*layers).double()


def batch(t: int) -> Tensor:
    """The examples of a step."""
    return torch.randn(BATCH, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(t))


def backward(model: nn.Module, examples: Tensor) -> None:
    """The gradients of the mean loss over some examples."""
    model.zero_grad()
    (model(examples).squeeze(1) - examples.prod(1)).square().mean().backward()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    own: Callable[[Tensor], Tensor] = lambda examples: examples,
    *,
    steps: range = range(STEPS),
    before: Callable[[nn.Module], object] = lambda model: None,
) -> None:
    """Train on each process's own part of every batch.

    Args:
        before: what is done between the gradients and the step.
    """
    for t in steps:
        backward(model, own(batch(t)))
        before(model)
        optimizer.step()


def whole(x: Tensor) -> Tensor:
    """A tensor with all of its elements."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def assert_equal(model: nn.Module, one: nn.Module) -> None:
    """Both have come to the same place, which is not where they began."""
    for (name, p), q, start in zip(
        model.named_parameters(), one.parameters(), network().parameters(), strict=True
    ):
        torch.testing.assert_close(whole(p.detach()), q.detach(), rtol=0, atol=TOLERANCE, msg=name)
        assert (q - start).abs().max() > 10 * TOLERANCE, name


def assert_fused(optimizer: torch.optim.Optimizer) -> None:
    """A kernel took the last step of every parameter."""
    assert isinstance(optimizer, tw.Optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert [optimizer.backend_of(p) for p in params] == ["fused"] * len(params)
