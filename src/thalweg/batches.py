"""Parameters gathered to be trained together, and what is kept for them between steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from thalweg.backends import Bound, eager, examine, memory
from thalweg.backends.program import Program
from thalweg.backends.sparse import SparseBound, dense
from thalweg.backends.watch import Watch
from thalweg.errors import UsageError
from thalweg.rules.declaration import State

__all__ = ["Batch", "Gathering", "begin", "state_dtype"]

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
        keys: under which key each of the rule's states is kept, and `t`, the count of steps; where
            that has no key it is 1 as soon as there are states.
        first_stream: the position of the group's first parameter among all.
        backend: what runs the program.
        sparse: what is done with a sparse gradient: only its "rows" are trained, or it is made
            "dense"; None: it is an error.
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

    # What is made here is changed in later steps, which need not be in inference mode too.
    @torch.inference_mode(False)
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
        sparse: str | None,
        name: Callable[[int], str],
        *,
        with_gradients: bool,
    ) -> None:
        self.program, self.backend, self.first_stream = program, backend, first_stream
        self.params = list(params)
        self._keys = tuple(keys.values())
        self._sparse = [with_gradients and _is_sparse(p.grad) for p in params]
        # A state is made like its parameter, and would stay so when that is put right.
        new = [i for i, p in enumerate(params) if included[i] and self._lacking(held, p)]
        for wanted in (False, True):
            some = [i for i in new if self._sparse[i] is wanted]
            rows: dict[str, list[Any]] = {"theta": [params[i] for i in some]}
            if with_gradients and not wanted:
                rows["g"] = [params[i].grad for i in some]
            examine(rows, (), lambda k, some=some: name(some[k]))
        if True in self._sparse and sparse is None:
            raise UsageError(
                f"the gradient of {name(self._sparse.index(True))} is sparse, and only SGD, "
                "Adagrad, Adam and AMSGrad are defined for that, all without weight decay, which "
                "moves rows that have no gradient: use one of those, or make it dense, as with "
                "torch.nn.Embedding(..., sparse=False)."
            )
        together: dict[tuple[float, ...], list[int]] = {}
        for i, p in enumerate(params):
            if included[i]:
                state = held[p] if keys else {}
                count = [] if "t" in keys else [float(not self._lacking(held, p))]
                begin(state, program, keys, p, numbers)
                scalars = [keys[s] for s in _scalars(program) if s in keys]
                values = (_number(state[key], key, name(i)) for key in scalars)
                together.setdefault((self._sparse[i], *count, *values), []).append(i)
        self.batches = [
            Batch(
                program,
                [params[i] for i in places],
                [first_stream + i for i in places],
                [held[params[i]] if keys else {} for i in places],
                keys,
                scalars[1],
                sparse if scalars[0] else None,
                [name(i) for i in places],
            )
            for scalars, places in together.items()
        ]
        self._included = list(included)
        self._places = list(together.values())
        self._held = held
        self._watch: Watch | None = None

    def _lacking(self, held: States, p: Tensor) -> bool:
        """Whether something is not there that is kept for a parameter."""
        return not {*self._keys} <= held.get(p, {}).keys()

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
        dense = [i for i, sparse in enumerate(self._sparse) if not sparse]
        trained = [p for p, wanted in zip(self.params, self._included, strict=True) if wanted]
        self._watch = Watch(
            [self.params[i] for i in dense],
            [self.params[i].grad if self._included[i] else None for i in dense],
            [words[i] for i in dense],
            [x for batch in self.batches for x in batch.held(states=watch_states)],
            [self._held[p] for p in trained] if watch_states and self._keys else [],
            self._keys,
        )

    def intact(self, params: list[Tensor]) -> bool:
        """Whether all is as it was bound: a user may replace a state, or change a count."""
        if True in self._sparse:
            if len(params) != len(self._sparse):
                return False
            dense: list[Tensor] = []
            for p, q, sparse in zip(params, self.params, self._sparse, strict=True):
                if not sparse:
                    dense.append(p)
                elif p is not q or not _is_sparse(p.grad):
                    return False
            params = dense
        return (
            self._watch is not None
            and self._watch.unchanged(params)
            # A list is quicker than a generator.
            and False not in [batch.counted() for batch in self.batches]
        )

    def again(self, params: list[Tensor], hypers: Mapping[str, float]) -> bool:
        """Take a step, if it is of one batch and all is as it was bound: what most steps are.

        Args:
            params: the parameters as they are now.
            hypers: the numbers of the hyperparameters.

        Returns:
            Whether it was taken.

        Raises:
            UsageError: see `Batch.ready`; nothing has been changed then.
        """
        if len(self.batches) != 1 or not self.intact(params):
            return False
        self.batches[0].ready(hypers)()
        return True


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
        t: float,
        sparse: str | None,
        names: Sequence[str],
    ) -> None:
        self.params = params
        self._program, self._streams, self._names, self._sparse = program, streams, names, sparse
        self._shared: dict[str, Tensor] = {}
        self._counts: dict[str, Any] = {}
        for name in _scalars(program):
            if name not in keys:
                continue
            key = keys[name]
            # NumPy writes to the memory they share without the cost of an operation of torch's.
            dtype = np.float32 if name == "t" else np.float64
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
        self._values = {"t": t} | {name: x[0].item() for name, x in self._shared.items()}
        self._versions = [tensor._version for tensor in self._shared.values()]  # pyright: ignore
        self._bound: Bound | SparseBound | None = None
        self._written: list[Tensor] = []
        # A kernel reads them where they lie, so they are kept until it has.
        self._dense: list[Tensor] = []
        largest = [torch.finfo(state_dtype(p.dtype)).max for p in params]
        self._largest = min(largest)
        self._narrowest = names[largest.index(self._largest)]

    def bind(self, grads: Sequence[Any], backend: str) -> list[int]:
        """Make ready for gradients that lie as these do; see `Bound.gradient_words`."""
        self._backend = backend
        name = self._names.__getitem__
        if self._sparse == "rows":
            self._bound = SparseBound(self._program, self._buffers, self._streams, backend, name)
            return self._bound.gradient_words
        if self._sparse == "dense" and grads is not self._dense:
            # They are made dense, and bound, in each step.
            return [0] * len(grads)
        tensors = {**self._buffers, "g": grads}
        self._bound = Bound(self._program, tensors, self._streams, backend, name)
        words = self._bound.gradient_words
        fused = zip(self.params, self._bound.fused, strict=True)
        self._written = [p for p, by_kernel in fused if by_kernel]
        return words

    def held(self, *, states: bool) -> list[Tensor]:
        """The parameters, and the states, whose memory has been looked at."""
        rows = self._buffers.values() if states else [self.params]
        return [x for row in rows for x in row if memory.plain(x)]

    def backend_of(self, p: Tensor) -> str | None:
        """What takes a parameter's steps: "fused" or "eager"; None if it is not one of these."""
        if self._bound is None:
            return None
        for q, fused in zip(self.params, self._bound.fused, strict=True):
            if q is p:
                return "fused" if fused else "eager"
        return None

    def counted(self) -> bool:
        """Whether the counts are still those that are known here."""
        return self._versions == [x._version for x in self._shared.values()]  # pyright: ignore

    def ready(self, hypers: Mapping[str, float]) -> Callable[[], None]:
        """See that the next step can be taken, and return what takes it.

        Args:
            hypers: the numbers of the hyperparameters.

        Raises:
            UsageError: a number of the step is not finite, or a sparse gradient does not fit.
        """
        numbers, values = self._numbers(hypers)
        if self._sparse == "dense":
            names = self._names.__getitem__
            self._dense = [dense(p.grad, p, partial(names, i)) for i, p in enumerate(self.params)]
            self.bind(self._dense, self._backend)
        bound = self._bound
        assert bound is not None
        grads: list[Any] = self._dense
        if not grads and bound.needs_gradients:
            grads = [p.grad for p in self.params]
        if isinstance(bound, SparseBound):
            return partial(self._step, partial(bound.ready(grads), numbers), values)
        return partial(self._step, partial(bound, numbers, grads), values)

    def _numbers(self, hypers: Mapping[str, float]) -> tuple[Sequence[float], dict[str, float]]:
        """The program's scalars for the next step, and the scalar states after it."""
        t = self._values["t"] + 1
        numbers, new = self._program.scalars({**hypers, **self._values, "t": t})
        for k, number in enumerate(numbers):
            beyond = not -self._largest <= number <= self._largest
            if beyond and k not in self._program.constants:
                given = ", ".join(f"{name}={value!r}" for name, value in hypers.items())
                which = f"step {t:g}" if "t" in self._counts else "a step"
                raise UsageError(
                    f"{which} of {self._narrowest} would be computed with the number "
                    f"{number!r}, which its type cannot hold. It follows from {given}: choose "
                    "others."
                )
        return numbers, {**new, "t": t}

    def _step(self, run: Callable[[], None], values: dict[str, float]) -> None:
        if self._written:
            # A kernel writes behind torch's back; autograd's check for stale values must know.
            torch.autograd.graph.increment_version(self._written)
        run()
        self._dense = []
        self._values = values
        for name, counts in self._counts.items():
            counts[:] = values[name]

    def examine(self) -> None:
        """Raise an error if a parameter or a state cannot be read and written."""
        examine(self._buffers, self._program.outputs, self._names.__getitem__)

    def gradient_points(self, hypers: Mapping[str, float]) -> list[Tensor]:
        """Where each parameter's gradient is to be taken."""
        return eager.gradient_points(self._program, self._numbers(hypers)[0], self._buffers)


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


def _is_sparse(g: Tensor | None) -> bool:
    return g is not None and g.layout is not torch.strided


def _scalars(program: Program) -> list[str]:
    """What is one number for a whole parameter: the count of steps, and some states."""
    return ["t", *(s.name for s in program.states if s.scalar)]


def begin(
    state: dict[str, Any],
    program: Program,
    keys: Mapping[str, str],
    p: Tensor,
    numbers: Mapping[str, Any],
) -> None:
    """Add what is missing of a parameter's state."""
    if "t" in keys and keys["t"] not in state:
        state[keys["t"]] = torch.tensor(0.0, dtype=torch.float32)
    for s in program.states:
        if keys[s.name] not in state:
            state[keys[s.name]] = _initial(s, p, numbers)


def _initial(s: State, p: Tensor, numbers: Mapping[str, Any]) -> Tensor:
    value = numbers[s.init] if isinstance(s.init, str) else s.init
    if s.scalar:
        return torch.tensor(value, dtype=torch.float64)
    return memory.filled(p, value, state_dtype(p.dtype))
