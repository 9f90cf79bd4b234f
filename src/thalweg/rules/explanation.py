"""What a rule is, for a person to read: formula, settings, source and conventions."""

from collections.abc import Sequence

from thalweg.rules.formula import LATEX, TEXT, formula
from thalweg.rules.rule import CONVENTIONS, Rule, Setting

__all__ = ["explained", "explained_latex"]


def explained(rule: Rule, convention: str = "paper") -> str:
    """Everything there is to say of a rule, as text.

    Another convention than the paper's is shown by what it changes: lines of the formula, settings.

    Raises:
        UsageError: the convention is not known.
    """
    settings = rule.settings(convention)
    sections = [
        f"{rule.title}\n{rule.doc}".rstrip(),
        f"Source: {rule.paper}",
        f"Formula ({convention}):\n"
        + "\n".join(f"    {line}" for line in formula(rule, settings, TEXT)),
    ]
    if convention != "paper":
        sections += _differences(rule, convention)
    values = {**settings.hypers, **settings.flags}
    rows = [
        (name, _shown(values[name]), h.interval, h.help + _hints(h.off, h.search))
        for name, h in rule.hypers.items()
    ]
    sections.append("Hyperparameters:\n" + _table(("name", "default", "range", "meaning"), rows))
    if rule.flags:
        choices = [
            (name, _shown(values[name]), " | ".join(map(_shown, f.choices)), f.help)
            for name, f in rule.flags.items()
        ]
        sections.append("Options:\n" + _table(("name", "default", "choices", "meaning"), choices))
    if convention == "paper":
        sections += _others(rule)
    return "\n\n".join(sections)


def _differences(rule: Rule, convention: str) -> list[str]:
    """What a convention changes: the lines of the formula and the settings, each as in both."""
    changed = _changed(rule, convention)
    if not changed:
        return [f"The {convention} convention changes nothing."]
    paper, other = (formula(rule, rule.settings(c), TEXT) for c in ("paper", convention))
    lines = [
        *(("paper", line) for line in paper if line not in other),
        *((convention, line) for line in other if line not in paper),
    ]
    rows = [(name, f"{_shown(a)} → {_shown(b)}") for name, (a, b) in changed.items()]
    by_lines = ["Lines that differ from the paper's:\n" + _table((), lines)] if lines else []
    return [*by_lines, "Settings that differ from the paper's:\n" + _table((), rows)]


def _others(rule: Rule) -> list[str]:
    rows = [
        (c, ", ".join(f"{name} = {_shown(b)}" for name, (_, b) in changed.items()))
        for c in CONVENTIONS
        if (changed := _changed(rule, c))
    ]
    return ["Where conventions differ from the paper:\n" + _table((), rows)] if rows else []


def _changed(rule: Rule, convention: str) -> dict[str, tuple[Setting, Setting]]:
    """The settings that a convention changes: the paper's value and its own."""
    paper, other = ({**s.hypers, **s.flags} for s in map(rule.settings, ("paper", convention)))
    return {n: (v, other[n]) for n, v in paper.items() if v != other[n]}


def explained_latex(rule: Rule, convention: str = "paper") -> str:
    """The formula as a LaTeX `aligned` block, for a `$$ ... $$`.

    Raises:
        UsageError: the convention is not known.
    """
    lines = formula(rule, rule.settings(convention), LATEX)
    arrows = (line.replace(r"\leftarrow", r"&\leftarrow", 1) for line in lines)
    return "\\begin{aligned}\n" + " \\\\\n".join(arrows) + "\n\\end{aligned}"


def _hints(off: float | None, search: tuple[float, float] | None) -> str:
    off_at = "" if off is None else f"; {_shown(off)} turns it off"
    return off_at + ("" if search is None else f"; searched in [{search[0]:g}, {search[1]:g}]")


def _shown(value: Setting) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_shown, value))
    if isinstance(value, bool | str):
        return str(value).lower()
    return f"{value:g}"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, *rows] if header else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "    " + "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
