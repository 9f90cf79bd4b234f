"""A study as one HTML file that needs neither a server nor a network."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import escape

from thalweg.lab.study import Result, Study
from thalweg.lab.summary import Summary, summarize
from thalweg.pages import digits, finite, render, setting, write
from thalweg.training import Record

__all__ = ["figures", "write_report"]

# Seven hues of Okabe and Ito that read on light and on dark; the dash tells apart those that share
# one. The page's style sheet holds the hues, so that both themes can have their own.
_HUES = 7
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def write_report(study: Study, path: Path) -> None:
    """Write the report of a study, whether or not all of its runs have ended.

    Whoever opens `path` meanwhile sees the old report or the new one, never a part of it.

    Args:
        study: what to report.
        path: the file to write; its folder is made if need be.
    """
    write(_render(study), path)


def figures(study: Study, summary: Summary) -> list[dict[str, Any]]:
    """The learning curves as plotly figures: the metric, the training and the validation loss.

    Each trace's `meta` says what it shows: the place of its optimizer in the summary, from 0; its
    role (`"mean"` and `"band"` over the seeds that finished, or a `"run"` that did not); and x for
    both axes.
    """
    higher = study.task.higher_is_better
    metric = _figure(study, summary, "metric", higher)
    metric["layout"]["meta"]["target"] = summary.target
    losses = [_figure(study, summary, q, False) for q in ("train_loss", "validation_loss")]
    return [metric, *losses]


def _figure(study: Study, summary: Summary, quantity: str, higher: bool) -> dict[str, Any]:
    # The leader comes last, so that its line is on top.
    traces = [
        trace
        for index, row in reversed(list(enumerate(summary.rows)))
        for trace in _traces(
            index, [r for r in study.results if r.run.optimizer == row.optimizer], quantity
        )
    ]
    shown = [y for t in traces if t["meta"]["role"] == "mean" for y in t["y"] if y is not None]
    # Of what should grow, a logarithm shows the early epochs well and the late ones badly.
    may_log = not higher and all(y > 0 for y in shown)
    # Over this range a linear axis shows the worst curve only.
    wide = may_log and bool(shown) and max(shown) > 30 * min(shown)
    meta = {"id": quantity, "higher": higher, "may_log": may_log, "wide": wide}
    return {"data": traces, "layout": {"meta": meta}}


def _traces(index: int, results: Sequence[Result], quantity: str) -> Iterator[dict[str, Any]]:
    finished = [r.epochs for r in results if r.status == "finished"]
    at_epoch = list(zip(*finished, strict=False))
    values = [[finite(getattr(e, quantity)) for e in epochs] for epochs in at_epoch]
    known = [[y for y in ys if y is not None] for ys in values]
    seconds = [fmean(e.seconds for e in epochs) for epochs in at_epoch]
    x = {"epochs": [epochs[0].epoch for epochs in at_epoch], "seconds": seconds}
    if len(finished) > 1:
        inside = [i for i, ys in enumerate(known) if ys]
        there_and_back = [*inside, *reversed(inside)]
        yield {
            "type": "scatter",
            "y": [max(known[i]) for i in inside] + [min(known[i]) for i in reversed(inside)],
            "meta": {
                "optimizer": index,
                "role": "band",
                "x": {axis: [at[i] for i in there_and_back] for axis, at in x.items()},
            },
        }
    if finished:
        yield {
            "type": "scatter",
            "name": _name(results[0]),
            # A mean of the finite ones alone would flatter a run that is about to diverge.
            "y": [
                fmean(some) if len(some) == len(ys) else None
                for some, ys in zip(known, values, strict=True)
            ],
            "customdata": [
                [epoch, at, *((min(ys), max(ys), len(ys)) if ys else (None, None, 0))]
                for epoch, at, ys in zip(x["epochs"], seconds, known, strict=True)
            ],
            "meta": {"optimizer": index, "role": "mean", "x": x},
        }
    for result in results:
        if result.status != "finished" and result.epochs:
            yield _cut_short(index, result, quantity)


def _cut_short(index: int, result: Result, quantity: str) -> dict[str, Any]:
    epochs: tuple[Record, ...] = result.epochs
    x = {"epochs": [e.epoch for e in epochs], "seconds": [e.seconds for e in epochs]}
    return {
        "type": "scatter",
        "name": f"{_name(result)}, seed {result.run.seed}: {result.status}",
        "y": [finite(getattr(e, quantity)) for e in epochs],
        "customdata": [[e.epoch, e.seconds] for e in epochs],
        "meta": {"optimizer": index, "role": "run", "x": x},
    }


def _name(result: Result) -> str:
    # plotly reads names as HTML.
    return str(escape(result.run.optimizer))


def _render(study: Study) -> str:
    plan, summary = study.plan, summarize(study)
    drawn = figures(study, summary)
    looks = [
        {"hue": i % _HUES, "dash": _DASHES[i // _HUES % len(_DASHES)]}
        for i in range(len(summary.rows))
    ]
    settings = {r.run.optimizer: r.settings for r in reversed(study.results) if r.settings}
    return render(
        "thalweg.lab",
        "report.html.j2",
        study=study,
        plan=plan,
        task=study.task,
        summary=summary,
        looks=looks,
        charts={
            "figures": drawn,
            "looks": looks,
            "epochs": plan.epochs,
            "best": [i for i, row in enumerate(summary.rows) if row.ties or i == 0],
        },
        wide=any(f["layout"]["meta"]["wide"] for f in drawn),
        ended=Counter(r.status for r in study.results),
        planned=len(plan.optimizers) * len(plan.seeds),
        problems=_problems(study),
        settings={o: settings.get(o, {}) for o in plan.optimizers},
        environment={k: v for k, v in study.environment.items() if k != "command"},
        command=study.environment.get("command", ""),
        digits=digits,
        places=_places,
        setting=setting,
    )


def _problems(study: Study) -> list[tuple[str, str, str, list[Result]]]:
    """Optimizer, status, reason and runs of whatever went wrong, the same thing once."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for r in study.results:
        if r.status != "finished":
            found.setdefault((r.run.optimizer, r.status, r.reason), []).append(r)
    return [(*key, runs) for key, runs in found.items()]


def _places(value: float, margin: float | None) -> str:
    """A number to the decimal place that two digits of its margin reach."""
    if not margin or not 1e-6 < margin < 1e6:
        return digits(value, 2).replace("-", "\N{MINUS SIGN}")
    return f"{value:.{max(0, 1 - math.floor(math.log10(margin)))}f}".replace("-", "\N{MINUS SIGN}")
