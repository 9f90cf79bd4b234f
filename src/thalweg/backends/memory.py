"""Where tensors lie: what a kernel may touch, in which order, and on pages of what size."""

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.backends import local

__all__ = [
    "apart",
    "filled",
    "freed",
    "layout",
    "overlaps_itself",
    "plain",
    "read_only",
    "span",
    "tangled",
]

_HUGE = 1 << 21
_PLAIN = (Tensor, torch.nn.Parameter)


def plain(x: Tensor) -> bool:
    """Whether a tensor, or its shard here, is nothing but numbers in the CPU's memory."""
    here = x if type(x) in _PLAIN else local.shard(x)
    return here.is_cpu and here.layout is torch.strided and type(here) in _PLAIN


def span(x: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte and of the one after its last."""
    begin = x.data_ptr()
    if x.is_contiguous():
        return begin, begin + x.numel() * x.element_size()
    if not x.numel():
        return begin, begin
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return begin, begin + (last + 1) * x.element_size()


def freed(x: Tensor) -> bool:
    """Whether a plain tensor has more elements than its storage has memory for."""
    if not x.numel():
        return False
    begin, end = span(x)
    storage = x.untyped_storage()
    return not begin or end > storage.data_ptr() + storage.nbytes()


def overlaps_itself(x: Tensor) -> bool:
    """Whether two elements may share memory, as those of an expanded tensor do."""
    if x.is_contiguous():
        return False
    reach = 0
    for stride, n in sorted(zip(x.stride(), x.shape, strict=True)):
        if n > 1:
            if stride <= reach:
                return x.numel() > 1
            reach += (n - 1) * stride
    return False


def tangled(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors share memory so that an element of one lies in another of another's."""
    spans = sorted((*span(x), x.stride()) for x in tensors if x.numel())
    return any(b[0] < a[1] and a != b for a, b in pairwise(spans))


def layout(tensors: Sequence[Tensor], *, positions: bool) -> NDArray[np.int64] | None:
    """How to walk tensors of one shape together; None if they are dense and in the same order.

    Args:
        tensors: the first is the one whose order in memory is followed.
        positions: whether the row-major position of each element is needed too.

    Returns:
        The number of dimensions, their sizes, and for each tensor, and then for the positions,
        the strides in elements.
    """
    if all(x.is_contiguous() for x in tensors):
        return None
    shape = tensors[0].shape
    kept = [d for d, n in enumerate(shape) if n != 1]
    strides = [[x.stride(d) for d in kept] for x in tensors]
    if positions:
        strides.append([int(np.prod(shape[d + 1 :])) for d in kept])
    sizes = [shape[d] for d in kept]
    order = sorted(range(len(kept)), key=lambda d: (-strides[0][d], -sizes[d]))
    merged: list[tuple[int, list[int]]] = []
    for d in order:
        steps = [row[d] for row in strides]
        if merged and merged[-1][1] == [s * sizes[d] for s in steps]:
            merged[-1] = (merged[-1][0] * sizes[d], steps)
        else:
            merged.append((sizes[d], steps))
    if not merged or (len(merged) == 1 and all(s == 1 for s in merged[0][1])):
        return None
    # The innermost loop is over the dimension in which memory is nearest, if it is not short.
    merged.sort(key=lambda dimension: (min(dimension[0], 16), -dimension[1][0]))
    words = [len(merged), *(n for n, _ in merged)]
    for k in range(len(strides)):
        words += [steps[k] for _, steps in merged]
    return np.array(words, np.int64)


def apart(rows: Iterable[Sequence[Tensor]], count: int) -> list[list[int]]:
    """Which of the tensors' indices may be worked on at once, and what has to wait for them.

    Args:
        rows: lists of one tensor for each index; the first is written, as is all that
            belongs to the same index.
        count: how many indices there are.

    Returns:
        First all indices whose memory no other touches, then each other by itself, in order.
    """
    spans = sorted((*span(x), i) for row in rows for i, x in enumerate(row) if x.numel())
    shared: set[int] = set()
    reach, holder = 0, -1
    for begin, end, owner in spans:
        if begin < reach and owner != holder:
            shared |= {owner, holder}
        if end > reach:
            reach, holder = end, owner
    free = [i for i in range(count) if i not in shared]
    return [free, *([i] for i in sorted(shared))]


def read_only(tensors: Iterable[Tensor]) -> Tensor | None:
    """The first tensor in the CPU's memory that the process may not write to, if there is one.

    It is known on Linux only. Elsewhere, as in torch's own operations, the write ends the process.
    """
    try:
        # Each line is `begin-end rwxp ...`, in hexadecimal digits and in order.
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    fields = [line.split(" ", 2) for line in lines]
    begins = [int(area.split("-")[0], 16) for area, *_ in fields]
    for x in tensors:
        begin, end = span(x)
        place = max(bisect_right(begins, begin) - 1, 0)
        while begin < end and place < len(begins) and begins[place] < end:
            if fields[place][1][1] != "w":
                return x
            place += 1
    return None


def filled(like: Tensor, value: float, dtype: torch.dtype) -> Tensor:
    """A new tensor of that shape, order and device, on huge pages where the system has them.

    Memory is translated from addresses page by page, and each page of 4 KiB is an entry more than
    the processor can remember of tensors of this size.
    """
    made = torch.empty_like(
        like, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False
    )
    numbers = local.real(made)
    if plain(numbers):
        begin, end = span(numbers)
        begin, end = -(-begin // _HUGE) * _HUGE, end // _HUGE * _HUGE
        if begin < end and (advise := _advise()) is not None:
            # It is advice: a system that does not take it gives small pages.
            advise(begin, end - begin, mmap.MADV_HUGEPAGE)
    numbers.fill_(value)
    return made


@cache
def _advise() -> Any:
    if sys.platform != "linux":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
