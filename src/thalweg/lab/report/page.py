"""A study as one HTML file that needs neither a server nor a network."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import escape

from thalweg.errors import UsageError
from thalweg.lab.findings.several import in_words, profiles_of
from thalweg.lab.findings.summary import Row, Summary, summaries
from thalweg.lab.plan import Run
from thalweg.lab.report.account import hashes, in_common, problems, searched
from thalweg.lab.report.drawings import intervals, panels
from thalweg.lab.report.figures import budgets, curves, looks, steps
from thalweg.lab.report.listing import listing
from thalweg.lab.report.recipe import recipe, rounded
from thalweg.lab.study import Study
from thalweg.pages import digits, render, setting, write

__all__ = ["write_report"]


def write_report(study: Study, path: Path) -> None:
    """Write the report of a study, whether or not all of its runs have ended.

    Whoever opens `path` meanwhile sees the old report or the new one, never a part of it.

    Args:
        study: what to report.
        path: the file to write; its folder is made if need be.
    """
    write(_render(study), path)


def _render(study: Study) -> str:
    plan = study.plan
    places = {optimizer: i for i, optimizer in enumerate(plan.optimizers)}
    found = summaries(study)
    tasks = [_task(study, summary, places) for summary in found]
    headline, detail = found[0].headline, found[0].detail
    if len(found) > 1:
        headline, detail = _parted(in_words({s.facts.name: s.rows for s in found}))
    profile = profiles_of({s.task: s.rows for s in found}, plan.optimizers)
    shared, varying = in_common(study.sessions)
    made = Counter(r.session for r in study.results)
    return render(
        "thalweg.lab.report",
        "templates/report.html.j2",
        study=study,
        plan=plan,
        places=places,
        looks=looks(plan.optimizers),
        headline=headline,
        detail=detail,
        tasks=tasks,
        overview=_overview(found),
        columns=[
            (f.facts.name, "descending" if f.facts.sign > 0 else "ascending", f.facts.metric_name)
            for f in found
        ],
        profile=profile,
        wide=any(t["curves"]["wide"] for t in tasks),
        ended=Counter(r.status for r in study.results),
        commands=list(dict.fromkeys(s["command"] for s in study.sessions if "command" in s)),
        shared=shared,
        varying=varying,
        sessions=[(s, made[i]) for i, s in enumerate(study.sessions)],
        charts={
            # plotly reads text as HTML.
            "labels": [str(escape(o)) for o in plan.optimizers],
            "optimizers": plan.optimizers,
            "looks": looks(plan.optimizers),
            "tasks": [t["charts"] for t in tasks],
            "profile": profile and steps(profile, places),
        },
        digits=digits,
        rounded=rounded,
        setting=setting,
        searched=searched,
        signed=_signed,
        beside_book=_beside_book,
        hashes=hashes,
    )


def _parted(text: str) -> tuple[str, str]:
    """The first sentence, and the others."""
    first, _, others = re.sub(r"(?<=[.!?]) ", "\n", text, count=1).partition("\n")
    return first, others


def _task(study: Study, summary: Summary, places: Mapping[str, int]) -> dict[str, Any]:
    facts, plan = summary.facts, study.plan.task(summary.task)
    drawn = curves(study, summary, places)
    best = [r.optimizer for i, r in enumerate(summary.rows) if r.ties or i == 0]
    runs = listing(study, summary.task, places)
    return {
        "summary": summary,
        "facts": facts,
        "plan": plan,
        "curves": drawn,
        "runs": runs,
        "tied": len(best),
        "at_budget": _at_budgets(summary),
        "intervals": intervals(summary.rows),
        "panels": panels(study, summary),
        "recipes": _recipes(study, summary),
        "problems": problems(study, summary.task),
        "charts": {
            "epochs": plan.epochs,
            "higher": facts.higher_is_better,
            "metric": str(escape(facts.metric_name)),
            "name": facts.name,
            "target": summary.target,
            "leader": places[summary.rows[0].optimizer],
            "best": [places[o] for o in best],
            "budget": budgets(summary, places),
            "curves": drawn,
            "runs": runs,
        },
    }


def _at_budgets(summary: Summary) -> list[tuple[int, list[tuple[str, float]]]]:
    """For some numbers of trials, the three optimizers that promise the most, and what."""
    most = max((len(c.trials) for c in summary.budget.values()), default=0)
    counts = [2**i for i in range(most.bit_length()) if 2**i < most] + [most] * (most > 0)
    found: list[tuple[int, list[tuple[str, float]]]] = []
    for count in counts:
        known = [
            (optimizer, float(curve.expected[count - 1]))
            for optimizer, curve in summary.budget.items()
            if len(curve.expected) >= count
        ]
        known.sort(key=lambda entry: -summary.facts.sign * entry[1])
        found.append((count, known[:3]))
    return found


def _recipes(study: Study, summary: Summary) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for row in summary.rows:
        if row.trial is None or row.metric is None:
            continue
        run = Run(summary.task, row.optimizer, row.trial, study.plan.tuning_seed)
        try:
            found.append((row.optimizer, recipe(study.plan.order(run))))
        except UsageError as error:
            # A rule that was given as an object is not in the file of a study.
            found.append((row.optimizer, f"# {error}"))
    return found


def _overview(found: Sequence[Summary]) -> list[tuple[str, int, list[tuple[int, Row]]]]:
    """Each optimizer, on how many tasks it is best or tied, and its place and row on each."""
    cells: dict[str, list[tuple[int, Row]]] = {}
    for summary in found:
        for place, row in enumerate(summary.rows, 1):
            cells.setdefault(row.optimizer, []).append((place, row))
    counted = [
        (o, sum(r.metric is not None and (r.ties or p == 1) for p, r in places), places)
        for o, places in cells.items()
    ]
    return sorted(counted, key=lambda entry: (-entry[1], sorted(p for p, _ in entry[2])))


def _signed(value: float, margin: float | None) -> str:
    """A number to the decimal place that two digits of it reach, or two or three of its margin."""
    sizes = [abs(x) for x in (value, margin or 0.0) if x]
    if not sizes or not 1e-6 < min(sizes) <= max(sizes) < 1e6:
        text = digits(value, 2)
    else:
        places = [1 - math.floor(math.log10(size)) for size in sizes]
        enough = max(0, min(max(places), places[-1] + 1))
        text = f"{value:.{enough}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _beside_book(row: Row) -> str | None:
    """How the measured stars differ from the textbook's, in words; None if one is not known."""
    if row.book is None or row.speed_stars is None or row.quality_stars is None:
        return None
    speed, least, most = row.book
    differs = [
        f"{'more' if measured > high else 'fewer'} for {name}"
        for name, measured, low, high in (
            ("speed", row.speed_stars, speed, speed),
            ("quality", row.quality_stars, least, most),
        )
        if not low <= measured <= high
    ]
    return ", ".join(differs) or "the same"
