"""Which backend runs which tensors, once it is sure that they are what they should be."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.backends import eager, fused, local, memory
from thalweg.backends.fused import Pass
from thalweg.backends.lowering import noisy
from thalweg.backends.program import Program
from thalweg.errors import UsageError, unknown

__all__ = ["BACKENDS", "Bound", "checked", "examine", "gradient_dtype"]

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
        fused: for each index whether it is a pass that runs it.
        gradient_words: for each index the address of the word that tells the pass where its
            gradient lies; 0 for what torch's operations run, or if the gradient has to be brought
            from other processes first.

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
        here = {symbol: [local.real(x) for x in row] for symbol, row in tensors.items()}
        self._brought: dict[int, Tensor] = {}
        together: dict[tuple[torch.dtype, ...], list[int]] = {}
        by_torch: list[int] = []
        for i in range(count):
            refused = "" if backend == "eager" else self._refusal(tensors, here, i)
            if refused is None:
                together.setdefault(tuple(row[i].dtype for row in here.values()), []).append(i)
            elif backend == "fused":
                raise UsageError(
                    f"backend is 'fused', which cannot take {name(i)}: {refused}. Use "
                    "backend='auto', which has torch's operations for it."
                )
            else:
                by_torch.append(i)
        # Parameters that share memory are stepped one after the other, as in a loop over them.
        plain = [i for i in by_torch if memory.plain(here["theta"][i])]
        free, *shared = memory.apart([[here["theta"][i] for i in plain]], len(plain))
        first = [i for i in by_torch if i not in plain] + [plain[k] for k in free]
        self._eager = [
            group for group in (first, *([plain[k] for k in one] for one in shared)) if group
        ]
        self.needs_gradients = bool(by_torch or self._brought)
        self.passes: list[Pass] = []
        self.fused = [False] * count
        self.gradient_words = [0] * count
        for indices in together.values():
            chosen = {symbol: [row[i] for i in indices] for symbol, row in here.items()}
            one = Pass(program, chosen, [streams[i] for i in indices])
            self.passes.append(one)
            for i, word in zip(indices, one.gradient_words(), strict=True):
                self.fused[i] = True
                if i not in self._brought:
                    self.gradient_words[i] = word

    def _refusal(
        self, tensors: Mapping[str, Sequence[Tensor]], here: Mapping[str, list[Tensor]], i: int
    ) -> str | None:
        """Why no kernel can take what is of an index; None if one can, then `here` is that."""
        theta, grad = tensors["theta"][i], tensors["g"][i]
        if noisy(self._program) and not local.whole(theta):
            return "its noise depends on where in the whole of it an element is"
        brought = None
        if not local.alike(grad, theta):
            # Nothing is sent yet: this process may be the only one that binds anew.
            brought = torch.empty_like(here["theta"][i], dtype=here["g"][i].dtype)
            here["g"][i] = brought
        states = [row[i] for symbol, row in here.items() if symbol not in ("theta", "g")]
        refused = fused.refusal(here["theta"][i], here["g"][i], states)
        if refused is None and brought is not None:
            self._brought[i] = brought
        return refused

    def __call__(self, numbers: Sequence[float], grads: Sequence[Any]) -> None:
        """Take one step.

        Args:
            numbers: the values of the program's scalars.
            grads: the gradients, if it needs them.
        """
        if self.needs_gradients:
            grads = self._gathered(grads)
        for one in self.passes:
            one(numbers)
        for indices in self._eager:
            rows = {**self._tensors, "g": grads}
            chosen = {
                symbol: [local.shard(row[i]) for i in indices] for symbol, row in rows.items()
            }
            wholes = [self._tensors["theta"][i] for i in indices]
            eager.step(self._program, numbers, chosen, [self._streams[i] for i in indices], wholes)

    @torch.no_grad()
    def _gathered(self, grads: Sequence[Any]) -> list[Any]:
        """The gradients where their parameters are, also those that passes wait for."""
        # All and in order, so that every process sends and receives in the same.
        found = list(map(local.redistributed, grads, self._tensors["theta"]))
        for i, g in self._brought.items():
            g.copy_(local.real(found[i]))
        return found


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
    targets = [local.shard(x) for symbol in written for x in tensors[symbol]]
    locked = memory.read_only(x for x in targets if memory.plain(x)) if targets else None
    if locked is not None:
        at = next(i for i, x in enumerate(targets) if x is locked) % count
        raise UsageError(
            f"the memory of {name(at)} is read-only (a file mapped without leave to write, or "
            "a read-only array?): give the optimizer a clone of it."
        )


def gradient_dtype(theta: Tensor) -> torch.dtype | None:
    """The type that a parameter's gradient has to have; None if any will do."""
    # Only of a leaf can it be another than the parameter's.
    return getattr(theta, "grad_dtype", theta.dtype) if theta.is_leaf else theta.dtype


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
        wanted = gradient_dtype(theta) if symbol == "g" else None
        if wanted is not None and x.dtype is not wanted:
            raise UsageError(
                f"{what}{name(i)} is of {x.dtype}, and it has to be of {wanted}: convert the "
                "parameter and its gradient together, or clear the gradients after the change."
            )
        if not x.is_floating_point() and not x.is_complex():
            raise UsageError(
                f"{what}{name(i)} is of {x.dtype}, whose numbers cannot be trained: convert it to "
                "a type of floating-point numbers, such as torch.float32."
            )
        if x.is_complex() is not theta.is_complex():
            raise UsageError(
                f"{what}{name(i)} is of {x.dtype}, and the parameter of {theta.dtype}: both have "
                "to be complex or neither. Convert it, or begin with a new optimizer."
            )
        if local.distributed(x) is not local.distributed(theta):
            raise UsageError(
                f"{what}{name(i)} is a {type(x).__name__}, and the parameter a "
                f"{type(theta).__name__}: distribute both or neither. States are loaded so with "
                "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict."
            )
        if symbol != "g" and not local.alike(x, theta):
            raise UsageError(
                f"{what}{name(i)} is placed {local.where(x)}, and the parameter "
                f"{local.where(theta)}: redistribute it so that each process has the same elements "
                "of both, and none that are still to be summed."
            )
        here = local.shard(x)
        if symbol != "g" and here.is_conj():
            raise UsageError(
                f"{what}{name(i)} is conjugated only when it is read, so that it cannot be "
                "written: use what its resolve_conj() returns."
            )
        if memory.plain(here) and memory.freed(here):
            raise UsageError(
                f"{what}{name(i)} has been freed: its storage has "
                f"{here.untyped_storage().nbytes()} bytes and {here.numel()} elements of "
                f"{x.dtype} do not fit. Give it memory before the step, or take it out of the "
                "optimizer."
            )
