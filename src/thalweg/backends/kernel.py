"""Compile a program into one pass over memory, with Numba.

Every buffer is read once and written once, whatever the rule, where torch's own operations make a
pass each. A kernel runs on one thread. It takes dense tensors of one floating-point type in the
CPU's memory, and declines everything else.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.backends.program import Program, python
from thalweg.rules.vocabulary import walk

__all__ = ["bound"]

_REALS = {torch.float32: np.float32, torch.float64: np.float64}


def bound(
    program: Program, buffers: Mapping[str, list[Tensor]]
) -> Callable[[Sequence[float], list[Tensor]], bool] | None:
    """A function that takes one step of these tensors, in place; None if no kernel can.

    The function's arguments are the program's scalars and the gradients. It returns whether the
    step was taken: what the parameters are may have changed, and gradients are new each time. If
    it was not, nothing was changed.
    """
    names = _names(program)
    theta = buffers["theta"]
    dtype = theta[0].dtype
    if names is None or dtype not in _REALS:
        return None
    for row in buffers.values():
        if not all(type(x) in (Tensor, torch.nn.Parameter) and _dense(x, dtype) for x in row):
            return None
    kernel = _kernel(program, _REALS[dtype])
    counts = [x.numel() for x in theta]
    sizes = np.array(counts, dtype=np.int64)
    held = [x for name in names if name != "g" for x in buffers[name]]
    held_rows = [row for row, name in enumerate(names) if name != "g"]
    places: list[int] = []
    grad_places: list[int] = []
    addresses = np.zeros((len(names), len(theta)), dtype=np.uint64)
    at_g = addresses[names.index("g")]
    written = [x for name in program.outputs for x in buffers[name]]
    numbers_at = np.zeros(program.count, dtype=_REALS[dtype])

    def fits(tensors: Sequence[Tensor]) -> bool:
        """Whether the kernel can take these, whole rows of them."""
        return all(
            _dense(x, dtype) and x.numel() == counts[i % len(counts)] for i, x in enumerate(tensors)
        )

    def step(numbers: Sequence[float], grads: list[Tensor]) -> bool:
        nonlocal places, grad_places
        # Gradients are new in each step, and the data of any tensor may have been replaced, by
        # others of any kind and size. What lies where it lay is looked at less closely.
        if not all(g.dtype is dtype and g.layout is torch.strided for g in grads):
            return False
        now = [g.data_ptr() for g in grads]
        if now != grad_places:
            if not fits(grads):
                return False
            at_g[:] = grad_places = now
        now = [x.data_ptr() for x in held]
        if now != places:
            if not fits(held):
                return False
            places = now
            addresses[held_rows] = np.reshape(np.array(now, np.uint64), (len(held_rows), -1))
        for row in (theta, grads):
            for x in row:
                if not x.is_contiguous():
                    return False
        numbers_at[:] = numbers
        kernel(addresses, sizes, numbers_at)
        # The kernel wrote behind torch's back; autograd's check for stale values must know.
        torch.autograd.graph.increment_version(written)
        return True

    return step


def _dense(x: Tensor, dtype: torch.dtype) -> bool:
    return (
        x.dtype is dtype
        and x.layout is torch.strided
        and x.is_cpu
        and x.is_contiguous()
        and not x.is_neg()
    )


@lru_cache(maxsize=1024)
def _names(program: Program) -> tuple[str, ...] | None:
    """The symbols of the program's buffers, or None if a kernel cannot compute it."""
    nodes = list(walk(*program.outputs.values()))
    if any(e.op == "normal" for e in nodes):
        return None
    read = (e.name for e in nodes if e.op == "symbol" and e.element)
    return tuple(dict.fromkeys((*program.outputs, "g", *read)))


@lru_cache(maxsize=1024)
def _kernel(program: Program, real: Any) -> Callable[..., None]:
    """The compiled program for one type of numbers."""
    # Importing Numba takes a third of a second, which only its users should wait for.
    import numba
    from numba import types

    names = _names(program)
    assert names is not None
    scalars = sorted(
        {e.name for e in walk(*program.outputs.values()) if e.op == "symbol" and not e.element},
        key=lambda name: int(name[1:]),
    )
    number = numba.from_dtype(np.dtype(real))
    scope: dict[str, Any] = {
        "sqrt": np.sqrt,
        "copysign": np.copysign,
        "real": number,
        "pointer": _pointer(number),
    }
    exec(_update_source(program, names, scalars), scope)
    scope["update"] = numba.njit(error_model="numpy")(scope["update"])
    exec(_kernel_source(names, scalars), scope)
    signature = types.void(types.uint64[:, ::1], types.int64[::1], number[::1])
    return numba.njit(signature, error_model="numpy", nogil=True)(scope["kernel"])


def _update_source(program: Program, names: Sequence[str], scalars: Sequence[str]) -> str:
    """Python for the elementwise part, on one tensor's buffers."""
    pointers = {name: f"at_{name}" for name in names}
    lines = [f"def update(one, count, {', '.join((*pointers.values(), *scalars))}):"]
    lines.append("    for i in range(count):")
    # All is read before anything is written: a new state may be another's old value.
    lines += [f"        old_{name} = {at}[i]" for name, at in pointers.items()]
    body, results = python(
        program.outputs, lambda name: f"old_{name}" if name in pointers else name
    )
    lines += [f"        {line}" for line in body]
    lines += [f"        {pointers[name]}[i] = {result}" for name, result in results.items()]
    return "\n".join(lines)


def _kernel_source(names: Sequence[str], scalars: Sequence[str]) -> str:
    """Python that applies `update` to each tensor in turn."""
    pointers = [f"pointer(addresses[{row}, j])" for row in range(len(names))]
    numbers = [f"numbers[{name[1:]}]" for name in scalars]
    arguments = ", ".join(["real(1)", "sizes[j]", *pointers, *numbers])
    return (
        "def kernel(addresses, sizes, numbers):\n"
        "    for j in range(sizes.size):\n"
        f"        update({arguments})\n"
    )


def _pointer(number: Any) -> Any:
    """A compiled function from an address to a pointer to numbers."""
    from numba import types
    from numba.extending import intrinsic

    kind = types.CPointer(number)

    def typed(context: Any, address: Any) -> Any:
        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(kind))

        return kind(types.uint64), generated

    return intrinsic(typed)
