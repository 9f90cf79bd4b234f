"""Schedules drawn: in the terminal, to a picture, to a page."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thalweg.errors import UsageError
from thalweg.schedules.schedule import Schedule

__all__ = ["chart", "missing", "unwritable", "write_html", "write_png"]

_HEIGHT = 8
# The dots of a braille letter: left column from top to bottom, then the right one.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_COLUMNS = 3


def chart(
    schedule: Callable[[int], float], steps: int, width: int, ends: tuple[str, str] | None = None
) -> str:
    """A plot in letters of a schedule's values for its first steps, `width` letters wide.

    `ends` is what stands below the first and the last step, instead of their numbers.
    """
    values = [schedule(step) for step in range(steps)]
    low, high = min(values), max(values)
    labels = {0: f"{high:.3g}", _HEIGHT - 1: f"{low:.3g}"} if high > low else {0: f"{high:.3g}"}
    margin = max(map(len, labels.values()))
    columns = max(width - margin - 2, 8)
    cells = [[0] * columns for _ in range(_HEIGHT)]
    before = None
    for x in range(2 * columns):
        value = values[round(x * (steps - 1) / (2 * columns - 1))]
        y = round((high - value) / (high - low) * (4 * _HEIGHT - 1)) if high > low else 0
        # A jump is drawn as a line.
        first, last = sorted((y, y if before is None else before))
        for dot in range(first, last + 1):
            if dot != before or dot == y:
                cells[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
        before = y
    rows = (
        f"{labels.get(i, ''):>{margin}} │" + "".join(chr(0x2800 + cell) for cell in row)
        for i, row in enumerate(cells)
    )
    left, right = ends or ("0", f"step {steps - 1}")
    axis = f"{'':>{margin}} └" + "─" * columns
    below = f"{'':>{margin}}  {left}" + right.rjust(columns - len(left))
    return "\n".join([*rows, axis, below])


def write_png(curves: Mapping[str, Schedule], steps: int, file: Path) -> None:
    """Write a picture of schedules by title, side by side, over the same steps.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from error
    columns = min(len(curves), _COLUMNS)
    rows = -(-len(curves) // columns)
    figure: Any = Figure(figsize=(3.6 * columns + 0.8, 2.2 * rows + 0.4), layout="constrained")
    for i, (title, schedule) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.plot([schedule(step) for step in range(steps)])
        axes.set_title(title)
        axes.set_xlabel("step")
    try:
        figure.savefig(file, format="png", dpi=110)
    except OSError as error:
        raise unwritable(file, error) from error


def write_html(curves: Mapping[str, Schedule], steps: int, file: Path) -> None:
    """Write a page that needs nothing else, with a figure of schedules by title.

    Raises:
        UsageError: plotly is missing, or the file cannot be written.
    """
    try:
        from plotly import subplots  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise missing(error) from error
    untyped: Any = subplots
    figure = untyped.make_subplots(rows=len(curves), subplot_titles=list(curves))
    for row, (title, schedule) in enumerate(curves.items(), 1):
        values = [schedule(step) for step in range(steps)]
        figure.add_scatter(y=values, name=title, row=row, col=1, showlegend=False)
        figure.update_xaxes(title="step", row=row, col=1)
    try:
        file.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
    except OSError as error:
        raise unwritable(file, error) from error


def missing(error: ImportError) -> UsageError:
    """The error for a library that is not there to draw with."""
    return UsageError(
        f"{error.name} is missing, which draws the plot: install it with "
        'pip install "thalweg[lab]".'
    )


def unwritable(file: Path, error: OSError) -> UsageError:
    """The error for a picture or page that cannot be written."""
    return UsageError(
        f"{file} cannot be written ({error.strerror}): name a file in a folder that exists."
    )
