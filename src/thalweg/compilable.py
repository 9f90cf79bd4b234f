"""A step that `torch.compile` takes as it is: one operation, whatever the rule."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, library
from torch.nn import Parameter

if TYPE_CHECKING:
    from thalweg.optimizer import Optimizer

__all__ = ["known", "parameters", "step"]

_optimizers: "WeakValueDictionary[str, Optimizer]" = WeakValueDictionary()
_numbers = count()


def known(optimizer: "Optimizer") -> str:
    """A name under which the operation finds the optimizer."""
    name = f"optimizer {next(_numbers)}"
    _optimizers[name] = optimizer
    return name


def parameters(optimizer: "Optimizer") -> list[Tensor]:
    """The parameters of all groups, for code that is traced.

    The compiler guards every setting of an optimizer whose `param_groups` it reads by that name, so
    that each learning rate would have it compile anew.
    """
    return [p for group in optimizer.__dict__["param_groups"] for p in group["params"]]


def step(optimizer: "Optimizer", closure: Callable[[], Any] | None) -> Any:
    """`Optimizer.step` as it is traced."""
    groups = optimizer.__dict__["param_groups"]
    # Autograd is to follow the step, or the closure is called at a point that the step finds, or a
    # scaler has set numbers on the optimizer, which an operation would see too late.
    alone = any(g.get("differentiable") or g.get("lookahead") for g in groups)
    every = parameters(optimizer)
    # torch does not know how an operation that is not its own acts on distributed tensors.
    alone = alone or any(type(p) not in (Tensor, Parameter) for p in every)
    if alone or getattr(optimizer, "found_inf", None) is not None:
        return _plainly(optimizer, closure)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    places = [i for i, p in enumerate(every) if p.grad is not None]
    params = [every[i] for i in places]
    if params:
        with torch.no_grad():
            torch.ops.thalweg.step(params, [p.grad for p in params], places, optimizer.known)
    return loss


@torch._disable_dynamo  # pyright: ignore
def _plainly(optimizer: "Optimizer", closure: Callable[[], Any] | None) -> Any:
    return optimizer.step_plainly(closure)


@library.custom_op("thalweg::step", mutates_args=("params",))
def _step(  # pyright: ignore[reportUnusedFunction]
    params: Sequence[Tensor], grads: Sequence[Tensor], places: Sequence[int], optimizer: str
) -> None:
    own = _optimizers[optimizer]
    every = parameters(own)
    before = [p.grad for p in every]
    elsewhere: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        for p in every:
            p.grad = None
        for p, g, i in zip(params, grads, places, strict=True):
            every[i].grad = g
            if p.data_ptr() != every[i].data_ptr():
                # The compiler may have the operation work on a copy, which may be newer.
                elsewhere.append((p, every[i], every[i].detach().clone()))
                every[i].detach().copy_(p.detach())
        own.take()
    finally:
        for p, g in zip(every, before, strict=True):
            p.grad = g
        # Parameters may share memory: all are read before any is put back, the first one last.
        for copy, p, _ in elsewhere:
            copy.copy_(p.detach())
        for _, p, old in reversed(elsewhere):
            p.detach().copy_(old)


@_step.register_fake
def _(
    params: Sequence[Tensor], grads: Sequence[Tensor], places: Sequence[int], optimizer: str
) -> None:
    return None
