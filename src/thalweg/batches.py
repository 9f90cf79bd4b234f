"""Parameters gathered to be trained together, and what is kept for them between steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from thalweg.backends import Bound, eager, examine, memory
from thalweg.backends.program import Program
from thalweg.backends.watch import Watch
from thalweg.errors import UsageError
from thalweg.rules.declaration import State

__all__ = ["Batch", "Gathering", "state_dtype"]

States: TypeAlias = Mapping[Tensor, dict[str, Any]]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the states of a parameter: float32 where the parameter has fewer digits.

    A running average that moves by a thousandth a step would stand still in bfloat16.
    """
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class Gathering:
    """A group's parameters that have a gradient, together where they have taken equal steps.

    Args:
        program: what trains them.
        params: the group's parameters.
        included: which of them are to be trained.
        numbers: the numbers of the hyperparameters.
        held: the optimizer's state, to which what is missing is added.
        keys: under which key each of the rule's states is kept.
        first_stream: the position of the group's first parameter among all.
        backend: what runs the program.
        name: what an error calls the parameter of an index.
        with_gradients: whether the gradients are there already, and have to fit.

    Attributes:
        program: what trains them.
        backend: what runs it.
        first_stream: the position of the group's first parameter among all.
        batches: the parameters whose scalars are equal.

    Raises:
        UsageError: a parameter, its gradient or its state is not what it should be.
    """

    @torch.no_grad()
    def __init__(
        self,
        program: Program,
        params: Sequence[Tensor],
        included: Sequence[bool],
        numbers: Mapping[str, float],
        held: States,
        keys: Mapping[str, str],
        first_stream: int,
        backend: str,
        name: Callable[[int], str],
        *,
        with_gradients: bool,
    ) -> None:
        self.program, self.backend, self.first_stream = program, backend, first_stream
        self.params = list(params)
        # A state is made like its parameter, and would stay so when that is put right.
        wanted = {"step", *keys.values()}
        new = [i for i, p in enumerate(params) if included[i] and not wanted <= held[p].keys()]
        rows: dict[str, list[Any]] = {"theta": [params[i] for i in new]}
        if with_gradients:
            rows["g"] = [params[i].grad for i in new]
        examine(rows, (), lambda k: name(new[k]))
        together: dict[tuple[float, ...], list[int]] = {}
        for i, p in enumerate(params):
            if included[i]:
                state = held[p]
                if "step" not in state:
                    # torch's SGD does not count, but has a velocity only after its first step.
                    state["step"] = torch.tensor(float(bool(state)), dtype=torch.float32)
                for s in program.states:
                    if keys[s.name] not in state:
                        state[keys[s.name]] = _initial(s, p, numbers)
                scalars = ("step", *(keys[s.name] for s in program.states if s.scalar))
                values = tuple(_number(state[key], key, name(i)) for key in scalars)
                together.setdefault(values, []).append(i)
        self.batches = [
            Batch(
                program,
                [params[i] for i in places],
                [first_stream + i for i in places],
                [held[params[i]] for i in places],
                keys,
                [name(i) for i in places],
            )
            for places in together.values()
        ]
        self._included = list(included)
        self._places = list(together.values())
        self._keys = ("step", *keys.values())
        self._held = held
        self._watch: Watch | None = None

    def bind(self, *, watch_states: bool) -> None:
        """Bind the batches to the gradients as they are now.

        Args:
            watch_states: whether anyone else has the states, and may change them.
        """
        words = [0] * len(self.params)
        for batch, places in zip(self.batches, self._places, strict=True):
            found = batch.bind([self.params[i].grad for i in places], self.backend)
            for i, word in zip(places, found, strict=True):
                words[i] = word
        trained = [p for p, wanted in zip(self.params, self._included, strict=True) if wanted]
        grads = (
            p.grad if wanted else None
            for p, wanted in zip(self.params, self._included, strict=True)
        )
        self._watch = Watch(
            self.params,
            list(grads),
            words,
            [x for batch in self.batches for x in batch.held(states=watch_states)],
            [self._held[p] for p in trained] if watch_states else [],
            self._keys,
        )

    def intact(self, params: list[Tensor]) -> bool:
        """Whether all is as it was bound: a user may replace a state, or change a count."""
        return (
            self._watch is not None
            and self._watch.unchanged(params)
            and all(batch.counted() for batch in self.batches)
        )


class Batch:
    """Parameters whose scalar states are equal, so that one set of scalars serves all.

    Those are kept as views of one tensor: a step is counted once, for all of them.
    """

    def __init__(
        self,
        program: Program,
        params: list[Tensor],
        streams: Sequence[int],
        states: Sequence[dict[str, Any]],
        keys: Mapping[str, str],
        names: Sequence[str],
    ) -> None:
        self.params = params
        self._program, self._streams, self._names = program, streams, names
        scalars = {"t": "step"} | {s.name: keys[s.name] for s in program.states if s.scalar}
        self._shared: dict[str, Tensor] = {}
        self._counts: dict[str, Any] = {}
        for name, key in scalars.items():
            # NumPy writes to the memory they share without the cost of an operation of torch's.
            dtype = np.float32 if key == "step" else np.float64
            stacked = np.array([float(state[key]) for state in states], dtype)
            self._counts[name] = stacked
            self._shared[name] = torch.from_numpy(stacked)  # pyright: ignore
            for state, view in zip(states, self._shared[name].unbind(), strict=True):
                state[key] = view
        self._buffers = {"theta": params} | {
            s.name: [state[keys[s.name]] for state in states]
            for s in program.states
            if not s.scalar
        }
        self._values = {name: tensor[0].item() for name, tensor in self._shared.items()}
        self._versions = [tensor._version for tensor in self._shared.values()]  # pyright: ignore
        self._bound: Bound | None = None
        largest = [torch.finfo(state_dtype(p.dtype)).max for p in params]
        self._largest = min(largest)
        self._narrowest = names[largest.index(self._largest)]

    def bind(self, grads: Sequence[Any], backend: str) -> list[int]:
        """Make ready for gradients that lie as these do; see `Bound.gradient_words`."""
        tensors = {**self._buffers, "g": grads}
        self._bound = Bound(self._program, tensors, self._streams, backend, self._names.__getitem__)
        words = self._bound.gradient_words
        self._written = [p for p, word in zip(self.params, words, strict=True) if word]
        return words

    def held(self, *, states: bool) -> list[Tensor]:
        """The parameters, and the states, whose memory has been looked at."""
        rows = self._buffers.values() if states else [self.params]
        return [x for row in rows for x in row if memory.plain(x)]

    def counted(self) -> bool:
        """Whether the counts are still those that are known here."""
        return self._versions == [x._version for x in self._shared.values()]  # pyright: ignore

    def numbers(self, hypers: Mapping[str, float]) -> tuple[Sequence[float], dict[str, float]]:
        """The program's scalars for the next step, and the scalar states after it.

        Raises:
            UsageError: one of them is not finite.
        """
        t = self._values["t"] + 1
        numbers, new = self._program.scalars({**hypers, **self._values, "t": t})
        for k, number in enumerate(numbers):
            beyond = not -self._largest <= number <= self._largest
            if beyond and k not in self._program.constants:
                given = ", ".join(f"{name}={value!r}" for name, value in hypers.items())
                raise UsageError(
                    f"step {t:g} of {self._narrowest} would be computed with the number "
                    f"{number!r}, which its type cannot hold. It follows from {given}: choose "
                    "others."
                )
        return numbers, {**new, "t": t}

    def step(self, numbers: Sequence[float], values: dict[str, float]) -> None:
        """Take one step with what `numbers` has found."""
        assert self._bound is not None
        if self._written:
            # A kernel writes behind torch's back; autograd's check for stale values must know.
            torch.autograd.graph.increment_version(self._written)
        self._bound(numbers, [p.grad for p in self.params] if self._bound.needs_gradients else ())
        self._values = values
        for name, counts in self._counts.items():
            counts[:] = values[name]

    def examine(self) -> None:
        """Raise an error if a parameter or a state cannot be read and written."""
        examine(self._buffers, self._program.outputs, self._names.__getitem__)

    def gradient_points(self, hypers: Mapping[str, float]) -> list[Tensor]:
        """Where each parameter's gradient is to be taken."""
        return eager.gradient_points(self._program, self.numbers(hypers)[0], self._buffers)


def _number(x: Any, key: str, name: str) -> float:
    """A number that is kept for a whole parameter; what it may be shows where it is used."""
    try:
        number = float(x)
        valid = key != "step" or 0 <= number < math.inf
    except (TypeError, ValueError, RuntimeError):
        number, valid = math.nan, False
    if not valid:
        is_what = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) and x.dim() else repr(x)
        raise UsageError(
            f"the state {key!r} of {name} is {is_what}, but must be one number"
            f"{', of steps taken' * (key == 'step')}: put back the one that was there, or delete "
            "the parameter's state to begin anew."
        )
    return number


def _initial(s: State, p: Tensor, numbers: Mapping[str, float]) -> Tensor:
    value = numbers[s.init] if isinstance(s.init, str) else s.init
    if s.scalar:
        return torch.tensor(value, dtype=torch.float64)
    return memory.filled(p, value, state_dtype(p.dtype))
