"""A step that autograd follows, or that a device captures: by torch's operations, out of place."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.backends import examine, functional
from thalweg.backends.sparse import dense, untouched_stay
from thalweg.batches import begin
from thalweg.compiled import Compiled, Group
from thalweg.errors import UsageError

__all__ = ["Following"]


class Following:
    """The next step of a group; calling it takes it.

    Args:
        c: what steps the group.
        group: the group.
        keys: under which key each state, and `t`, is kept; see `Gathering`.
        held: the optimizer's state.
        numbers: the hyperparameters' numbers; those that are tensors may require a gradient.
        first_stream: the position of the group's first parameter among all.
        name: what an error calls the parameter of an index.

    Raises:
        UsageError: a gradient or a state is not what it should be.
    """

    def __init__(
        self,
        c: Compiled,
        group: Group,
        keys: Mapping[str, str],
        held: Mapping[Tensor, dict[str, Any]],
        numbers: Mapping[str, Any],
        first_stream: int,
        name: Callable[[int], str],
    ) -> None:
        self._c, self._keys, self._held, self._numbers = c, keys, held, numbers
        self._learned = bool(group.get("differentiable"))
        self._params = [
            (first_stream + i, p, _dense(c, p, name(i)))
            for i, p in enumerate(group["params"])
            if p.grad is not None
        ]
        states = [s.name for s in c.program.states if not s.scalar]
        for stream, p, grad in self._params:
            state = held.get(p, {})
            rows = {s: [state[keys[s]]] for s in states if keys[s] in state}
            examine(
                {"theta": [p], "g": [grad], **rows}, (), lambda _, i=stream: name(i - first_stream)
            )

    def __call__(self) -> None:
        """Take the step."""
        c, keys = self._c, self._keys
        with torch.set_grad_enabled(self._learned):
            for stream, p, grad in self._params:
                state: dict[str, Any] = self._held[p] if keys else {}
                begun = {*keys.values()} <= state.keys()
                begin(state, c.program, keys, p, self._numbers)
                held = {name: state[key] for name, key in keys.items()}
                t: Any = held.get("t", float(begun)) + 1
                # Autograd needs the parameter as it was.
                theta = p.clone() if self._learned else p
                values = {**self._numbers, **held, "theta": theta, "g": grad, "t": t}
                new = functional.step(c.trace, values, stream=stream)
                p.copy_(new.pop("theta"))
                for name, x in {**new, "t": t}.items():
                    if self._learned and name in keys:
                        state[keys[name]] = x
                    elif name in keys:
                        # A captured step goes on in the memory it was captured with.
                        state[keys[name]].copy_(x)


def _dense(c: Compiled, p: Tensor, name: str) -> Tensor:
    """The parameter's gradient; a sparse one with all its rows, if that is the same to the rule."""
    grad = p.grad
    assert grad is not None
    if grad.layout is torch.strided:
        return grad
    if not untouched_stay(c.program) and c.sparse != "dense":
        raise UsageError(
            f"the gradient of {name} is sparse, and a step that is differentiable or captured is "
            "of all rows, which is another one for this rule: make it dense, as with "
            "torch.nn.Embedding(..., sparse=False)."
        )
    dense(grad, p.detach(), lambda: name)
    # As it is, for autograd.
    return grad.to_dense()
