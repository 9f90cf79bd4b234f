"""How much of memory one step has to touch."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from thalweg.backends.program import Program
from thalweg.batches import state_dtype
from thalweg.rules.vocabulary import walk

__all__ = ["Streams", "dtypes", "streams"]


@dataclass(frozen=True)
class Streams:
    """How many arrays of the parameters' size a step reads and writes.

    Attributes:
        reads: how many are read.
        writes: how many are written; one that is read too counts in both.
        bytes: what all that is for one element.
    """

    reads: int
    writes: int
    bytes: int


def streams(program: Program, dtype: torch.dtype) -> Streams:
    """What a program cannot do without: it reads whatever its outputs depend on, once each.

    Args:
        program: what is run.
        dtype: the type of parameters and gradients.
    """
    nodes = walk(*program.outputs.values())
    read = {e.name for e in nodes if e.op == "symbol" and e.element}
    sizes = [kind.itemsize for kind in dtypes((*read, *program.outputs), dtype)]
    return Streams(len(read), len(program.outputs), sum(sizes))


def dtypes(names: Iterable[str], dtype: torch.dtype) -> list[torch.dtype]:
    """The types of buffers: parameters and gradients have theirs, states may have a wider one."""
    return [dtype if name in ("theta", "g") else state_dtype(dtype) for name in names]
