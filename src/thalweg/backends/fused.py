"""Run a program over many tensors in one pass: every buffer is read once and written once."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.backends import compilation, lowering, memory, team
from thalweg.backends.lowering import JOB_WORDS, buffer_names, lowered, noisy
from thalweg.backends.program import Program

__all__ = ["Pass", "refusal"]

_DTYPES = {getattr(torch, name): name for name in lowering.DTYPES}
_ALONE = 1 << 19
"""Bytes up to which one thread is done before others would have begun."""
_CHUNK = 1 << 16
_LEAST_CHUNK = 1 << 12


def refusal(theta: Tensor, grad: Tensor, states: Sequence[Tensor]) -> str | None:
    """Why no kernel can take a parameter, its gradient and its states; None if one can."""
    for x in (theta, grad, *states):
        what = "it" if x is theta else "its gradient or state"
        if type(x) not in (Tensor, torch.nn.Parameter):
            return f"{what} is a {type(x).__name__}, whose operations may mean anything"
        if x.layout is not torch.strided:
            return f"{what} is sparse"
        if not x.is_cpu:
            return f"{what} is on {x.device}"
        if x.is_conj():
            return f"{what} is conjugated when it is read"
        if x.dtype not in _DTYPES or (x.dtype is torch.float16 and not compilation.has_float16()):
            return f"{what} is of {x.dtype}"
        if x.dtype is torch.float64 and theta.dtype is not torch.float64:
            return f"{what} is of {x.dtype}, and the parameter of {theta.dtype}"
        if x.is_neg():
            return f"{what} is negated when it is read"
        try:
            x.data_ptr()
        except RuntimeError:
            return f"{what} has no memory of its own"
    # A gradient is only read, and that of a sum is one number for all elements.
    if any(memory.overlaps_itself(x) for x in (theta, *states)):
        return "its elements share memory with each other"
    if memory.tangled([theta, grad, *states]):
        return "it shares memory with its own gradient or state"
    return None


class Pass:
    """A program, compiled and bound to tensors; calling it takes one step of them, in place.

    The tensors must be such that there is no `refusal` of them, of one dtype per name, of one
    shape per index, and must stay where and as they are while this is in use. Of gradients only
    the layout must stay: where one lies can be changed in the word that `gradient_words` tells, and
    whoever calls keeps it alive.

    Args:
        program: what to run.
        tensors: the tensors by symbol: `theta`, `g` and each state, all lists of one length.
        streams: each parameter's position among all of the optimizer's.
        chunk: how many elements a thread takes at a time; the result does not depend on it.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Sequence[Tensor]],
        streams: Sequence[int],
        *,
        chunk: int | None = None,
    ) -> None:
        self._names = names = buffer_names(program)
        rows = [tensors[name] for name in names]
        # What an address points to must live as long as the address; gradients are new each time.
        self._held = [row for name, row in zip(names, rows, strict=True) if name != "g"]
        count = len(rows[0])
        self._kernel = kernel(program, tuple(_DTYPES[row[0].dtype] for row in rows))
        sizes = np.array([x.numel() for x in rows[0]], np.int64)
        self._bytes = int(sizes.sum()) * sum(row[0].element_size() for row in rows)
        self._numbers = np.zeros(max(program.count, 1))
        if chunk is None:
            share = int(sizes.sum()) // (8 * torch.get_num_threads())
            chunk = min(max(1 << share.bit_length(), _LEAST_CHUNK), _CHUNK)
        self._layouts = [
            memory.layout([row[i] for row in rows], positions=noisy(program)) for i in range(count)
        ]
        self._table = np.empty((count, len(names) + 2), np.int64)
        for k, row in enumerate(rows):
            self._table[:, k] = [x.data_ptr() for x in row]
        self._table[:, -2] = streams
        self._table[:, -1] = [0 if at is None else at.ctypes.data for at in self._layouts]
        self._chunks = [
            self._chunked(sizes, indices, chunk) for indices in memory.apart(rows, count)
        ]
        self._jobs = np.zeros((len(self._chunks), JOB_WORDS), np.int64)
        self._jobs[:, 0] = [chunks.ctypes.data for chunks in self._chunks]
        self._jobs[:, 1] = [len(chunks) for chunks in self._chunks]
        self._jobs[:, 4] = self._numbers.ctypes.data
        self._begun = self._jobs[:, 2:4]
        self._addresses = [
            (job.ctypes.data, len(chunks))
            for job, chunks in zip(self._jobs, self._chunks, strict=True)
            if len(chunks)
        ]

    def _chunked(
        self, sizes: NDArray[np.int64], indices: list[int], chunk: int
    ) -> NDArray[np.int64]:
        """The chunks of some of the tensors: the address of the row, start and length."""
        which = np.array(indices, np.int64)
        pieces = -(-sizes[which] // chunk)
        first = np.repeat(np.cumsum(pieces) - pieces, pieces)
        owner = np.repeat(which, pieces)
        starts = (np.arange(len(owner)) - first) * chunk
        row_bytes = self._table.strides[0]
        rows = self._table.ctypes.data + owner * row_bytes
        return np.stack([rows, starts, np.minimum(chunk, sizes[owner] - starts)], axis=1)

    def gradient_words(self) -> list[int]:
        """For each index the address of the word that holds the address of its gradient."""
        first = self._table.ctypes.data + 8 * self._names.index("g")
        return [first + i * self._table.strides[0] for i in range(len(self._table))]

    def regular(self) -> list[bool]:
        """For each index whether its tensors are dense and in the same order."""
        return [at is None for at in self._layouts]

    def __call__(self, numbers: Sequence[float]) -> None:
        """Take one step.

        Args:
            numbers: the values of the program's scalars.
        """
        self._numbers[: len(numbers)] = numbers
        self._begun[:] = 0
        threads = torch.get_num_threads() if self._bytes > _ALONE else 1
        for job, chunks in self._addresses:
            # A team of another size than torch's would be made anew, thread by thread.
            team.run(self._kernel, job, threads if chunks > 1 else 1)


@lru_cache(maxsize=1024)
def kernel(program: Program, dtypes: tuple[str, ...]) -> int:
    """The address of the compiled program for buffers of these types."""
    return compilation.address(lowered(program, dtypes, compilation.vector_bytes()))
