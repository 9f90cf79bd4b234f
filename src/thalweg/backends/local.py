"""The plain real numbers that a tensor stands for: its shard in this process, pairs for complex.

A rule that works element by element does to a shard what it does to the whole, and a complex number
is trained as two real ones, as torch does. So what a kernel gets is a view of the same memory.
"""

import sys
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "alike",
    "distributed",
    "positions",
    "real",
    "redistributed",
    "shard",
    "spread",
    "where",
    "whole",
]

# DTensor is of a module that takes long to load, and is not typed: what is one is Any here.


def distributed(x: Any) -> bool:
    """Whether a tensor is one that `torch.distributed` has spread over processes."""
    # Where the module has not been loaded there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and type(x) is module.DTensor


def shard(x: Any) -> Tensor:
    """The part of a distributed tensor that is in this process; any other tensor as it is."""
    if not distributed(x):
        return x
    part = x._local_tensor
    # It may still be on its way.
    return part.wait() if hasattr(part, "wait") else part


def real(x: Tensor) -> Tensor:
    """The numbers of a tensor's shard, complex ones as pairs in a last dimension of two.

    What is conjugated only when it is read has no such view, and stays as it is.
    """
    x = shard(x)
    return torch.view_as_real(x.detach()) if x.is_complex() and not x.is_conj() else x


def alike(x: Any, like: Any) -> bool:
    """Whether each process has the same elements of both tensors, and none has still to be summed.

    Two tensors that are not distributed are alike.
    """
    if not distributed(x) or not distributed(like):
        return not distributed(x) and not distributed(like)
    placed = x.placements == like.placements and x.device_mesh == like.device_mesh
    return placed and not any(p.is_partial() for p in x.placements)


def where(x: Any) -> str:
    """How a distributed tensor is spread, for an error."""
    return f"as {x.placements} on {x.device_mesh}"


def redistributed(x: Any, like: Any) -> Any:
    """The tensor with its elements in the processes where those of another are."""
    return x if alike(x, like) else x.redistribute(like.device_mesh, like.placements)


def whole(x: Any) -> bool:
    """Whether all of a tensor's elements are in this process."""
    return not distributed(x) or all(p.is_replicate() for p in x.placements)


def positions(x: Any) -> Tensor:
    """The row-major positions of the real numbers that are here among all of the tensor's, int64.

    It has the shape of `real(x)`.
    """
    dimensions = [*x.shape, 2] if x.is_complex() else [*x.shape]
    found = torch.zeros([1] * len(dimensions), dtype=torch.int64, device=x.device)
    stride = 1
    for d, n in reversed([*enumerate(dimensions)]):
        along = [-1 if k == d else 1 for k in range(len(dimensions))]
        index = (torch.arange(n, device=x.device) * stride).view(along)
        found = found + _cut(index, d, x)
        stride *= n
    return found


def _cut(index: Tensor, d: int, like: Any) -> Tensor:
    """What is left of a tensor in this process if it is cut along a dimension as another is."""
    if not distributed(like):
        return index
    from torch.distributed.tensor import DTensor, Replicate

    cuts = [p if getattr(p, "dim", None) == d else Replicate() for p in like.placements]
    everywhere = [Replicate()] * len(cuts)
    whole = DTensor.from_local(index, like.device_mesh, everywhere, run_check=False)
    return shard(whole.redistribute(placements=cuts))


def spread(part: Tensor, like: Any) -> Tensor:
    """The distributed tensor of which each process has a part, placed as another is."""
    if not distributed(like):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(
        part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride()
    )
