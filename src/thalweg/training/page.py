"""A run as one HTML file that needs neither a server nor a network."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import escape

from thalweg.pages import digits, duration, finite, render, write
from thalweg.training.folder import read_records, read_run
from thalweg.training.part import failing
from thalweg.training.planned import Line, lines, spelled
from thalweg.training.records import Record

__all__ = ["panels", "write_page"]


def write_page(folder: Path) -> Path:
    """Write the page of a run, whether or not the run has ended, to `report.html` in its folder.

    Whoever opens it meanwhile sees the old page or the new one, never a part of it.

    Args:
        folder: the run's, which may be in use.

    Returns:
        Where the page is.

    Raises:
        UsageError: there is no run, what is kept of it is damaged, or the page cannot be written.
    """
    run, records = read_run(folder), read_records(folder)
    path = folder / "report.html"
    with failing("the page of the run", folder, lambda: "The run itself is not touched by that."):
        write(_render(run, records), path)
    return path


def panels(run: Mapping[str, Any], records: Sequence[Record]) -> list[dict[str, Any]]:
    """What is drawn, from top to bottom: the metric, the losses, each setting that changes.

    Each has an `id`, a `title`, whether its values allow a logarithmic axis (`may_log`), and
    `traces`: what they show (`name`, `role`), x in steps, y.
    """
    metric = run["task"]["metric_name"]
    found: list[dict[str, Any]] = []
    if records:
        titles = (
            ("metric", f"Validation {metric}", (("metric", metric),)),
            ("loss", "Loss", (("validation_loss", "validation"), ("train_loss", "training"))),
        )
        at = [r.steps for r in records]
        for panel, title, shown in titles:
            traces = [
                _trace(name, "measured", at, [getattr(r, quantity) for r in records])
                for quantity, name in shown
            ]
            found.append(_panel(panel, title, traces))
    planned = lines(run)
    used = dict.fromkeys(name for r in records for name in r.settings)
    for name in {**planned, **used}:
        traces = list(_setting_traces(planned.get(name, []), name, records))
        if len({y for t in traces for y in t["y"] if y is not None}) > 1:
            found.append(_panel(name, name, traces))
    return found


def _setting_traces(
    planned: Sequence[Line], name: str, records: Sequence[Record]
) -> Iterator[dict[str, Any]]:
    for line in planned:
        label = "planned" if line.group is None else f"group {line.group + 1}"
        if any(y is not None for y in line.values):
            yield _trace(label, "planned", line.steps, line.values)
    used = [(r.steps - 1, r.settings[name]) for r in records if name in r.settings]
    if used:
        yield _trace("as used", "used", [x for x, _ in used], [y for _, y in used])


def _trace(name: str, role: str, x: Sequence[int], y: Sequence[float | None]) -> dict[str, Any]:
    values = [None if v is None else finite(v) for v in y]
    # plotly reads text as HTML.
    return {"name": str(escape(name)), "role": role, "x": list(x), "y": values}


def _panel(id: str, title: str, traces: list[dict[str, Any]]) -> dict[str, Any]:
    known = [y for t in traces for y in t["y"] if y is not None]
    # Of what should grow, a logarithm shows the early epochs well and the late ones badly.
    may_log = id != "metric" and bool(known) and min(known) > 0
    return {"id": id, "title": str(escape(title)), "may_log": may_log, "traces": traces}


def _render(run: Mapping[str, Any], records: Sequence[Record]) -> str:
    phases: list[dict[str, Any]] = run["phases"]
    total = sum(phase["steps"] for phase in phases)
    epochs = sum(phase["epochs"] for phase in phases)
    drawn = panels(run, records)
    settings = [panel["id"] for panel in drawn if panel["id"] not in ("metric", "loss")]
    ends = list(accumulate(phase["steps"] for phase in phases))
    return render(
        "thalweg.training",
        "page.html.j2",
        run=run,
        task=run["task"],
        records=records,
        last=records[-1] if records else None,
        best=_best(records, run["task"]["higher_is_better"]),
        phases=[
            {**phase, "settings": {n: spelled(v) for n, v in phase["settings"].items()}}
            for phase in phases
        ],
        given={n: spelled(v) for n, v in run["optimizer"]["settings"].items()},
        epochs=epochs,
        steps=total,
        charts={
            "panels": drawn,
            "settings": settings,
            "grouped": any(len(panel["traces"]) > 2 for panel in drawn if panel["id"] in settings),
            "steps": total,
            "epochs": epochs,
            "phases": [
                {"first": end - phase["steps"], "label": _label(i, phase)}
                for i, (phase, end) in enumerate(zip(phases, ends, strict=True), 1)
            ],
        },
        recipe={n: spelled(v) for n, v in run["recipe"].items()},
        digits=digits,
        duration=duration,
    )


def _best(records: Sequence[Record], higher: bool) -> Record | None:
    known = [r for r in records if finite(r.metric) is not None]
    return (max if higher else min)(known, key=lambda r: r.metric) if known else None


def _label(number: int, phase: Mapping[str, Any]) -> str:
    parts = [f"phase {number}"]
    if phase["freeze"]:
        parts.append(f"{', '.join(phase['freeze'])} frozen")
    if phase["decay"]:
        parts.append(f"{phase['decay']} decay")
    return str(escape(": ".join([parts[0], ", ".join(parts[1:])] if parts[1:] else parts)))
