"""A learning rate range test drawn: in the terminal, to a picture, to a page."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thalweg.schedules.drawing import chart, missing, unwritable
from thalweg.training.lr_curve import RangeTest

__all__ = ["plotted", "write_html", "write_png"]


def plotted(test: RangeTest, width: int) -> str:
    """The smoothed loss over lr in letters, `width` wide; below it, the suggestions' initials."""
    ends = f"{test.lrs[0]:.2g}", f"lr {test.lrs[-1]:.2g}"
    top = _shown(test, test.smoothed)[1]
    lines = chart(lambda i: min(test.smoothed[i], top), len(test.lrs), width, ends).splitlines()
    margin = lines[-2].index("└") + 1
    columns = len(lines[-2]) - margin
    whole = math.log(test.lrs[-1] / test.lrs[0])
    marks = [" "] * columns
    for name, suggestion in test.suggestions.items():
        share = math.log(suggestion.lr / test.lrs[0]) / whole
        at = round(min(max(share, 0.0), 1.0) * (columns - 1))
        marks[at] = name[0] if marks[at] == " " else "*"
    if test.suggestions:
        lines.insert(-1, " " * margin + "".join(marks).rstrip())
        lines.append(", ".join(f"{n[0]}: {n}" for n in test.suggestions) + "; *: several")
    return "\n".join(lines)


def _name(test: RangeTest, name: str) -> str:
    chosen = ", recommended" if name == test.recommended else ""
    return f"{name}, {test.suggestions[name].lr:.2g}{chosen}"


def write_png(test: RangeTest, file: Path) -> None:
    """Write a picture of the losses over lr, with the suggestions.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from error
    figure: Any = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(test.lrs, test.losses, color="0.75", linewidth=0.8, label="loss of a batch")
    axes.plot(test.lrs, test.smoothed, color="C0", label="smoothed")
    for i, (name, suggestion) in enumerate(test.suggestions.items(), 1):
        style = "-" if name == test.recommended else ":"
        axes.axvline(suggestion.lr, color=f"C{i}", linestyle=style, label=_name(test, name))
    axes.set(xscale="log", xlabel="lr", ylabel="loss", ylim=_shown(test, test.losses))
    axes.legend()
    try:
        figure.savefig(file, format="png", dpi=110)
    except OSError as error:
        raise unwritable(file, error) from error


def write_html(test: RangeTest, file: Path) -> None:
    """Write a page that needs nothing else, with the losses over lr and the suggestions.

    Raises:
        UsageError: plotly is missing, or the file cannot be written.
    """
    try:
        from plotly import graph_objects  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise missing(error) from error
    untyped: Any = graph_objects
    figure = untyped.Figure()
    grey = {"color": "silver", "width": 1}
    figure.add_scatter(x=test.lrs, y=test.losses, name="loss of a batch", line=grey)
    figure.add_scatter(x=test.lrs, y=test.smoothed, name="smoothed")
    low, high = _shown(test, test.losses)
    for name, suggestion in test.suggestions.items():
        dash = None if name == test.recommended else "dot"
        figure.add_scatter(
            x=[suggestion.lr] * 2,
            y=[low, high],
            name=_name(test, name),
            mode="lines",
            line={"dash": dash},
            hovertext=suggestion.reason,
        )
    figure.update_xaxes(title="lr", type="log")
    figure.update_yaxes(title="loss", range=[low, high])
    try:
        file.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
    except OSError as error:
        raise unwritable(file, error) from error


def _shown(test: RangeTest, losses: Sequence[float]) -> tuple[float, float]:
    """What is worth showing of these: where the test diverges they may be a thousand times more."""
    low, high = min(losses), max(losses[: test.smoothed.index(min(test.smoothed)) + 1])
    return low - 0.05 * (high - low), high + 0.25 * (high - low)
