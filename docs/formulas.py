"""Write what the documentation says of a rule from the rule itself.

In every page below this folder, what stands between

    <!-- generated: KIND OPTIMIZER -->
    <!-- end -->

is replaced by what the rule gives. KIND is one of `KINDS`; OPTIMIZER is written as on the command
line, such as `adam` or `l2+adam`. `--check` writes nothing and ends with status 1 if a page is not
as it would be written.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from thalweg.errors import UsageError
from thalweg.rules import CONVENTIONS, OPTIMIZERS, STAGES, Rule
from thalweg.rules.explanation import explained_latex
from thalweg.rules.rule import Setting
from thalweg.rules.spelling import parsed

DOCS = Path(__file__).parent

_SECTION = re.compile(r"(<!-- generated: (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)
_LIBRARIES = {"paper": "the paper", "torch": "torch", "keras": "Keras", "optax": "optax"}


def formula(rule: Rule) -> str:
    """The formula as published and nothing else."""
    return _math(explained_latex(rule))


def formulas(rule: Rule) -> str:
    """The formula as published, then each convention and option that changes it."""
    shown = {explained_latex(rule): ""}
    parts = [_math(explained_latex(rule))]
    for heading, latex in _variants(rule):
        if latex not in shown:
            shown[latex] = heading
            parts += [f"{heading}:", _math(latex)]
    return "\n\n".join(parts)


def _variants(rule: Rule) -> list[tuple[str, str]]:
    by_convention: dict[str, list[str]] = {}
    for convention in CONVENTIONS:
        by_convention.setdefault(explained_latex(rule, convention), []).append(convention)
    found = [
        (f"Under the convention of {' and '.join(_LIBRARIES[c] for c in conventions)}", latex)
        for latex, conventions in by_convention.items()
    ]
    for name, f in rule.flags.items():
        found += [
            (f"With `{name} = {_shown(choice)}`", explained_latex(rule(**{name: choice})))
            for choice in f.choices
        ]
    for name, h in rule.hypers.items():
        if h.default == h.off:
            # Any other value: a formula shows the name, not the number.
            found.append((f"With `{name}` above {h.off:g}", explained_latex(rule(**{name: 0.5}))))
    return found


def settings(rule: Rule) -> str:
    """Hyperparameters and options: their defaults, what they may be and what they mean."""
    if not rule.hypers and not rule.flags:
        return "It has no settings."
    differing = any(rule.by_convention(c) for c in CONVENTIONS)
    conventions = CONVENTIONS if differing else ("paper",)
    heads = ["paper", *(_LIBRARIES[c] for c in CONVENTIONS[1:])] if differing else ["default"]
    rows: list[list[str]] = []
    for name, declared in (*rule.hypers.items(), *rule.flags.items()):
        values: list[str] = []
        for convention in conventions:
            value = f"`{_shown(rule.by_convention(convention).get(name, declared.default))}`"
            values.append(f"**{value}**" if values and value != values[0] else value)
        if name in rule.hypers:
            h = rule.hypers[name]
            allowed = f"`{h.interval}`"
            meaning = h.help + ("" if h.off is None else f"; {h.off:g} turns it off")
        else:
            allowed = " ".join(f"`{_shown(c)}`" for c in rule.flags[name].choices)
            meaning = rule.flags[name].help
        rows.append([f"`{name}`", *values, allowed, meaning])
    return _table(["setting", *heads, "allowed", "meaning"], rows)


def use(rule: Rule) -> str:
    """What it is called where, what it keeps, and where it comes from."""
    drop_in = hasattr(torch.optim, rule.title)
    arguments = (
        f"has the arguments of `torch.optim.{rule.title}`" if drop_in else "has the settings below"
    )
    kept = _kept(rule)
    memory = f"{len(kept)} ({', '.join(f'`{k}`' for k in kept)})" if kept else "none"
    return "\n".join(
        [
            f"- Class: `thalweg.{rule.title}`, which {arguments}.",
            f"- Rule: `thalweg.{rule.name}`; on the command line `{rule.name}`.",
            f"- Numbers kept for each weight: {memory}.",
            f"- Source: {_linked(rule.paper)}.",
        ]
    )


def index() -> str:
    """Every optimizer in a line."""
    rows = [
        [
            f"[{rule.title}]({name}.md)",
            rule.doc.splitlines()[0],
            str(len(_kept(rule))),
            _linked(rule.paper),
        ]
        for name, rule in OPTIMIZERS.items()
    ]
    return _table(["optimizer", "what it does", "numbers kept for each weight", "source"], rows)


KINDS: Mapping[str, Callable[..., str]] = {
    "formula": formula,
    "formulas": formulas,
    "settings": settings,
    "use": use,
    "index": index,
}


def _kept(rule: Rule) -> list[str]:
    declared = rule.trace(rule.settings()).declared
    return [name for name, s in declared.items() if not s.scalar]


def _math(latex: str) -> str:
    return f"```math\n{latex}\n```"


def _shown(value: Setting) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool | str) else f"{value:g}"


def _linked(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |" for cells in lines
    )


def _rule(name: str) -> Rule:
    return STAGES[name] if name in STAGES else parsed(name)


def rewritten(text: str) -> str:
    """A page with its generated sections as they should be.

    Raises:
        UsageError: a section is of no known kind or names no optimizer.
    """

    def section(match: re.Match[str]) -> str:
        opening, kind, name, end = match.groups()
        if kind not in KINDS:
            raise UsageError(f"unknown section {kind!r}. Known: {', '.join(KINDS)}.")
        content = KINDS[kind](_rule(name)) if name else KINDS[kind]()
        return f"{opening}\n{content}\n\n{end}"

    return _SECTION.sub(section, text)


def main() -> int:
    """Rewrite or check every page; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is stale")
    check = parser.parse_args().check
    problems = [
        f"docs/optimizers/{name}.md is missing: every optimizer has a page"
        for name in OPTIMIZERS
        if not (DOCS / "optimizers" / f"{name}.md").exists()
    ]
    for path in sorted(DOCS.rglob("*.md")):
        page = f"docs/{path.relative_to(DOCS).as_posix()}"
        text = path.read_text(encoding="utf-8")
        try:
            new = rewritten(text)
        except UsageError as error:
            problems.append(f"{page}: {error}")
            continue
        if len(_SECTION.findall(text)) != text.count("<!-- generated"):
            problems.append(f"{page}: a generated section does not end")
        if new == text:
            continue
        if check:
            problems.append(f"{page} is stale: run python docs/formulas.py")
        else:
            path.write_text(new, encoding="utf-8")
            print(f"rewrote {page}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
