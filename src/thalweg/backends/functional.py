"""Run a rule's graph with torch's operations so that autograd follows, and nothing is read back.

It is the graph as the rule was written, one parameter at a time: for learning through a step, and
for a step that is to be captured on a device, where a number on the host would be a constant.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.backends import local
from thalweg.rules import philox
from thalweg.rules.reference import MEANING
from thalweg.rules.tracing import Trace
from thalweg.rules.vocabulary import Expr, symbol, walk

__all__ = ["step"]


def _sign(x: Tensor) -> Tensor:
    # torch's own sign of NaN is 0.
    return torch.where(x.isnan(), x, x.sign())


_TORCH: Mapping[str, Callable[..., Tensor]] = {
    **{op: getattr(torch, op) for op in MEANING},
    "sign": _sign,
}


def step(trace: Trace, values: Mapping[str, Tensor | float], *, stream: int) -> dict[str, Tensor]:
    """What `theta` and the states are after a step; nothing is changed.

    Args:
        trace: the rule.
        values: tensors and numbers by the symbols' names: `theta`, `g`, `t`, the hyperparameters
            and the states. Those that are tensors may require a gradient.
        stream: the parameter's position among all of the optimizer's.

    Returns:
        By the symbols' names, each in its own type and shape; complex ones stay so.
    """
    theta = values["theta"]
    assert isinstance(theta, Tensor)
    known = {name: _operand(x, theta) for name, x in values.items()}
    outputs = {"theta": symbol("theta", element=True) - trace.step, **trace.states}
    found: dict[Expr, Tensor] = {}
    for e in walk(*outputs.values()):
        match e.op:
            case "const":
                found[e] = _operand(e.constant or 0.0, theta)
            case "symbol":
                found[e] = known[e.name]
            case "normal":
                seed, t = (int(found[a]) for a in e.operands)
                index = local.positions(theta)
                draws = philox.normal(torch, index, seed=seed, t=t, stream=stream)
                found[e] = local.spread(draws.to(known["g"].dtype), theta)
            case _:
                found[e] = _TORCH[e.op](*(found[a] for a in e.operands))
    return {name: _like(found[e], values[name]) for name, e in outputs.items()}


def _operand(x: Tensor | float, theta: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        # Filled where it is needed: a copy from the host could not be captured.
        return torch.full((), x, dtype=torch.float64, device=theta.device)
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _like(x: Tensor, old: Any) -> Tensor:
    if not isinstance(old, Tensor):
        return x
    return (torch.view_as_complex(x.contiguous()) if old.is_complex() else x).to(old.dtype)
