"""Write a program as a kernel in LLVM's intermediate representation: one pass over memory.

A kernel is a function of one address, that of a job:

    word 0   address of the chunks, three words each: address of a tensor's row, start, length
    word 1   how many chunks there are
    word 2   how many have been taken; the threads count here, so one that is slow takes fewer
    word 3   how the processor is to round and whether it flushes denormals, on x86; 0: as it does
    word 4   address of the program's scalars, float64

A tensor's row is the address of each of its buffers, in the order of `buffer_names`, then its
stream, then the address of its layout. A layout of 0 says that every buffer is dense and in the
same order. Another is the number of dimensions and their sizes, then for each buffer, and for
the row-major position that noise depends on, the strides. All words have 64 bits.
"""

# llvmlite is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from llvmlite import ir

from thalweg.backends import compilation
from thalweg.backends.instructions import (
    DOUBLE,
    FLOAT,
    INT,
    OPERATIONS,
    WORD,
    Arithmetic,
    Operand,
    external,
    normal,
    splat,
    wide,
)
from thalweg.backends.program import Program
from thalweg.rules.vocabulary import Expr, walk

__all__ = ["DTYPES", "JOB_WORDS", "buffer_names", "lowered", "noisy"]

JOB_WORDS = 5
DTYPES = ("float32", "float64", "bfloat16", "float16")
"""The types a buffer may have; the latter two are computed with in float32."""

_STORED = {
    "float32": FLOAT,
    "float64": DOUBLE,
    "bfloat16": ir.IntType(16),
    "float16": ir.HalfType(),
}
_POINTER = ir.PointerType()
_PREFETCHED = 1024
"""How far ahead, in bytes: the processor's own prefetching stops where a page of memory ends."""


@lru_cache(maxsize=1024)
def buffer_names(program: Program) -> tuple[str, ...]:
    """The symbols of a program's buffers: first those that are written."""
    nodes = walk(*program.outputs.values())
    read = (e.name for e in nodes if e.op == "symbol" and e.element)
    return tuple(dict.fromkeys((*program.outputs, "g", *read)))


@lru_cache(maxsize=1024)
def noisy(program: Program) -> bool:
    """Whether the program depends on where in a tensor an element is."""
    return any(e.op == "normal" for e in walk(*program.outputs.values()))


def lowered(program: Program, dtypes: Sequence[str], vector_bytes: int) -> str:
    """The kernel's source; its function is called `kernel`.

    Args:
        program: what it computes.
        dtypes: the type of each buffer, in the order of `buffer_names`.
        vector_bytes: the size of the processor's vectors.
    """
    return str(_Kernel(program, dtypes, vector_bytes).module)


def _integer(value: int) -> ir.Constant:
    return ir.Constant(WORD, value)


class _Kernel:
    def __init__(self, program: Program, dtypes: Sequence[str], vector_bytes: int) -> None:
        self.program = program
        self.nodes = list(walk(*program.outputs.values()))
        self.names = buffer_names(program)
        self.dtypes = dict(zip(self.names, dtypes, strict=True))
        self.real = DOUBLE if self.dtypes["theta"] == "float64" else FLOAT
        self.lanes = vector_bytes // (8 if self.real is DOUBLE else 4)
        self.module = ir.Module("thalweg")
        self.function = ir.Function(
            self.module, ir.FunctionType(ir.VoidType(), [_POINTER]), "kernel"
        )
        self.function.attributes.add("nounwind")
        self.at = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._chunks()

    # Memory

    def word(self, base: Operand, index: int | Operand, kind: Any = WORD) -> Operand:
        """A word of a table in memory."""
        index = _integer(index) if isinstance(index, int) else index
        return self.at.load(self.at.gep(base, [index], source_etype=WORD), typ=kind)

    def loaded(self, name: str, address: Operand, lanes: int) -> Operand:
        """Numbers of a buffer, in the type they are computed with."""
        dtype, real = self.dtypes[name], wide(self.real, lanes)
        kind = wide(_STORED[dtype], lanes)
        value = self.at.load(address, typ=kind)
        value.align = _size(_STORED[dtype])
        if dtype == "bfloat16":
            bits, kind = self.at.zext(value, wide(INT, lanes)), wide(FLOAT, lanes)
            value = self.at.bitcast(self.at.shl(bits, splat(INT, 16, lanes)), kind)
        if kind != real:
            value = self.at.fpext(value, real)
        return value

    def stored(self, name: str, value: Operand, address: Operand, lanes: int) -> None:
        """Write numbers to a buffer, rounded to its type."""
        dtype = self.dtypes[name]
        if dtype == "bfloat16":
            if self.real is DOUBLE:
                value = self.at.fptrunc(value, wide(FLOAT, lanes))
            value = self._bfloat16(value, lanes)
        elif _STORED[dtype] is not self.real:
            value = self.at.fptrunc(value, wide(_STORED[dtype], lanes))
        self.at.store(value, address).align = _size(_STORED[dtype])

    def _bfloat16(self, value: Operand, lanes: int) -> Operand:
        """The upper half of a float32's bits, rounded to nearest even; NaN stays NaN."""
        at = self.at
        bits = at.bitcast(value, wide(INT, lanes))
        upper = at.lshr(bits, splat(INT, 16, lanes))
        odd = at.and_(upper, splat(INT, 1, lanes))
        rounded = at.add(at.add(bits, splat(INT, 0x7FFF, lanes)), odd)
        upper = at.lshr(rounded, splat(INT, 16, lanes))
        nan = at.fcmp_unordered("uno", value, value)
        upper = at.select(nan, splat(INT, 0x7FC0, lanes), upper)
        return at.trunc(upper, wide(ir.IntType(16), lanes))

    # Control

    @contextmanager
    def loop(self, start: Operand, stop: Operand, step: int) -> Generator[Operand]:
        """What is built inside is repeated, with the index that is given."""
        before = self.at.block
        head, body, after = (self.function.append_basic_block() for _ in range(3))
        self.at.branch(head)
        self.at.position_at_end(head)
        index = self.at.phi(WORD)
        index.add_incoming(start, before)
        self.at.cbranch(self.at.icmp_signed("<", index, stop), body, after)
        self.at.position_at_end(body)
        yield index
        index.add_incoming(self.at.add(index, _integer(step)), self.at.block)
        self.at.branch(head)
        self.at.position_at_end(after)

    def _chunks(self) -> None:
        """Take chunk after chunk until none is left."""
        at, (job,) = self.at, self.function.args
        chunks, count = self.word(job, 0, _POINTER), self.word(job, 1)
        numbers = self.word(job, 4, _POINTER)
        mode = at.alloca(WORD)
        self._mode(job, mode)
        self.scalars = {
            e.name: self._scalar(numbers, e)
            for e in self.nodes
            if e.op == "symbol" and not e.element
        }
        # Memory that is not a register must be set aside where the function begins.
        self.offsets = {name: at.alloca(WORD) for name in (*self.names, *self._index_name())}
        self.left, self.rest = at.alloca(WORD), at.alloca(WORD)
        following, work, done = (self.function.append_basic_block() for _ in range(3))
        at.branch(following)
        at.position_at_end(following)
        taken = at.gep(job, [_integer(2)], source_etype=WORD)
        chunk = at.atomic_rmw("add", taken, _integer(1), "monotonic")
        at.cbranch(at.icmp_unsigned("<", chunk, count), work, done)
        at.position_at_end(done)
        self._with_mode("ldmxcsr", mode)
        at.ret_void()
        at.position_at_end(work)
        chunk = at.gep(chunks, [at.mul(chunk, _integer(3))], source_etype=WORD)
        row, start, length = self.word(chunk, 0, _POINTER), self.word(chunk, 1), self.word(chunk, 2)
        self.bases = {name: self.word(row, i, _POINTER) for i, name in enumerate(self.names)}
        self.stream = self.word(row, len(self.names))
        layout = self.word(row, len(self.names) + 1, _POINTER)
        regular = at.icmp_unsigned("==", at.ptrtoint(layout, WORD), _integer(0))
        with at.if_else(regular) as (then, otherwise):
            with then:
                self._dense(start, length)
            with otherwise:
                self._strided(layout, start, length)
        at.branch(following)

    def _mode(self, job: Operand, before: Operand) -> None:
        """Compute as the thread does that has asked for it; this one's own way is kept."""
        self._with_mode("stmxcsr", before)
        wanted = self.at.gep(job, [_integer(3)], source_etype=WORD)
        given = self.at.icmp_unsigned("!=", self.at.load(wanted, typ=WORD), _integer(0))
        self._with_mode("ldmxcsr", self.at.select(given, wanted, before))

    def _with_mode(self, instruction: str, place: Operand) -> None:
        if compilation.is_x86():
            kind = ir.FunctionType(ir.VoidType(), [_POINTER])
            self.at.call(external(self.module, f"llvm.x86.sse.{instruction}", kind), [place])

    def _scalar(self, numbers: Operand, e: Expr) -> Operand:
        place = self.at.gep(numbers, [_integer(int(e.name[1:]))], source_etype=DOUBLE)
        return self.at.load(place, typ=DOUBLE)

    def _index_name(self) -> tuple[str, ...]:
        return ("position",) if noisy(self.program) else ()

    def _dense(self, start: Operand, length: Operand) -> None:
        at = self.at
        bases = {name: self._place(name, base, start) for name, base in self.bases.items()}
        whole = at.and_(length, _integer(-self.lanes))

        def elements(begin: Operand, end: Operand, lanes: int) -> None:
            with self.loop(begin, end, lanes) as i:
                places = {name: self._place(name, base, i) for name, base in bases.items()}
                if lanes > 1:
                    for place in places.values():
                        self._prefetched(place)
                self._update(places, at.add(start, i), lanes)

        elements(_integer(0), whole, self.lanes)
        elements(whole, length, 1)

    def _strided(self, layout: Operand, start: Operand, length: Operand) -> None:
        """Element by element, in runs along the last dimension of the layout."""
        at = self.at
        dimensions = self.word(layout, 0)
        last = at.sub(dimensions, _integer(1))
        run_size = self.word(layout, dimensions)
        end = at.add(start, length)
        at.store(start, self.left)
        head, body, after = (self.function.append_basic_block() for _ in range(3))
        at.branch(head)
        at.position_at_end(head)
        first = at.load(self.left, typ=WORD)
        at.cbranch(at.icmp_signed("<", first, end), body, after)
        at.position_at_end(body)
        in_run = at.urem(first, run_size)
        run = at.sub(run_size, in_run)
        most = at.sub(end, first)
        run = at.select(at.icmp_signed("<", run, most), run, most)
        at.store(first, self.rest)
        for offset in self.offsets.values():
            at.store(_integer(0), offset)
        with self.loop(_integer(0), dimensions, 1) as back:
            dimension = at.sub(last, back)
            size = self.word(layout, at.add(dimension, _integer(1)))
            position = at.load(self.rest, typ=WORD)
            at.store(at.udiv(position, size), self.rest)
            index = at.urem(position, size)
            for k, offset in enumerate(self.offsets.values()):
                stride = self._stride(layout, dimensions, k, dimension)
                moved = at.add(at.load(offset, typ=WORD), at.mul(index, stride))
                at.store(moved, offset)
        strides = [self._stride(layout, dimensions, k, last) for k in range(len(self.offsets))]
        offsets = [at.load(offset, typ=WORD) for offset in self.offsets.values()]
        with self.loop(_integer(0), run, 1) as i:
            moved = [
                at.add(offset, at.mul(i, stride))
                for offset, stride in zip(offsets, strides, strict=True)
            ]
            places = {
                name: self._place(name, self.bases[name], offset)
                for name, offset in zip(self.names, moved, strict=False)
            }
            self._update(places, moved[-1], 1)
        at.store(at.add(first, run), self.left)
        at.branch(head)
        at.position_at_end(after)

    def _stride(self, layout: Operand, dimensions: Operand, k: int, dimension: Operand) -> Operand:
        place = self.at.add(self.at.mul(dimensions, _integer(k + 1)), _integer(1))
        return self.word(layout, self.at.add(place, dimension))

    def _place(self, name: str, base: Operand, index: Operand) -> Operand:
        return self.at.gep(base, [index], source_etype=_STORED[self.dtypes[name]])

    def _prefetched(self, place: Operand) -> None:
        kind = ir.FunctionType(ir.VoidType(), [_POINTER, INT, INT, INT])
        function = external(self.module, "llvm.prefetch.p0", kind)
        ahead = self.at.gep(place, [_integer(_PREFETCHED)], source_etype=ir.IntType(8))
        read, keep, data = ir.Constant(INT, 0), ir.Constant(INT, 3), ir.Constant(INT, 1)
        self.at.call(function, [ahead, read, keep, data])

    # Arithmetic

    def _update(self, places: Mapping[str, Operand], position: Operand, lanes: int) -> None:
        """The program on `lanes` elements: all is read before anything is written."""
        arithmetic = Arithmetic(self.at, self.real, lanes)
        old = {name: self.loaded(name, place, lanes) for name, place in places.items()}
        values: dict[Expr, Operand] = {}
        for e in self.nodes:
            match e.op:
                case "const":
                    values[e] = splat(self.real, e.constant, lanes)
                case "symbol" if e.element:
                    values[e] = old[e.name]
                case "symbol":
                    scalar = self.scalars[e.name]
                    if self.real is FLOAT:
                        scalar = self.at.fptrunc(scalar, FLOAT)
                    values[e] = arithmetic.broadcast(scalar)
                case "normal":
                    seed, t = (self.at.fptosi(self.scalars[a.name], WORD) for a in e.operands)
                    values[e] = normal(arithmetic, position, seed=seed, t=t, stream=self.stream)
                case _:
                    operands = [values[a] for a in e.operands]
                    values[e] = OPERATIONS[e.op](arithmetic, *operands)
        for name, e in self.program.outputs.items():
            self.stored(name, values[e], places[name], lanes)


def _size(kind: Any) -> int:
    return {DOUBLE: 8, FLOAT: 4}.get(kind, 2)
