"""A study's figures as pictures, for a paper or a slide."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from thalweg.lab.findings.summary import Row, Summary, summaries
from thalweg.lab.report.drawings import Panel, extent, panels
from thalweg.lab.report.figures import budgets, curves
from thalweg.lab.report.plotting import axes_in, canvas, draw_lines, limits, plain
from thalweg.lab.study import Study
from thalweg.pages import digits
from thalweg.schedules.drawing import unwritable

__all__ = ["write_pictures"]

_ACCENT, _SOFT, _WARN = "#0a6483", "#8a969b", "#a13c14"
_DPI = 200


def write_pictures(study: Study, folder: Path) -> tuple[Path, ...]:
    """Write the figures of a study as PNG files of 1,400 pixels width, named by task and figure.

    For each task, as far as there is something to draw: `budget`, the best result to expect of so
    many trials; `final`, how far each optimizer is behind the leader; `curves`; `sensitivity`, the
    metric against the learning rate.

    Args:
        study: what to draw.
        folder: where to; it is made if need be.

    Returns:
        The files.

    Raises:
        UsageError: matplotlib is missing, or a file cannot be written.
    """
    found = summaries(study)
    names = [re.sub(r"[^\w.-]+", "-", s.facts.name).strip("-.") or "task" for s in found]
    written: list[Path] = []
    for i, summary in enumerate(found):
        unique = names[i] if names.count(names[i]) == 1 else f"{names[i]}-{i + 1}"
        for figure, picture in _drawn(study, summary):
            path = folder / f"{unique}-{figure}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                picture.savefig(path, format="png", dpi=_DPI)
            except OSError as error:
                raise unwritable(path, error) from error
            written.append(path)
    return tuple(written)


def _drawn(study: Study, summary: Summary) -> Iterator[tuple[str, Any]]:
    if summary.budget:
        yield "budget", _budget(study, summary)
    if any(row.difference is not None for row in summary.rows[1:]):
        yield "final", _final(summary)
    places = {optimizer: i for i, optimizer in enumerate(study.plan.optimizers)}
    drawn = curves(study, summary, places)
    if drawn["lines"]:
        yield "curves", _curves(study, summary, drawn)
    if shown := panels(study, summary):
        yield "sensitivity", _sensitivity(summary, shown)


def _budget(study: Study, summary: Summary) -> Any:
    figure = canvas(4.2)
    axes = axes_in(figure)
    higher, places = summary.facts.higher_is_better, study.plan.optimizers
    entries = budgets(summary, {optimizer: i for i, optimizer in enumerate(places)})
    for entry in entries:
        entry["trials"] = range(1, len(entry["mean"]) + 1)
    most = max(len(entry["mean"]) for entry in entries)
    whole = [entry for entry in entries if len(entry["mean"]) == most]
    first = max(whole, key=lambda entry: summary.facts.sign * entry["mean"][-1])["optimizer"]
    values = [v for entry in entries for v in entry["mean"]]
    ticks = [2**i for i in range(most.bit_length()) if 2**i < most / 1.3] + [most]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set(
        xlim=(0.97, most * 1.01),
        ylim=limits(values, higher, 2.5),
        xlabel="trials, the first being the documented defaults",
        ylabel=plain(f"expected best validation {summary.facts.metric_name}"),
        title=plain(summary.facts.name),
    )
    draw_lines(study, axes, entries, "trials", first)
    return figure


def _curves(study: Study, summary: Summary, drawn: dict[str, Any]) -> Any:
    figure = canvas(3.4)
    first = study.plan.optimizers.index(summary.rows[0].optimizer)
    names = {"metric": f"validation {summary.facts.metric_name}", "train_loss": "training loss"}
    for i, (quantity, name) in enumerate(names.items()):
        axes = axes_in(figure, 1, 2, i + 1)
        values = [v for line in drawn["lines"] for v in line[quantity]["mean"]]
        log = quantity == "train_loss" and drawn["wide"]
        higher = summary.facts.higher_is_better and quantity == "metric"
        if log:
            axes.set_yscale("log")
        axes.set_ylim(limits(values, higher, 6, log=log))
        axes.set(xlabel="epochs", ylabel=plain(name))
        entries = [
            {"optimizer": e["optimizer"], "epochs": e["epochs"], **e[quantity]}
            for e in drawn["lines"]
        ]
        draw_lines(study, axes, entries, "epochs", first)
    figure.suptitle(plain(summary.facts.name), fontsize=11)
    return figure


def _final(summary: Summary) -> Any:
    rows = [row for row in summary.rows if row.difference is not None]
    figure = canvas(1.1 + 0.27 * len(rows))
    axes = axes_in(figure)
    start, most = extent(rows)
    for y, row in enumerate(rows):
        _dot(axes, y, row, most)
    room = 0.04 * (most - start)
    axes.axvline(0, color=_SOFT, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(rows)), [plain(row.optimizer) for row in rows])
    axes.set(
        xlim=(start - room, most + room),
        ylim=(len(rows) - 0.4, -0.6),
        xlabel=plain(
            f"{summary.facts.metric_name} on {summary.judged_on} data: how far behind the leader"
        ),
        title=plain(summary.facts.name),
    )
    values = axes.secondary_yaxis("right")
    values.set_yticks(
        range(len(rows)), ["" if row.metric is None else digits(row.metric) for row in rows]
    )
    values.tick_params(labelsize=8, length=0)
    values.spines["right"].set_visible(False)
    return figure


def _dot(axes: Any, y: int, row: Row, most: float) -> None:
    """Filled for the leader and its ties; an arrow for what lies beyond the axis."""
    assert row.difference is not None
    colour = _ACCENT if row.ties else _SOFT
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    beyond = row.difference > most
    axes.plot(
        min(row.difference, most),
        y,
        marker=">" if beyond else "o",
        color=colour,
        markerfacecolor=colour if row.ties or beyond else "white",
        markersize=6,
    )


def _sensitivity(summary: Summary, shown: Sequence[Panel]) -> Any:
    columns = min(4, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = canvas(0.5 + 1.45 * lines)
    for i, panel in enumerate(shown, 1):
        axes = axes_in(figure, lines, columns, i)
        if panel.band:
            axes.axhspan(*panel.band, color=_ACCENT, alpha=0.14, linewidth=0)
        if panel.near:
            axes.plot(panel.near, [-0.04, -0.04], color=_ACCENT, linewidth=3, clip_on=False)
        for kind in {p.kind: None for p in panel.points}:
            points = [p for p in panel.points if p.kind == kind]
            x, y = [p.x for p in points], [p.y for p in points]
            axes.plot(x, y, linestyle="none", clip_on=False, **_MARKS[kind])
        axes.set_xticks(
            [x for x, _ in panel.ticks], [f"{10.0**power:g}" for _, power in panel.ticks]
        )
        axes.set_yticks([y for y, _ in panel.grid], [f"{value:g}" for _, value in panel.grid])
        axes.tick_params(labelsize=6)
        axes.set(xlim=(0, 1), ylim=(-0.04, 1))
        axes.set_title(plain(panel.row.optimizer), fontsize=8, loc="left")
    figure.suptitle(
        plain(f"{summary.facts.name}: validation {summary.facts.metric_name} by learning rate"),
        fontsize=10,
    )
    return figure


_MARKS: dict[str, dict[str, Any]] = {
    "lost": {"marker": "x", "color": _WARN, "markersize": 4},
    "trial": {"marker": "o", "color": _ACCENT, "markerfacecolor": "white", "markersize": 3.5},
    "default": {"marker": "D", "color": _WARN, "markerfacecolor": "white", "markersize": 4},
    "best": {"marker": "o", "color": _ACCENT, "markersize": 5},
}
