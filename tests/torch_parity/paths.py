"""Steps that torch's classes and ours both take, along gradients that are the same for both."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from thalweg.optim import CLASSES

MIRRORS = [name for name, made in CLASSES.items() if hasattr(made, "mirror")]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
SHAPES = [(7,), (3, 4), (), (2, 1, 5)]


def parameters(dtype: torch.dtype = torch.float32, shapes: Sequence = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [x.to(dtype).requires_grad_() for x in drawn]


def copies(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in params]


@cache
def noise(t: int, i: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * t + i)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def set_gradients(params: list[Tensor], t: int, sign: int = 1) -> None:
    """Those of a convex function and of noise, so that a rounding error does not grow."""
    for i, p in enumerate(params):
        pull = 0.1 * p.detach() / (1 + p.detach().abs())
        p.grad = sign * (noise(t, i, p.shape, p.dtype) + pull)


def walk(
    params: list[Tensor],
    optimizer: torch.optim.Optimizer,
    steps: range,
    *,
    sign: int = 1,
    after: Callable[[int], object] = lambda t: None,
) -> Tensor:
    """All parameters after each of the steps, a row for each."""
    path = []
    for t in steps:
        set_gradients(params, t, sign)
        optimizer.step()
        after(t)
        path.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(path)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal to a rounding error of the largest number on the way."""
    scale = max(1.0, expected.detach().abs().max().item())
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=tolerance * scale)


def assert_fused(optimizer: torch.optim.Optimizer) -> None:
    """Every parameter that has taken a step took its last one in the compiled kernel."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    ran = {optimizer.backend_of(p) for p in params} - {None}  # pyright: ignore
    assert ran == {"fused"}
