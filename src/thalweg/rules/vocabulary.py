"""The closed vocabulary in which every rule is written.

A rule is called once with symbols; what it does to them is recorded as a graph of `Expr`. The
graph is all a backend ever sees, so this file is the whole list of what a backend must know.
"""

from collections.abc import Iterator
from threading import Lock
from typing import NoReturn, TypeAlias
from weakref import WeakValueDictionary

__all__ = [
    "Expr",
    "Value",
    "maximum",
    "minimum",
    "normal",
    "sign",
    "sqrt",
    "symbol",
    "walk",
    "where",
]


class Expr:
    """One node of a rule's graph: an operation of the vocabulary on other nodes.

    Equal expressions are one object, so a subexpression that is written twice is computed once.

    Attributes:
        op: `"const"` and `"symbol"` for leaves, else the operation's name.
        args: the operands; for a leaf its number or its name.
        element: whether the value has one number per element of the parameter. A value that does
            not is one scalar per parameter and step, and is computed on the host in float64.
    """

    __slots__ = ("__weakref__", "args", "element", "op")
    # NumPy would otherwise take `array * Expr` apart element by element.
    __array_ufunc__ = None

    op: str
    args: "tuple[Expr | float | str, ...]"
    element: bool

    def __repr__(self) -> str:
        if self.op in ("const", "symbol"):
            return str(self.args[0])
        return f"{self.op}({', '.join(map(repr, self.args))})"

    @property
    def operands(self) -> "tuple[Expr, ...]":
        """The nodes this one is computed from; none for a leaf."""
        return tuple(a for a in self.args if isinstance(a, Expr))

    @property
    def constant(self) -> float | None:
        """The number of a constant, None for anything else."""
        value = self.args[0]
        return value if self.op == "const" and isinstance(value, float) else None

    @property
    def name(self) -> str:
        """The name of a symbol."""
        assert self.op == "symbol", self
        return str(self.args[0])

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a rule cannot branch on a value, which is known only when a step is taken: use "
            "where(condition, a, b), or a flag() for a choice made once"
        )

    def __add__(self, other: "Value") -> "Expr":
        return _node("add", self, other)

    def __radd__(self, other: "Value") -> "Expr":
        return _node("add", other, self)

    def __sub__(self, other: "Value") -> "Expr":
        return _node("sub", self, other)

    def __rsub__(self, other: "Value") -> "Expr":
        return _node("sub", other, self)

    def __mul__(self, other: "Value") -> "Expr":
        return _node("mul", self, other)

    def __rmul__(self, other: "Value") -> "Expr":
        return _node("mul", other, self)

    def __truediv__(self, other: "Value") -> "Expr":
        return _node("div", self, other)

    def __rtruediv__(self, other: "Value") -> "Expr":
        return _node("div", other, self)

    def __pow__(self, other: "Value") -> "Expr":
        return _node("pow", self, other)

    def __rpow__(self, other: "Value") -> "Expr":
        return _node("pow", other, self)

    def __neg__(self) -> "Expr":
        return _node("neg", self)

    def __abs__(self) -> "Expr":
        return _node("abs", self)

    def __gt__(self, other: "Value") -> "Expr":
        return _node("gt", self, other)

    def __lt__(self, other: "Value") -> "Expr":
        return _node("gt", other, self)


Value: TypeAlias = Expr | float

_pool: WeakValueDictionary[tuple[object, ...], Expr] = WeakValueDictionary()
_interning = Lock()


def _interned(op: str, args: tuple[Expr | float | str, ...], element: bool) -> Expr:
    key = (op, element, *(id(a) if isinstance(a, Expr) else a for a in args))
    expr = _pool.get(key)
    if expr is None:
        # Two that ask at once must be given the same: what is equal is told by identity.
        with _interning:
            expr = _pool.get(key)
            if expr is None:
                expr = Expr()
                expr.op, expr.args, expr.element = op, args, element
                _pool[key] = expr
    return expr


def symbol(name: str, *, element: bool) -> Expr:
    """A named input: an array of the parameter's shape if `element`, else a scalar."""
    return _interned("symbol", (name,), element)


def const(value: float) -> Expr:
    """A literal number."""
    return _interned("const", (float(value),), False)


def _node(op: str, *operands: Value) -> Expr:
    args = tuple(a if isinstance(a, Expr) else const(a) for a in operands)
    for i, a in enumerate(args):
        if (a.op == "gt") != (op == "where" and i == 0):
            raise TypeError(
                "a comparison is a condition, not a number: it is used in where(condition, a, b), "
                "whose first argument must be one, and nowhere else"
            )
    return node(op, *args)


def node(op: str, *args: Expr) -> Expr:
    """The expression `op(*args)`, simplified if a literal 0 or 1 decides it."""
    folded = _folded(op, args)
    return _interned(op, args, any(a.element for a in args)) if folded is None else folded


def _folded(op: str, args: tuple[Expr, ...]) -> Expr | None:
    """What `op(*args)` is when a literal 0 or 1 decides it.

    An option that is off is traced as a literal 0; this is what makes it cost nothing.
    """
    a, b = args[0], args[-1]
    x, y = a.constant, b.constant
    match op:
        case "add" if x == 0:
            return b
        case "add" | "sub" if y == 0:
            return a
        case "sub" if x is not None and y is not None:
            return const(x - y)
        case "mul" if x == 0 or y == 0:
            return const(0)
        case "mul" if x == 1:
            return b
        case "mul" | "div" | "pow" if y == 1:
            return a
        case "div" if x == 0:
            return const(0)
        case "where" if args[1] is b:
            return b
        case _:
            return None


def sqrt(x: Value) -> Expr:
    """The square root."""
    return _node("sqrt", x)


def sign(x: Value) -> Expr:
    """-1, 0 or 1."""
    return _node("sign", x)


def maximum(x: Value, y: Value) -> Expr:
    """The larger of two values; NaN if one of them is."""
    return _node("maximum", x, y)


def minimum(x: Value, y: Value) -> Expr:
    """The smaller of two values; NaN if one of them is."""
    return _node("minimum", x, y)


def where(condition: Expr, x: Value, y: Value) -> Expr:
    """`x` where the condition holds, else `y`; both are evaluated everywhere."""
    return _node("where", condition, x, y)


def normal(seed: Value, t: Value) -> Expr:
    """One draw from N(0, 1) per element, a function of seed, step, parameter and element alone.

    Every backend draws the same numbers, in any order: see `thalweg.rules.philox`.
    """
    seed, t = (a if isinstance(a, Expr) else const(a) for a in (seed, t))
    return _interned("normal", (seed, t), True)


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every node below the roots, each once, operands before what is computed from them."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        expr, entered = stack.pop()
        if id(expr) in seen:
            continue
        if entered:
            seen.add(id(expr))
            yield expr
        else:
            stack.append((expr, True))
            stack.extend((a, False) for a in reversed(expr.operands))
