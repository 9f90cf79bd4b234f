"""Take a step in the rows that a sparse gradient has, and touch no others.

A program is elementwise, so it can be run on any part of a parameter. The kernel is told which rows
there are, and works on each where it lies: nothing is gathered or scattered, and no work grows with
the number of rows of the parameter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.backends import eager, fused, memory, team
from thalweg.backends.binding import examine, gradient_dtype
from thalweg.backends.fused import _DTYPES, Pass  # pyright: ignore[reportPrivateUsage]
from thalweg.backends.lowering import buffer_names, noisy
from thalweg.backends.program import Program
from thalweg.backends.rows import rows_kernel
from thalweg.errors import UsageError
from thalweg.rules.vocabulary import Expr, const, node, symbol, walk

__all__ = ["SparseBound", "dense", "untouched_stay"]

_ALONE = 1 << 18
"""Bytes up to which one thread is done before others would have begun."""
_BATCH = 1 << 12
"""How many elements a thread takes at a time, in whole rows."""


def untouched_stay(program: Program) -> bool:
    """Whether an element whose gradient is 0 stays as it is, and so does every state of it.

    If so, the step of the touched rows is the step of all. 0 / 0 counts as 0: it is NaN where a
    rule is run with an eps of 0 over rows that have never been touched.
    """
    g = symbol("g", element=True)
    values: dict[Expr, Expr] = {}
    for e in walk(*program.outputs.values()):
        operands = [values[a] for a in e.operands]
        if e is g:
            values[e] = const(0)
        elif e.op in ("abs", "sign", "sqrt") and operands[0].constant == 0:
            values[e] = operands[0]
        else:
            values[e] = node(e.op, *operands) if operands else e
    return all(values[e] is symbol(name, element=True) for name, e in program.outputs.items())


class SparseBound:
    """A program with tensors whose gradients are sparse; calling it takes one step, in place.

    It stands where a `Bound` does for dense gradients. The tensors must stay where and as they are
    while it is in use; gradients may be others in each step, and are examined in each.

    Args:
        program: what to run; for the touched rows, and for no others.
        tensors: the tensors by symbol: `theta` and each state, all lists of one length.
        streams: each parameter's position among all of the optimizer's.
        backend: one of `BACKENDS`.
        name: what an error calls the parameter of an index.

    Attributes:
        passes: what runs without being given the gradients: nothing.
        needs_gradients: that a step is to be given the gradients.
        fused: for each index whether a kernel takes its rows, as the last gradient was.
        gradient_words: 0 for each index; see `Bound.gradient_words`.

    Raises:
        UsageError: a tensor is not what it should be.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Sequence[Tensor]],
        streams: Sequence[int],
        backend: str,
        name: Callable[[int], str],
    ) -> None:
        examine(tensors, program.outputs, name)
        self._program, self._streams, self._backend, self._name = program, streams, backend, name
        self._tensors = [
            {symbol: row[i] for symbol, row in tensors.items()}
            for i in range(len(tensors["theta"]))
        ]
        self.passes: list[Pass] = []
        self.needs_gradients = True
        self.fused = [False] * len(self._tensors)
        self.gradient_words = [0] * len(self._tensors)

    def __call__(self, numbers: Sequence[float], grads: Sequence[Any]) -> None:
        """Take one step.

        Args:
            numbers: the values of the program's scalars.
            grads: the gradients, of the layout `torch.sparse_coo`. A row that is there more than
                once stands for the sum.

        Raises:
            UsageError: see `ready`; nothing has been changed then.
        """
        self.ready(grads)(numbers)

    def ready(self, grads: Sequence[Any]) -> Callable[[Sequence[float]], None]:
        """See that a step can be taken, and return what takes it, given the program's scalars.

        Raises:
            UsageError: a gradient does not fit its parameter, or the backend was asked for by name
                and cannot take it.
        """
        steps = [self._ready(i, grad) for i, grad in enumerate(grads)]

        def take(numbers: Sequence[float]) -> None:
            # One after the other: parameters that share memory are stepped as in a loop over them.
            for step in steps:
                step(numbers)

        return take

    def _ready(self, i: int, grad: Any) -> Callable[[Sequence[float]], None]:
        tensors, program, name = self._tensors[i], self._program, partial(self._name, i)
        theta, *states = tensors.values()
        _examine(theta, grad, name)
        entries = _entries(grad, name)
        refused = "" if self._backend == "eager" else fused.refusal(theta, entries.values, states)
        if refused is None and not all(x.is_contiguous() for x in (theta, *states)):
            refused = "its gradient is sparse, and not all of its rows are without gaps"
        if refused is None and _are_of(entries.values, (theta, *states)):
            refused = "the rows of its gradient are its own or a state's, in another order"
        self.fused[i] = refused is None
        if refused is None:
            return _Rows(program, tensors, entries, self._streams[i])
        if self._backend == "fused":
            raise UsageError(
                f"backend is 'fused', which cannot take {name()}: {refused}. Use backend='auto', "
                "which has torch's operations for it."
            )
        if noisy(program):
            raise UsageError(
                f"the noise of {name()} depends on where an element is, which torch's operations "
                "do not know in the rows of a sparse gradient: make it dense, or leave out noise."
            )
        return partial(_gathered, program, tensors, entries, self._streams[i])


def dense(grad: Any, theta: Tensor, name: Callable[[], str]) -> Tensor:
    """A sparse gradient with all rows.

    Raises:
        UsageError: it does not fit its parameter.
    """
    _examine(theta, grad, name)
    return _entries(grad, name).listed(grad.shape).to_dense()


def _are_of(values: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether the entries' memory is that of a tensor, whose rows change while they are read."""
    return values.numel() > 0 and memory.span(values) in map(memory.span, tensors)


def _examine(theta: Tensor, grad: Any, name: Callable[[], str]) -> None:
    """Raise an error if a gradient is not sparse, or does not fit its parameter."""
    if not isinstance(grad, Tensor):
        raise UsageError(f"the gradient of {name()} is {grad!r}, but must be a tensor.")
    if grad.layout is not torch.sparse_coo or not grad.sparse_dim():
        raise UsageError(
            f"the gradient of {name()} has the layout {grad.layout} or no sparse dimension, where "
            "rows of torch.sparse_coo were expected: convert it with grad.to_sparse(1)."
        )
    if grad.shape != theta.shape:
        raise UsageError(
            f"the gradient of {name()} has shape {tuple(grad.shape)}, and the parameter "
            f"{tuple(theta.shape)}: they must be equal. Was one of them resized or replaced?"
        )
    wanted = gradient_dtype(theta) or grad.dtype
    if grad.dtype is not wanted or grad.device != theta.device:
        raise UsageError(
            f"the gradient of {name()} is of {grad.dtype} on {grad.device}, and it has to be of "
            f"{wanted} on {theta.device}: convert the parameter and its gradient together."
        )
    if grad.is_complex() is not theta.is_complex():
        raise UsageError(
            f"the gradient of {name()} is of {grad.dtype}, and the parameter of {theta.dtype}: "
            "both have to be complex or neither."
        )


@dataclass(frozen=True)
class _Entries:
    """The entries of a sparse gradient, as they are, in any order and more than one for a row.

    Attributes:
        indices: where each entry's row is, one line for each sparse dimension.
        values: the entries.
        numbers: which row of the parameter each is of.
    """

    indices: Tensor
    values: Tensor
    numbers: NDArray[np.int64]

    def listed(self, shape: torch.Size) -> Tensor:
        """The gradient, which torch takes for one that may have a row more than once.

        It may have been told that each is there once, and that need not be true.
        """
        return torch.sparse_coo_tensor(  # pyright: ignore
            self.indices, self.values, shape, is_coalesced=False, check_invariants=False
        )


def _entries(grad: Tensor, name: Callable[[], str]) -> _Entries:
    """The entries of a gradient.

    Raises:
        UsageError: one is of a row that the parameter does not have, or their memory is gone.
    """
    indices, values = grad._indices(), grad._values()  # pyright: ignore
    if any(memory.plain(x) and memory.freed(x) for x in (indices, values)):
        raise UsageError(
            f"the gradient of {name()} has been freed: the memory of its indices or values is "
            "less than they need. Clear it, or give it memory before the step."
        )
    found: NDArray[np.int64] = indices.cpu().numpy()
    sizes = grad.shape[: len(found)]
    try:
        # It knows no array without elements.
        numbers: Any = np.ravel_multi_index(tuple(found), sizes) if found.size else found[0]
    except ValueError:
        raise UsageError(
            f"the gradient of {name()} has indices from {found.min(1).tolist()} to "
            f"{found.max(1).tolist()}, and the parameter has the shape {tuple(grad.shape)}: they "
            "must be from 0 to less than its sizes. Were they looked up for another table?"
        ) from None
    return _Entries(indices, values.contiguous(), numbers)


def _ordered(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers in ascending order and the place that each had; equal ones stay in theirs."""
    bits = len(numbers).bit_length()
    if len(numbers) and int(numbers.max()).bit_length() + bits > 63:
        places = np.argsort(numbers, kind="stable")
        return numbers[places], places
    # To sort numbers that hold their places is several times faster.
    keys = numbers << bits | np.arange(len(numbers))
    keys.sort()
    return keys >> bits, keys & ((1 << bits) - 1)


class _Rows:
    """The step of the touched rows by a kernel."""

    def __init__(
        self, program: Program, tensors: Mapping[str, Tensor], entries: _Entries, stream: int
    ) -> None:
        buffers = [
            entries.values if name == "g" else tensors[name] for name in buffer_names(program)
        ]
        self._kernel = rows_kernel(program, tuple(_DTYPES[x.dtype] for x in buffers))
        self._theta = tensors["theta"]
        numbers, places = _ordered(entries.numbers)
        another = np.ones(len(numbers) + 1, np.bool_)
        np.not_equal(numbers[1:], numbers[:-1], out=another[1:-1])
        begins = np.flatnonzero(another)
        rows = numbers[begins[:-1]]
        width = math.prod(entries.values.shape[1:])
        size = len(numbers) * width * sum(x.element_size() for x in buffers)
        self._threads = torch.get_num_threads() if size > _ALONE else 1
        share = -(-len(rows) // (8 * self._threads))
        self._job = np.array(
            [
                *(rows.ctypes.data, len(rows), 0, 0, 0, places.ctypes.data, begins.ctypes.data),
                *(width, min(-(-_BATCH // max(width, 1)), max(share, 1)), stream),
                *(x.data_ptr() for x in buffers),
            ],
            np.int64,
        )
        # What an address points to must live as long as the address.
        self._held = (buffers, rows, places, begins)

    def __call__(self, numbers: Sequence[float]) -> None:
        # A kernel writes behind torch's back; autograd's check for stale values must know.
        torch.autograd.graph.increment_version(self._theta)
        given = np.array([*numbers, 0.0])
        self._job[2:5] = 0, 0, given.ctypes.data
        team.run(self._kernel, self._job.ctypes.data, self._threads)


@torch.no_grad()
def _gathered(
    program: Program,
    tensors: Mapping[str, Tensor],
    entries: _Entries,
    stream: int,
    numbers: Sequence[float],
) -> None:
    """The step of copies of the touched rows by torch's operations; the copies are put back."""
    grad = entries.listed(tensors["theta"].shape).coalesce()
    at = tuple(grad.indices())
    rows = {name: [x[at]] for name, x in tensors.items()}
    eager.step(program, numbers, {**rows, "g": [grad.values()]}, [stream])
    for name in program.outputs:
        tensors[name].index_put_(at, rows[name][0])
