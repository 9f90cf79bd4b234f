"""Which backend runs which tensors, once it is sure that they are what they should be."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.backends import eager, fused, memory
from thalweg.backends.fused import Pass
from thalweg.backends.program import Program
from thalweg.errors import UsageError, unknown

__all__ = ["BACKENDS", "Bound", "checked", "examine"]

BACKENDS = ("auto", "fused", "eager")
"""`fused`: a compiled pass over memory; `eager`: torch's operations; `auto`: the first that can."""


def checked(backend: str) -> str:
    """`backend`, if there is one of that name."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    return backend


class Bound:
    """A program with the tensors it is to run on; calling it takes one step, in place.

    Args:
        program: what to run.
        tensors: the tensors by symbol: `theta`, `g` and each state, all lists of one length.
        streams: each parameter's position among all of the optimizer's.
        backend: one of `BACKENDS`.
        name: what an error calls the parameter of an index.

    Attributes:
        passes: what is run in one pass, together where types are equal.
        needs_gradients: whether a step is to be given the gradients: a pass knows where they lie.
        gradient_words: for each index the address of the word that tells the pass where its
            gradient lies; 0 for what torch's operations run.

    Raises:
        UsageError: a tensor is not what it should be, or the backend was asked for by name and
            cannot take it.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Sequence[Tensor]],
        streams: Sequence[int],
        backend: str,
        name: Callable[[int], str],
    ) -> None:
        self._program, self._streams = program, streams
        # The gradients of the first step must not be kept alive by it.
        self._tensors = {symbol: row for symbol, row in tensors.items() if symbol != "g"}
        count = len(tensors["theta"])
        examine(tensors, program.outputs, name)
        together: dict[tuple[torch.dtype, ...], list[int]] = {}
        by_torch: list[int] = []
        for i in range(count):
            row = [tensors[symbol][i] for symbol in tensors]
            states = [tensors[symbol][i] for symbol in tensors if symbol not in ("theta", "g")]
            theta, grad = tensors["theta"][i], tensors["g"][i]
            refused = "" if backend == "eager" else fused.refusal(theta, grad, states)
            if refused is None:
                together.setdefault(tuple(x.dtype for x in row), []).append(i)
            elif backend == "fused":
                raise UsageError(
                    f"backend is 'fused', which cannot take {name(i)}: {refused}. Use "
                    "backend='auto', which has torch's operations for it."
                )
            else:
                by_torch.append(i)
        # Parameters that share memory are stepped one after the other, as in a loop over them.
        plain = [i for i in by_torch if memory.plain(tensors["theta"][i])]
        free, *shared = memory.apart([[tensors["theta"][i] for i in plain]], len(plain))
        first = [i for i in by_torch if i not in plain] + [plain[k] for k in free]
        self._eager = [
            group for group in (first, *([plain[k] for k in one] for one in shared)) if group
        ]
        self.needs_gradients = bool(by_torch)
        self.passes: list[Pass] = []
        self.gradient_words = [0] * count
        for indices in together.values():
            chosen = {symbol: [row[i] for i in indices] for symbol, row in tensors.items()}
            one = Pass(program, chosen, [streams[i] for i in indices])
            self.passes.append(one)
            for i, word in zip(indices, one.gradient_words(), strict=True):
                self.gradient_words[i] = word

    def __call__(self, numbers: Sequence[float], grads: Sequence[Any]) -> None:
        """Take one step.

        Args:
            numbers: the values of the program's scalars.
            grads: the gradients, for what torch's operations run.
        """
        for one in self.passes:
            one(numbers)
        for indices in self._eager:
            tensors = {**self._tensors, "g": grads}
            chosen = {symbol: [row[i] for i in indices] for symbol, row in tensors.items()}
            eager.step(self._program, numbers, chosen, [self._streams[i] for i in indices])


def examine(
    tensors: Mapping[str, Sequence[Tensor]], written: Iterable[str], name: Callable[[int], str]
) -> None:
    """Raise an error if tensors do not fit each other, or their memory is gone or locked.

    Args:
        tensors: those by symbol: `theta`, each state, and `g` or not, all lists of one length.
        written: the symbols of what is written.
        name: what an error calls the parameter of an index.
    """
    count = len(tensors["theta"])
    for i in range(count):
        _examine(tensors, i, name)
    targets = [x for symbol in written for x in tensors[symbol]]
    locked = memory.read_only(x for x in targets if memory.plain(x)) if targets else None
    if locked is not None:
        at = next(i for i, x in enumerate(targets) if x is locked) % count
        raise UsageError(
            f"the memory of {name(at)} is read-only (a file mapped without leave to write, or "
            "a read-only array?): give the optimizer a clone of it."
        )


def _examine(tensors: Mapping[str, Sequence[Tensor]], i: int, name: Callable[[int], str]) -> None:
    """Raise an error if a gradient or state does not fit its parameter, or memory is gone."""
    theta = tensors["theta"][i]
    for symbol, row in tensors.items():
        x = row[i]
        what = {"theta": "", "g": "the gradient of "}.get(symbol, f"the state {symbol!r} of ")
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                f"{what}{name(i)} is {x!r}, but must be a tensor: put back the one that was there, "
                "or delete the parameter's state to begin anew."
            )
        if x.shape != theta.shape:
            raise UsageError(
                f"{what}{name(i)} has shape {tuple(x.shape)}, and the parameter "
                f"{tuple(theta.shape)}: they must be equal. Was one of them resized or replaced?"
            )
        if x.layout is not torch.strided:
            raise UsageError(
                f"{what}{name(i)} is sparse, and no rule is defined for that: make it dense, as "
                "with torch.nn.Embedding(..., sparse=False)."
            )
        if x.device != theta.device:
            raise UsageError(
                f"{what}{name(i)} is on {x.device}, and the parameter on {theta.device}: move the "
                "model before the optimizer is made, and both together after that."
            )
        wanted = getattr(theta, "grad_dtype", theta.dtype) if symbol == "g" else None
        if wanted is not None and x.dtype is not wanted:
            raise UsageError(
                f"{what}{name(i)} is of {x.dtype}, and it has to be of {wanted}: convert the "
                "parameter and its gradient together, or clear the gradients after the change."
            )
        if not x.is_floating_point() and not (x.is_complex() and theta.is_complex()):
            raise UsageError(
                f"{what}{name(i)} is of {x.dtype}, whose numbers cannot be trained: convert it to "
                "a type of floating-point numbers, such as torch.float32."
            )
        if memory.plain(x) and x.numel():
            begin, end = memory.span(x)
            storage = x.untyped_storage()
            held = storage.data_ptr()
            if not begin or end > held + storage.nbytes():
                raise UsageError(
                    f"{what}{name(i)} has been freed: its storage has {storage.nbytes()} bytes "
                    f"and {x.numel()} elements of {x.dtype} do not fit. Give it memory before the "
                    "step, or take it out of the optimizer."
                )
