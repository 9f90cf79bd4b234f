"""The vocabulary's operations as LLVM's instructions, on numbers or on vectors of them."""

# llvmlite is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportUnknownParameterType=false

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from llvmlite import ir

from thalweg.rules import philox

__all__ = [
    "DOUBLE",
    "FLOAT",
    "INT",
    "OPERATIONS",
    "WORD",
    "Arithmetic",
    "Operand",
    "external",
    "normal",
    "splat",
    "wide",
]

Operand: TypeAlias = Any  # a value of llvmlite's
WORD, INT = ir.IntType(64), ir.IntType(32)
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()


def wide(kind: Any, lanes: int) -> Any:
    """A type of so many numbers side by side."""
    return ir.VectorType(kind, lanes) if lanes > 1 else kind


def splat(kind: Any, value: Any, lanes: int) -> Operand:
    """One constant in every lane."""
    return ir.Constant(wide(kind, lanes), [value] * lanes if lanes > 1 else value)


class Arithmetic:
    """Instructions for so many lanes, written where a builder stands.

    Args:
        build: llvmlite's builder.
        real: the type of the numbers.
        lanes: how many are computed with at once.
    """

    def __init__(self, build: Any, real: Any, lanes: int) -> None:
        self.build, self.real, self.lanes = build, real, lanes
        self.zero, self.one = (splat(real, x, lanes) for x in (0.0, 1.0))

    def broadcast(self, scalar: Operand) -> Operand:
        """One number in every lane."""
        if self.lanes == 1:
            return scalar
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.build.insert_element(undefined, scalar, ir.Constant(INT, 0))
        return self.build.shuffle_vector(first, undefined, splat(INT, 0, self.lanes))

    def intrinsic(self, name: str, *operands: Operand) -> Operand:
        """A function of LLVM's own, which is named after the type of its operands."""
        kind = operands[0].type
        lanes = f"v{self.lanes}" if self.lanes > 1 else ""
        suffix = "f64" if _element(kind) == DOUBLE else "f32"
        function = external(
            self.build.module,
            f"llvm.{name}.{lanes}{suffix}",
            ir.FunctionType(kind, [kind] * len(operands)),
        )
        return self.build.call(function, operands)

    def extreme(self, predicate: str, x: Operand, y: Operand) -> Operand:
        """The one of which the comparison holds; as in NumPy, NaN stays NaN."""
        nan = self.build.fcmp_unordered("uno", x, x)
        chosen = self.build.or_(self.build.fcmp_ordered(predicate, x, y), nan)
        return self.build.select(chosen, x, y)

    def sign(self, x: Operand) -> Operand:
        """-1 or 1; zero and NaN stay as they are."""
        itself = self.build.fcmp_unordered("ueq", x, self.zero)
        return self.build.select(itself, x, self.intrinsic("copysign", self.one, x))

    def choice(self, condition: Operand, x: Operand, y: Operand) -> Operand:
        """`x` where the condition holds, else `y`; one on scalars alone is a number, the host's."""
        if _element(condition.type) == self.real:
            condition = self.build.fcmp_unordered("une", condition, self.zero)
        return self.build.select(condition, x, y)


def external(module: Any, name: str, kind: Any) -> Operand:
    """A function that is not defined here, declared once."""
    return module.globals.get(name) or ir.Function(module, kind, name)


def _element(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind


OPERATIONS: Mapping[str, Callable[..., Operand]] = {
    "add": lambda at, x, y: at.build.fadd(x, y),
    "sub": lambda at, x, y: at.build.fsub(x, y),
    "mul": lambda at, x, y: at.build.fmul(x, y),
    "div": lambda at, x, y: at.build.fdiv(x, y),
    "pow": lambda at, x, y: at.intrinsic("pow", x, y),
    "neg": lambda at, x: at.build.fneg(x),
    "abs": lambda at, x: at.intrinsic("fabs", x),
    "gt": lambda at, x, y: at.build.fcmp_ordered(">", x, y),
    "sqrt": lambda at, x: at.intrinsic("sqrt", x),
    "sign": lambda at, x: at.sign(x),
    "maximum": lambda at, x, y: at.extreme(">=", x, y),
    "minimum": lambda at, x, y: at.extreme("<=", x, y),
    "where": lambda at, condition, x, y: at.choice(condition, x, y),
}
"""The vocabulary's operations as instructions; operands are numbers or vectors of them."""


def normal(at: Arithmetic, position: Operand, *, seed: Operand, t: Operand, stream: Operand) -> Any:
    """One draw from N(0, 1) in each lane, by the definition that every backend follows.

    Args:
        at: where the instructions go.
        position: the row-major position of the first lane's element, as are the next ones'.
        seed, t, stream: see `thalweg.rules.philox.normal`; scalars.
    """
    index = at.broadcast(position)
    if at.lanes > 1:
        index = at.build.add(index, ir.Constant(wide(WORD, at.lanes), list(range(at.lanes))))
    given: Any = {"seed": seed, "t": t, "stream": stream}
    spread: Any = {name: _Lanes(at, at.broadcast(x)) for name, x in given.items()}
    draw = philox.normal(_Array(at), _Lanes(at, index), **spread).value
    return draw if at.real is DOUBLE else at.build.fptrunc(draw, wide(at.real, at.lanes))


class _Lanes:
    """64-bit integers or float64 with Python's operators, which noise is defined by."""

    def __init__(self, at: Arithmetic, value: Operand) -> None:
        self.at, self.value = at, value

    def _with(self, operation: str, other: "_Lanes | float") -> "_Lanes":
        kind = _element(self.value.type)
        right = other.value if isinstance(other, _Lanes) else splat(kind, other, self.at.lanes)
        build = getattr(self.at.build, ("f" if kind == DOUBLE else "") + operation)
        return _Lanes(self.at, build(self.value, right))

    def __add__(self, other: "_Lanes | float") -> "_Lanes":
        return self._with("add", other)

    def __mul__(self, other: "_Lanes | float") -> "_Lanes":
        return self._with("mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: "_Lanes | float") -> "_Lanes":
        return self._with("div", other)

    def __and__(self, other: "_Lanes | int") -> "_Lanes":
        return self._with("and_", other)

    def __xor__(self, other: "_Lanes | int") -> "_Lanes":
        return self._with("xor", other)

    def __rshift__(self, other: "_Lanes | int") -> "_Lanes":
        return self._with("lshr", other)


class _Array:
    """The functions that noise is defined by, under NumPy's names."""

    float64 = DOUBLE

    def __init__(self, at: Arithmetic) -> None:
        self.at = at

    def asarray(self, x: _Lanes, dtype: Any) -> _Lanes:
        return _Lanes(self.at, self.at.build.uitofp(x.value, wide(dtype, self.at.lanes)))

    def __getattr__(self, name: str) -> Callable[[_Lanes], _Lanes]:
        return lambda x: _Lanes(self.at, self.at.intrinsic(name, x.value))
