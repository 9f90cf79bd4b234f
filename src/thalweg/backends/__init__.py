"""Run a rule's program over many tensors: compiled where that is possible, else with torch."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from thalweg.backends import eager, kernel
from thalweg.backends.program import Program
from thalweg.errors import UsageError, unknown

__all__ = ["BACKENDS", "checked", "step"]

BACKENDS = ("auto", "numba", "eager")
"""`numba`: a compiled pass over memory; `eager`: torch's operations; `auto`: the first that can."""


def checked(backend: str) -> str:
    """`backend`, if there is one of that name."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    return backend


def step(
    program: Program,
    numbers: Sequence[float],
    buffers: Mapping[str, list[Tensor]],
    streams: Sequence[int],
    backend: str,
) -> None:
    """Take one step, in place; see `thalweg.backends.eager.step` for the arguments.

    Raises:
        UsageError: the backend was asked for by name and cannot take these tensors.
    """
    if backend != "eager" and kernel.step(program, numbers, buffers):
        return
    if backend == "numba":
        raise UsageError(
            "backend is 'numba', which takes contiguous float32 or float64 tensors of one type on "
            "the CPU and rules without noise: use backend='auto' for what it cannot take."
        )
    eager.step(program, numbers, buffers, streams)
