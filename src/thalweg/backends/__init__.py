"""Run a rule's program over many tensors: compiled where that is possible, else with torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.backends import eager, kernel
from thalweg.backends.program import Program
from thalweg.errors import UsageError, unknown

__all__ = ["BACKENDS", "bound", "checked"]

BACKENDS = ("auto", "numba", "eager")
"""`numba`: a compiled pass over memory; `eager`: torch's operations; `auto`: the first that can."""


def checked(backend: str) -> str:
    """`backend`, if there is one of that name."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    return backend


def bound(
    program: Program, buffers: Mapping[str, list[Tensor]], streams: Sequence[int], backend: str
) -> Callable[[Sequence[float], list[Any]], None]:
    """A function that takes one step of these tensors, in place.

    Args:
        program: what to run.
        buffers: the tensors by symbol: `theta` and each state, all lists of one length.
        streams: each parameter's position among all of the optimizer's.
        backend: one of `BACKENDS`.

    Returns:
        The function; its arguments are the program's scalars and the gradients.

    Raises:
        UsageError: by the function, if the backend was asked for by name and cannot take these
            tensors.
    """
    compiled = None if backend == "eager" else kernel.bound(program, buffers)

    def step(numbers: Sequence[float], grads: list[Any]) -> None:
        if compiled is not None and compiled(numbers, grads):
            return
        if backend == "numba":
            raise UsageError(
                "backend is 'numba', which takes contiguous float32 or float64 tensors of one "
                "type on the CPU and rules without noise: use backend='auto' for what it cannot "
                "take."
            )
        eager.step(program, numbers, {**buffers, "g": grads}, streams)

    return step
