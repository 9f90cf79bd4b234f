"""A program as a kernel over rows: it is told their numbers, and works on each where it lies.

The gradient is a list of rows, its entries. Those of one row are added up as they are read.

A job, in words of 64 bits:

    word 0   address of the rows' numbers: which row of the parameter and of its states each is
    word 1   how many rows there are
    word 2   how many have been taken, by all threads
    word 3   how the processor is to round, as in `lowering`
    word 4   address of the program's scalars, float64
    word 5   address of the entries' places in the gradient, those of a row together
    word 6   address of where in that list each row's entries begin, and where the last one's end
    word 7   how many elements a row has
    word 8   how many rows are taken at a time: if each were counted, threads would wait to count
    word 9   the stream
    then     the address of each buffer, in the order of `buffer_names`
"""

# llvmlite is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportPrivateUsage=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Mapping
from functools import lru_cache

from llvmlite import ir

from thalweg.backends import compilation
from thalweg.backends.instructions import INT, WORD, Operand, external, wide
from thalweg.backends.lowering import _POINTER, _integer, _Kernel
from thalweg.backends.program import Program

__all__ = ["rows_kernel"]

_AHEAD = 4
"""How many rows ahead memory is asked for: a processor cannot guess where the next one lies."""


@lru_cache(maxsize=1024)
def rows_kernel(program: Program, dtypes: tuple[str, ...]) -> int:
    """The address of the compiled program for buffers of these types; see `fused.kernel`."""
    return compilation.address(str(_RowsKernel(program, dtypes, compilation.vector_bytes()).module))


class _RowsKernel(_Kernel):
    def _chunks(self) -> None:
        """Take batch after batch until none is left."""
        at, (job,) = self.at, self.function.args
        self.numbers, self.places, self.begins = (self.word(job, i, _POINTER) for i in (0, 5, 6))
        count, self.width, batch = (self.word(job, i) for i in (1, 7, 8))
        self.stream = self.word(job, 9)
        self.bases = {name: self.word(job, 10 + i, _POINTER) for i, name in enumerate(self.names)}
        mode = at.alloca(WORD)
        # Memory that is not a register must be set aside where the function begins.
        self.sums = {lanes: at.alloca(wide(self.real, lanes)) for lanes in (1, self.lanes)}
        self._mode(job, mode)
        scalars = self.word(job, 4, _POINTER)
        self.scalars = {
            e.name: self._scalar(scalars, e)
            for e in self.nodes
            if e.op == "symbol" and not e.element
        }
        following, work, done = (self.function.append_basic_block() for _ in range(3))
        at.branch(following)
        at.position_at_end(following)
        taken = at.gep(job, [_integer(2)], source_etype=WORD)
        first = at.atomic_rmw("add", taken, batch, "monotonic")
        at.cbranch(at.icmp_unsigned("<", first, count), work, done)
        at.position_at_end(done)
        self._with_mode("ldmxcsr", mode)
        at.ret_void()
        at.position_at_end(work)
        end = self._least(at.add(first, batch), count)
        last = at.sub(end, _integer(1))
        with self.loop(first, end, 1) as row:
            self._row(row, self._least(at.add(row, _integer(_AHEAD)), last))
        at.branch(following)

    def _row(self, row: Operand, ahead: Operand) -> None:
        """The program on one row, while another is on its way."""
        at = self.at
        begin = at.mul(self.word(self.numbers, row), self.width)
        here, there = self._rows(row), self._rows(ahead)
        self.first = self.word(self.begins, row)
        self.end = self.word(self.begins, at.add(row, _integer(1)))
        whole = at.and_(self.width, _integer(-self.lanes))
        for start, stop, lanes in ((_integer(0), whole, self.lanes), (whole, self.width, 1)):
            with self.loop(start, stop, lanes) as i:
                if lanes > 1:
                    for name, base in there.items():
                        self._prefetched(self._place(name, base, i))
                self.element = i
                places = {name: self._place(name, base, i) for name, base in here.items()}
                self._update(places, at.add(begin, i), lanes)

    def _rows(self, row: Operand) -> Mapping[str, Operand]:
        """Where a row begins in each buffer, and its first entry in the gradient."""
        begin = self.at.mul(self.word(self.numbers, row), self.width)
        entry = self._entry(self.word(self.begins, row))
        return {
            name: entry if name == "g" else self._place(name, base, begin)
            for name, base in self.bases.items()
        }

    def _entry(self, k: Operand) -> Operand:
        """Where an entry begins in the gradient."""
        begin = self.at.mul(self.word(self.places, k), self.width)
        return self._place("g", self.bases["g"], begin)

    def loaded(self, name: str, address: Operand, lanes: int) -> Operand:
        """Numbers of a buffer; those of the gradient's entries of a row added up in their order."""
        value = super().loaded(name, address, lanes)
        if name != "g":
            return value
        total = self.sums[lanes]
        self.at.store(value, total)
        with self.loop(self.at.add(self.first, _integer(1)), self.end, 1) as k:
            more = super().loaded("g", self._place("g", self._entry(k), self.element), lanes)
            self.at.store(self.at.fadd(self.at.load(total, typ=value.type), more), total)
        return self.at.load(total, typ=value.type)

    def _least(self, x: Operand, y: Operand) -> Operand:
        return self.at.select(self.at.icmp_signed("<", x, y), x, y)

    def _prefetched(self, place: Operand) -> None:
        kind = ir.FunctionType(ir.VoidType(), [_POINTER, INT, INT, INT])
        function = external(self.module, "llvm.prefetch.p0", kind)
        self.at.call(function, [place, *(ir.Constant(INT, n) for n in (0, 3, 1))])
