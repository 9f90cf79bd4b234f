"""What the machine's memory allows: the same traffic as a step's, with next to no arithmetic."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from thalweg.backends.fused import Pass
from thalweg.backends.lowering import buffer_names
from thalweg.backends.memory import filled
from thalweg.backends.program import Program
from thalweg.bench.measurement import Spread
from thalweg.bench.traffic import dtypes
from thalweg.rules.vocabulary import symbol

__all__ = ["REFERENCES", "calls", "fastest_triad", "triad"]

REFERENCES = {"torch.add": 3, "copy_": 2}
"""Operations of torch's own that move memory, for context: how often they touch each element."""

_CHUNKS = (None, 1 << 14, 1 << 16, 1 << 18)
_TRIADS = tuple("triad" if c is None else f"triad, chunks of {c}" for c in _CHUNKS)

_HALF = 0.5  # Repeated, it brings the numbers to a fixed point of ordinary size.


def triad(writes: int) -> Program:
    """A program that writes so many arrays, each one multiply-add of itself and the gradient.

    It has a rule's streams: what a rule keeps it reads as well, for else it would not keep it.
    """
    k, g = symbol("k0", element=False), symbol("g", element=True)
    names = ["theta", *(f"x{i}" for i in range(1, writes))]
    outputs = {name: k * symbol(name, element=True) + g for name in names}
    return Program((), lambda _: ((_HALF,), {}), 1, outputs, None)


def calls(writes: int, elements: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The triads and the references by name, each to be called without arguments.

    They share arrays, which lie as well as the system lets them.

    Args:
        writes: how many arrays the triads write.
        elements: of each array.
        dtype: of parameters and gradients.
    """
    program = triad(writes)
    like = torch.empty(elements)
    names = buffer_names(program)
    kinds = dtypes(names, dtype)
    tensors = {n: [filled(like, 1.0, kind)] for n, kind in zip(names, kinds, strict=True)}
    (theta,), (g,) = tensors["theta"], tensors["g"]
    return {
        **{n: _Triad(program, tensors, chunk) for n, chunk in zip(_TRIADS, _CHUNKS, strict=True)},
        "torch.add": partial(torch.add, g, theta, alpha=_HALF, out=theta),
        "copy_": partial(theta.copy_, g),
    }


def fastest_triad(spreads: Mapping[str, Spread]) -> str:
    """Which of the timed calls is the triad with the lowest median."""
    return min(_TRIADS, key=lambda name: spreads[name].median)


class _Triad:
    """A pass with its tensors: the pass knows only where they lie, and does not keep them."""

    def __init__(
        self, program: Program, tensors: Mapping[str, list[Tensor]], chunk: int | None
    ) -> None:
        self._tensors = tensors
        self._pass = Pass(program, tensors, [0], chunk=chunk)

    def __call__(self) -> None:
        self._pass((_HALF,))
