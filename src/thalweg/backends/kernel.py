"""Compile a program into one pass over memory, with Numba.

Every buffer is read once and written once, whatever the rule, where torch's own operations make a
pass each. A kernel runs on one thread. It takes dense tensors of one floating-point type in the
CPU's memory; `step` declines everything else.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.backends.program import Program, python
from thalweg.rules.vocabulary import walk

__all__ = ["step"]

_REALS = {torch.float32: np.float32, torch.float64: np.float64}


def step(program: Program, numbers: Sequence[float], buffers: Mapping[str, list[Tensor]]) -> bool:
    """Take one step, in place, if the kernel can.

    Args:
        program: what to run.
        numbers: the values of the program's scalars.
        buffers: the tensors by symbol, as `thalweg.backends.eager.step` takes them.

    Returns:
        Whether the step was taken; if not, nothing was changed.
    """
    names = _names(program)
    if names is None:
        return False
    dtype = buffers["theta"][0].dtype
    real = _REALS.get(dtype)
    if real is None:
        return False
    rows = [buffers[name] for name in names]
    for row in rows:
        for x in row:
            dense = x.is_contiguous() and x.is_cpu and x.dtype is dtype
            if not dense or type(x) not in (Tensor, torch.nn.Parameter):
                return False
    addresses = np.array([[x.data_ptr() for x in row] for row in rows], dtype=np.uint64)
    sizes = np.array([x.numel() for x in rows[0]], dtype=np.int64)
    _kernel(program, real)(addresses, sizes, np.array(numbers, dtype=real))
    # The kernel wrote behind torch's back; autograd's check for stale values must know.
    torch.autograd.graph.increment_version([x for name in program.outputs for x in buffers[name]])
    return True


@lru_cache(maxsize=1024)
def _names(program: Program) -> tuple[str, ...] | None:
    """The symbols of the program's buffers, or None if a kernel cannot compute it."""
    nodes = list(walk(*program.outputs.values()))
    if any(e.op == "normal" for e in nodes):
        return None
    read = (e.name for e in nodes if e.op == "symbol" and e.element)
    return tuple(dict.fromkeys((*program.outputs, *read)))


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
    written = {name: f"{pointers[name]}[i]" for name in names}
    body, results = python(program.outputs, lambda name: written.get(name, name))
    lines += [f"        {line}" for line in body]
    lines += [f"        {written[name]} = {result}" for name, result in results.items()]
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
