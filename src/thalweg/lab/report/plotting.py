"""What pictures are made of: axes, lines with their names at the end, limits."""

import math
from collections.abc import Sequence
from typing import Any

from thalweg.lab.report.figures import DASHES, HUES, looks
from thalweg.lab.study import Study
from thalweg.schedules.drawing import missing

__all__ = ["axes_in", "canvas", "draw_lines", "limits", "plain"]

# Those of the page in its light theme.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c9649b", "#dd9500", "#45a9e6", "#3f484c")
_STROKES: dict[str, Any] = dict(
    zip(DASHES, ("-", "--", ":", "-.", (0, (8, 2)), (0, (8, 2, 1, 2))), strict=True)
)
_WIDTH = 7.0
# In units of the axes' height, how far apart names must be.
_APART = 0.045


def canvas(height: float) -> Any:
    """An empty figure, 7 inches wide and `height` inches high.

    Raises:
        UsageError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from error
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def axes_in(within: Any, *at: int) -> Any:
    """New axes in a figure; where, as `Figure.add_subplot` takes it."""
    axes = within.add_subplot(*at)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    return axes


def plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _style(study: Study, optimizer: int, first: bool) -> dict[str, Any]:
    look = looks(study.plan.optimizers)[optimizer]
    return {
        "color": _COLOURS[look["hue"] % HUES],
        "linestyle": _STROKES[look["dash"]],
        "linewidth": 2.4 if first else 1.2,
        "zorder": 3 if first else 2,
    }


def draw_lines(
    study: Study, axes: Any, entries: Sequence[dict[str, Any]], x: str, first: int
) -> None:
    """Each line with its name at its end, and the band of the first.

    Args:
        study: whose optimizers are drawn.
        axes: where; their limits are set.
        entries: `optimizer`, as its place in the plan, `mean`, `low` and `high`.
        x: which entry is drawn along the bottom.
        first: the optimizer that stands out.
    """
    ends: list[tuple[float, int]] = []
    for entry in entries:
        place = entry["optimizer"]
        style = _style(study, place, place == first)
        ys = [math.nan if v is None else v for v in entry["mean"]]
        marker = "o" if len(ys) == 1 else None
        axes.plot(entry[x], ys, **style, marker=marker, markersize=4)
        if place == first:
            low, high = ([math.nan if v is None else v for v in entry[e]] for e in ("low", "high"))
            axes.fill_between(entry[x], low, high, color=style["color"], alpha=0.13, linewidth=0)
        ends.append((ys[-1], place))
    _name_ends(study, axes, ends, first)


def _name_ends(study: Study, axes: Any, ends: Sequence[tuple[float, int]], first: int) -> None:
    low, high = axes.get_ylim()

    def share(y: float) -> float:
        if axes.get_yscale() == "log":
            return math.log(y / low) / math.log(high / low) if y > 0 else math.nan
        return (y - low) / (high - low)

    there = sorted((share(y), place) for y, place in ends if math.isfinite(y))
    there = [(at, place) for at, place in there if -0.01 <= at <= 1.01]
    apart = min(_APART, 1 / max(1, len(there)))
    heights = [at for at, _ in there]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart)
    top = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], top)
        top = heights[i] - apart
    for height, (at, place) in zip(heights, there, strict=True):
        colour = _style(study, place, False)["color"]
        across = {"transform": axes.transAxes, "clip_on": False}
        [stroke] = axes.plot((1, 1.03), (at, height), color=colour, linewidth=0.8, **across)
        stroke.set_in_layout(False)
        weight = "bold" if place == first else "normal"
        name = plain(study.plan.optimizers[place])
        axes.text(1.035, height, name, va="center", fontsize=7.5, fontweight=weight, **across)


def limits(
    values: Sequence[float | None], higher: bool, far: float, *, log: bool = False
) -> tuple[float, float]:
    """From the best value to the worst that is not hopelessly far behind, and some room.

    Hopeless is what is behind by so many times as much as the median is.
    """
    known = sorted((v for v in values if v is not None), reverse=higher)
    if not known:
        return 0.0, 1.0
    if log:
        low, high = limits([math.log10(v) for v in known], higher, far)
        return 10**low, 10**high
    best = known[0]
    most = far * abs(known[len(known) // 2] - best) or math.inf
    worst = [v for v in known if abs(v - best) <= most][-1]
    low, high = min(best, worst), max(best, worst)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.1
    return low - room, high + room
