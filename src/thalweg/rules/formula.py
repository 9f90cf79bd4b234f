"""A rule's formula, printed from its own trace: as text and as LaTeX."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from thalweg.rules.rule import Rule, Settings
from thalweg.rules.tracing import LinkTrace
from thalweg.rules.vocabulary import Expr, walk

__all__ = ["LATEX", "TEXT", "Notation", "Statement", "formula", "statements"]


@dataclass(frozen=True)
class Notation:
    """How expressions are written: a template for each operation, and how names are spelled."""

    templates: Mapping[str, str]
    greek: Callable[[str], str]
    accents: Mapping[str, str]
    subscript: Callable[[str], str]
    word: Callable[[str], str]
    assign: str
    gradient: str
    square: str
    times: str
    infinity: str
    power_of_ten: str
    fraction: bool

    def name(self, name: str) -> str:
        """A variable's name: `beta1`, `m_hat` and `v_max` as a paper writes them."""
        stem, _, rest = name.partition("_")
        if rest in self.accents:
            return self.accents[rest].format(self.name(stem))
        match = re.fullmatch(r"([a-zA-Z]+?)(\d*)", stem)
        letters, digits = match.groups() if match else (stem, "")
        if letters in _GREEK:
            base = self.greek(letters)
        elif len(letters) == 1 and "_" not in rest:
            base = letters
        else:
            return self.word(name)
        tail = digits or rest
        return base + (self.subscript(tail) if tail else "")

    def number(self, value: float) -> str:
        """A literal number."""
        digits, _, exponent = f"{value:g}".partition("e")
        if value == inf:
            return self.infinity
        return self.power_of_ten.format(digits, int(exponent)) if exponent else digits


_GREEK = {
    "beta": "β",
    "betas": "β",
    "epsilon": "ε",
    "eps": "ε",
    "eta": "η",
    "gamma": "γ",
    "mu": "μ",
    "nu": "ν",
    "rho": "ρ",
    "theta": "θ",
}
_LATEX_NAMES = {"betas": "beta", "eps": "epsilon"}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

TEXT = Notation(
    templates={
        "add": "{} + {}",
        "sub": "{} − {}",
        "mul": "{} {}",
        "div": "{} / {}",
        "pow": "{}^{}",
        "neg": "−{}",
        "abs": "|{}|",
        "gt": "{} > {}",
        "sqrt": "√{}",
        "sign": "sign({})",
        "maximum": "max({}, {})",
        "minimum": "min({}, {})",
        "where": "({1} if {0} else {2})",
        "normal": "N(0, 1)",
    },
    greek=_GREEK.__getitem__,
    accents={"hat": "{}\N{COMBINING CIRCUMFLEX ACCENT}", "bar": "{}\N{COMBINING MACRON}"},
    subscript=lambda s: s.translate(_SUBSCRIPTS) if s.isdigit() else f"_{s}",
    word=lambda name: name,
    assign="{} ← {}",
    gradient="∇f({})",
    square="{}²",
    times="{} · {}",
    infinity="∞",
    power_of_ten="{}e{}",
    fraction=False,
)

LATEX = Notation(
    templates={
        "add": "{} + {}",
        "sub": "{} - {}",
        "mul": r"{} \, {}",
        "div": r"\frac{{{}}}{{{}}}",
        "pow": "{}^{{{}}}",
        "neg": "-{}",
        "abs": r"\left|{}\right|",
        "gt": "{} > {}",
        "sqrt": r"\sqrt{{{}}}",
        "sign": r"\mathrm{{sign}}\left({}\right)",
        "maximum": r"\max\left({}, {}\right)",
        "minimum": r"\min\left({}, {}\right)",
        "where": r"\begin{{cases}} {1} & \text{{if }} {0} \\ {2} & \text{{else}} \end{{cases}}",
        "normal": r"\mathcal{{N}}(0, 1)",
    },
    greek=lambda letters: f"\\{_LATEX_NAMES.get(letters, letters)}",
    accents={"hat": r"\hat{{{}}}", "bar": r"\bar{{{}}}"},
    subscript=lambda s: f"_{{{s}}}" if s.isdigit() else rf"_{{\mathrm{{{s}}}}}",
    word=lambda name: rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}",
    assign=r"{} \leftarrow {}",
    gradient=r"\nabla f\left({}\right)",
    square="{}^2",
    times=r"{} \cdot {}",
    infinity=r"\infty",
    power_of_ten=r"{} \cdot 10^{{{}}}",
    fraction=True,
)

# How tightly an operation binds; what binds less than its surroundings is put in parentheses.
_BINDING = {"gt": 0, "add": 1, "sub": 1, "mul": 2, "div": 2, "neg": 3, "sqrt": 4, "pow": 5}
_ATOM = 6
_ENCLOSED = ("abs", "sign", "maximum", "minimum", "where", "normal")


@dataclass(frozen=True)
class Statement:
    """One line of a formula: `target <- expr`, in which named nodes are written by their names."""

    target: str
    expr: Expr
    names: Mapping[Expr, str]

    def mentions(self) -> set[str]:
        """The names that the line reads."""
        found: set[str] = set()
        pending = [self.expr]
        while pending:
            e = pending.pop()
            if e.op == "symbol":
                found.add(e.name)
            elif e is not self.expr and e in self.names:
                # A space keeps a new value apart from the old one of the same name.
                found.add(f"new {self.names[e]}")
            else:
                pending += e.operands
        return found

    def written(self, notation: Notation) -> str:
        """The line in a notation."""
        return notation.assign.format(notation.name(self.target), self._right(notation))

    def _right(self, n: Notation) -> str:
        return _written(self.expr, n, self.names, 0, root=True)


def _written(
    e: Expr, n: Notation, names: Mapping[Expr, str], binding: int, *, root: bool = False
) -> str:
    if not root and e in names:
        return n.name(names[e])
    if e.op == "symbol":
        return n.name(e.name)
    if (value := e.constant) is not None:
        return n.number(value)
    own = _BINDING.get(e.op, _ATOM)

    def part(i: int, least: int) -> str:
        return _written(e.operands[i], n, names, least)

    boxed = n.fraction and e.op in ("div", "sqrt")
    if e.op in _ENCLOSED or boxed:
        text = n.templates[e.op].format(*(part(i, 0) for i in range(len(e.operands))))
        own = _ATOM if e.op in _ENCLOSED or e.op == "sqrt" else 2
    elif e.op == "pow":
        exponent = e.operands[1]
        base = part(0, _ATOM)
        if exponent.constant == 2:
            text = n.square.format(base)
        else:
            text = n.templates["pow"].format(base, part(1, 0 if n.fraction else _ATOM))
    elif e.op in ("neg", "sqrt"):
        text = n.templates[e.op].format(part(0, own + 1))
    else:
        # The right operand of - and / must bind more tightly, and a quotient on one line that is
        # multiplied needs parentheses to be seen as one.
        quotient = e.op == "mul" and e.operands[0].op == "div" and not n.fraction
        left, right = part(0, own + quotient), part(1, own + (e.op in ("sub", "div")))
        text = n.templates[e.op].format(left, right)
        if e.op == "mul" and right[0].isdigit():
            text = n.times.format(left, right)
    return f"({text})" if own < binding else text


def statements(rule: Rule, settings: Settings) -> list[Statement]:
    """The lines of a rule's formula, in an order in which they can be carried out."""
    trace = rule.trace(settings)
    lines: list[Statement] = []
    for i, link in enumerate(trace.links):
        following = trace.links[i + 1].link.incoming if i + 1 < len(trace.links) else None
        lines += _of_link(link, trace.states, following)
    return lines


def formula(rule: Rule, settings: Settings, notation: Notation) -> list[str]:
    """The same, written out, from the gradient to the new parameters."""
    trace = rule.trace(settings)
    point = trace.gradient_at
    at = notation.name("theta") if point is None else _written(point, notation, {}, 0)
    first = notation.assign.format("g", notation.gradient.format(at))
    return [first, *(line.written(notation) for line in statements(rule, settings))]


def _of_link(
    traced: LinkTrace, states: Mapping[str, Expr], following: str | None
) -> list[Statement]:
    named: dict[str, Expr] = {}
    own_states = [s.name for s in traced.link.states]
    for name in own_states:
        parts = [n for n in states if n == name or re.fullmatch(rf"{name}_\d+", n)]
        named |= {n: states[n] for n in parts if states[n].op != "symbol"}
    for name, value in traced.variables.items():
        if name not in own_states:
            several = isinstance(value, tuple)
            parts = value if isinstance(value, tuple) else (value,)
            for i, expr in enumerate(parts):
                named[f"{name}_{i + 1}" if several else name] = expr
    names: dict[Expr, str] = {}
    for name, expr in named.items():
        if expr.op not in ("symbol", "const"):
            names.setdefault(expr, name)
    reachable = set(walk(*states.values(), traced.outgoing))
    lines = [Statement(n, e, names) for e, n in names.items() if e in reachable]
    names |= {traced.incoming: traced.link.incoming} if traced.incoming.op != "symbol" else {}
    if following is None:
        minus = _Outgoing("theta", traced.outgoing, names)
        return _in_order([*lines, minus])
    if traced.outgoing is not traced.incoming:
        lines.append(Statement(following, traced.outgoing, names))
    return _in_order(lines)


class _Outgoing(Statement):
    """The last line: what is subtracted from theta."""

    def _right(self, n: Notation) -> str:
        step = _written(self.expr, n, self.names, 2)
        return n.templates["sub"].format(n.name("theta"), step)

    def mentions(self) -> set[str]:
        if self.expr in self.names:
            return {f"new {self.names[self.expr]}"}
        return super().mentions()


def _in_order(lines: Sequence[Statement]) -> list[Statement]:
    """Each value after those it is made of, and each old value read before it is replaced."""
    ordered: list[Statement] = []
    left = list(lines)
    while left:
        ready = next(
            (
                line
                for line in left
                if not any(
                    f"new {other.target}" in line.mentions()
                    or (line.target in other.mentions() and other.target != line.target)
                    for other in left
                    if other is not line
                )
            ),
            left[0],
        )
        left.remove(ready)
        ordered.append(ready)
    return ordered
