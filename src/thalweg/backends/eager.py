"""Run a program with torch's own operations, over lists of tensors.

It takes whatever torch takes. Products and sums are matched to the multiply-add forms torch has,
and a buffer whose value is not needed again is overwritten.
"""

# torch's operations on lists of tensors are those of its own optimizers, and are not typed.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.backends import local
from thalweg.backends.program import Program
from thalweg.rules import philox
from thalweg.rules.vocabulary import Expr, walk

__all__ = ["gradient_points", "step"]

Tensors: TypeAlias = list[Tensor]
Operand: TypeAlias = Any  # a list of tensors, or a number that stands for as many of them


@torch.no_grad()
def step(
    program: Program,
    numbers: Sequence[float],
    buffers: Mapping[str, Tensors],
    streams: Sequence[int],
    wholes: Sequence[Tensor] = (),
) -> None:
    """Take one step, in place.

    Args:
        program: what to run.
        numbers: the values of the program's scalars.
        buffers: the tensors by symbol: `theta`, `g` and each state, all lists of one length.
            All but `g` are overwritten with their new values.
        streams: each parameter's position among all of the optimizer's.
        wholes: the distributed tensors that the parameters are shards of, if they are.
    """
    for g in buffers["g"]:
        if g.layout is not torch.strided:
            raise RuntimeError("sparse gradients are not supported: make them dense")
    buffers = {name: [_real(x) for x in row] for name, row in buffers.items()}
    wide = {name: [_wide(x) for x in row] for name, row in buffers.items()}
    results = _lowered(program).run(numbers, wide, streams, wholes or buffers["theta"])
    held = {id(x) for row in buffers.values() for x in row}
    moved = [
        # A value that is in another buffer must survive that buffer's own change.
        (x, value.clone() if id(value) in held else value)
        for name, result in results.items()
        for x, value in zip(buffers[name], result, strict=True)
        if x is not value
    ]
    if moved:
        targets, values = map(list, zip(*moved, strict=True))
        torch._foreach_copy_(targets, values)


def _real(x: Tensor) -> Tensor:
    """A complex number is trained as two real ones, as torch does."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _wide(x: Tensor) -> Tensor:
    """Computed in float32, as states are kept, and rounded once."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def gradient_points(
    program: Program, numbers: Sequence[float], buffers: Mapping[str, Tensors]
) -> Tensors:
    """Where each parameter's gradient is to be taken; nothing is changed."""
    real = {name: [_real(local.shard(x)) for x in row] for name, row in buffers.items()}
    points = _lowered_at(program).run(numbers, real, (), ())["at"]
    return [
        local.spread(torch.view_as_complex(at.contiguous()) if p.is_complex() else at, p)
        for p, at in zip(buffers["theta"], points, strict=True)
    ]


@lru_cache(maxsize=1024)
def _lowered(program: Program) -> "_Code":
    return _Code.of(program.outputs, overwrite=True)


@lru_cache(maxsize=1024)
def _lowered_at(program: Program) -> "_Code":
    assert program.at is not None
    return _Code.of({"at": program.at}, overwrite=False)


@dataclass(frozen=True)
class _Instruction:
    call: Callable[..., Operand]
    operands: tuple[Expr, ...]
    target: Expr
    form: str


@dataclass(frozen=True)
class _Code:
    instructions: tuple[_Instruction, ...]
    inputs: tuple[Expr, ...]
    outputs: Mapping[str, Expr]

    @staticmethod
    def of(outputs: Mapping[str, Expr], *, overwrite: bool) -> "_Code":
        matched = _matched(outputs)
        last_use = {a: i for i, (_, _, operands) in enumerate(matched) for a in operands}
        kept = set(outputs.values())
        instructions: list[_Instruction] = []
        for i, (target, form, operands) in enumerate(matched):
            first = operands[0]
            free = (
                overwrite
                and first.element
                and first not in kept
                and last_use[first] == i
                and operands.count(first) == 1
                and not (first.op == "symbol" and first.name == "g")
            )
            call = _IN_PLACE[form] if free and form in _IN_PLACE else _CALLS[form]
            instructions.append(_Instruction(call, operands, target, form))
        inputs = tuple(e for e in walk(*outputs.values()) if e.op == "symbol")
        return _Code(tuple(instructions), inputs, outputs)

    def run(
        self,
        numbers: Sequence[float],
        buffers: Mapping[str, Tensors],
        streams: Sequence[int],
        wholes: Sequence[Tensor],
    ) -> dict[str, Tensors]:
        values: dict[Expr, Operand] = {
            e: buffers[e.name] if e.element else numbers[int(e.name[1:])] for e in self.inputs
        }
        for i in self.instructions:
            operands = [values[a] for a in i.operands]
            if i.form == "normal":
                operands += [buffers["g"], streams, wholes]
            elif i.form == "where":
                operands.append(buffers["theta"])
            result = i.call(*operands)
            # torch's operations on lists return tuples.
            values[i.target] = list(result) if isinstance(result, tuple) else result
        return {name: values[e] for name, e in self.outputs.items()}


def _matched(outputs: Mapping[str, Expr]) -> list[tuple[Expr, str, tuple[Expr, ...]]]:
    """Each computed value with the form it is computed by and that form's operands.

    `x + k y`, `x + k (y z)` and `x + k (y / z)` become one operation each where nothing else
    needs the product.
    """
    nodes = [e for e in walk(*outputs.values()) if e.op not in ("symbol", "const")]
    uses: dict[Expr, int] = {}
    for e in (*(a for n in nodes for a in n.operands), *outputs.values()):
        uses[e] = uses.get(e, 0) + 1
    inside: set[Expr] = set()
    matched: list[tuple[Expr, str, tuple[Expr, ...]]] = []
    for e in reversed(nodes):
        if e in inside:
            continue
        form, operands = e.op, e.operands
        if form in ("add", "mul", "maximum", "minimum") and not operands[0].element:
            operands = operands[::-1]
        if e.op == "add" and all(a.element for a in operands):
            for x, y in (operands, operands[::-1]):
                if y.op == "mul" and uses[y] == 1 and not y.operands[0].element:
                    k, z = y.operands
                    inside.add(y)
                    form, operands = "add_scaled", (x, z, k)
                    if z.op in ("mul", "div") and uses[z] == 1 and _elements(z):
                        inside.add(z)
                        form, operands = f"add_{z.op}", (x, *z.operands, k)
                    break
        matched.append((e, form, operands))
    return matched[::-1]


def _elements(e: Expr) -> bool:
    return all(a.element for a in e.operands)


def _each(function: Callable[..., Tensor]) -> Callable[..., Tensors]:
    """`function` on one tensor after the other; numbers go to every call."""

    def call(*operands: Operand) -> Tensors:
        count = next(len(a) for a in operands if isinstance(a, list))
        rows = [a if isinstance(a, list) else [a] * count for a in operands]
        return [function(*row) for row in zip(*rows, strict=True)]

    return call


def _reflected(
    lists: Callable[..., Tensors], function: Callable[..., Tensor]
) -> Callable[..., Tensors]:
    """torch's operation on lists, which wants one first; else one tensor after the other."""
    each = _each(function)
    return lambda x, y: lists(x, y) if isinstance(x, list) else each(x, y)


def _where(condition: Operand, x: Operand, y: Operand, like: Tensors) -> Tensors:
    if isinstance(condition, list):
        if not isinstance(x, list) and not isinstance(y, list):
            # Between two numbers torch chooses in its default dtype.
            x = [torch.full_like(p, x) for p in like]
        return _each(torch.where)(condition, x, y)
    chosen = x if condition else y
    if isinstance(chosen, list):
        return [a.clone() for a in chosen]
    return [torch.full_like(p, chosen) for p in like]


def _noise(
    seed: float, t: float, g: Tensors, streams: Sequence[int], wholes: Sequence[Tensor]
) -> Tensors:
    drawn: Tensors = []
    for x, stream, whole in zip(g, streams, wholes, strict=True):
        index = local.positions(whole)
        draws = philox.normal(torch, index, seed=int(seed), t=int(t), stream=stream)
        drawn.append(draws.to(x.dtype))
    return drawn


_CALLS: Mapping[str, Callable[..., Tensors]] = {
    "add": torch._foreach_add,
    "sub": _reflected(torch._foreach_sub, operator.sub),
    "mul": torch._foreach_mul,
    "div": _reflected(torch._foreach_div, operator.truediv),
    "pow": torch._foreach_pow,
    "abs": torch._foreach_abs,
    "gt": _each(operator.gt),
    "sqrt": torch._foreach_sqrt,
    # torch's own sign of NaN is 0.
    "sign": _each(lambda x: torch.where(x.isnan(), x, x.sign())),
    "maximum": torch._foreach_maximum,
    "minimum": torch._foreach_minimum,
    "where": _where,
    "normal": _noise,
    "add_scaled": lambda x, y, k: torch._foreach_add(x, y, alpha=k),
    "add_mul": lambda x, y, z, k: torch._foreach_addcmul(x, y, z, value=k),
    "add_div": lambda x, y, z, k: torch._foreach_addcdiv(x, y, z, value=k),
}


def _in_place(function: Callable[..., None]) -> Callable[..., Tensors]:
    def call(x: Tensors, *operands: Operand) -> Tensors:
        function(x, *operands)
        return x

    return call


_IN_PLACE: Mapping[str, Callable[..., Tensors]] = {
    "add": _in_place(torch._foreach_add_),
    "sub": _in_place(torch._foreach_sub_),
    "mul": _in_place(torch._foreach_mul_),
    "div": _in_place(torch._foreach_div_),
    "abs": _in_place(torch._foreach_abs_),
    "sqrt": _in_place(torch._foreach_sqrt_),
    "maximum": _in_place(torch._foreach_maximum_),
    "minimum": _in_place(torch._foreach_minimum_),
    "add_scaled": _in_place(lambda x, y, k: torch._foreach_add_(x, y, alpha=k)),
    "add_mul": _in_place(lambda x, y, z, k: torch._foreach_addcmul_(x, y, z, value=k)),
    "add_div": _in_place(lambda x, y, z, k: torch._foreach_addcdiv_(x, y, z, value=k)),
}
