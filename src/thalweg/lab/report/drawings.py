"""Small pictures that stand in a page's text: intervals, and metric against learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from thalweg.lab.findings.summary import Row, Summary
from thalweg.lab.study import Result, Study

__all__ = ["Interval", "Panel", "Point", "extent", "intervals", "panels"]

# Beyond so many times the median, a difference no longer decides the scale.
_FAR = 3.0
# The share of trials, from below, that are drawn on the lower edge.
_BELOW = 0.4
_KINDS = ("lost", "trial", "default", "best")


@dataclass(frozen=True)
class Interval:
    """A difference to the leader and its interval, as shares of a common scale from 0 to 1.

    Attributes:
        zero: where no difference is.
        at: the difference.
        low: lower end; None where there is no interval.
        high: upper end, likewise.
        beyond: whether the difference is beyond the scale, which `at` then is the end of.
    """

    zero: float
    at: float
    low: float | None
    high: float | None
    beyond: bool


def extent(rows: Sequence[Row]) -> tuple[float, float]:
    """From where to where differences to the leader are drawn, in the metric's unit.

    What is hopelessly behind must not squeeze the others together, and lies beyond.
    """
    known = [
        (d, d if r.low is None else r.low, d if r.high is None else r.high)
        for r in rows
        if (d := r.difference) is not None
    ]
    usual = [high for _, _, high in known if high > 0]
    most = max(high for high in usual if high <= _FAR * median(usual)) if usual else 1.0
    return min([0.0, *(low for _, low, _ in known if low > -most)]), most


def intervals(rows: Sequence[Row]) -> list[Interval | None]:
    """One per row; None for those of which no difference is known."""
    start, most = extent(rows)
    width = most - start

    def share(value: float) -> float:
        return min(max((value - start) / width, 0.0), 1.0)

    return [
        None
        if r.difference is None
        else Interval(
            zero=share(0.0),
            at=share(r.difference),
            low=None if r.low is None else share(r.low),
            high=None if r.high is None else share(r.high),
            beyond=r.difference > most,
        )
        for r in rows
    ]


@dataclass(frozen=True)
class Point:
    """A trial: x and y as shares from 0 to 1 of the panel, y upwards.

    Attributes:
        kind: `"best"`, `"default"`, `"trial"`, or `"lost"` for one that did not finish.
    """

    x: float
    y: float
    trial: int
    lr: float
    metric: float | None
    kind: str


@dataclass(frozen=True)
class Panel:
    """The trials of one optimizer by their learning rate.

    Attributes:
        ticks: share of the width and power of ten of each decade.
        grid: share of the height and metric of each line.
        band: from where to where, as shares of the height, a metric is within 1% of the best.
        near: likewise in width, the learning rates whose metric is.
        default_is_best: whether no trial was better than the defaults.
    """

    row: Row
    points: tuple[Point, ...]
    ticks: tuple[tuple[float, int], ...]
    grid: tuple[tuple[float, float], ...]
    band: tuple[float, float] | None
    near: tuple[float, float] | None
    default_is_best: bool


def panels(study: Study, summary: Summary) -> list[Panel]:
    """One per optimizer whose learning rate was searched, in the summary's order.

    All have the same vertical scale, better upwards, from the best trial of all down to where most
    are.
    """
    sign = summary.facts.sign
    trials = {r.optimizer: _trials(study, summary.task, r.optimizer) for r in summary.rows}
    values = sorted(
        sign * r.epochs[-1].metric for rs in trials.values() for r in rs if r.status == "finished"
    )
    if not values:
        return []
    top, bottom = values[-1], values[int(_BELOW * (len(values) - 1))]
    room = 0.06 * (top - bottom) or 0.05 * abs(top) or 0.5
    scale = _Scale(bottom - room, top + room, sign)
    return [
        _panel(row, trials[row.optimizer], scale) for row in summary.rows if trials[row.optimizer]
    ]


def _trials(study: Study, task: str, optimizer: str) -> list[Result]:
    """Those whose learning rate is known and, being above 0, has a logarithm."""
    if "lr" not in study.plan.contestant(optimizer).space:
        return []
    return [r for r in study.tuning(task, optimizer) if _rate(r) > 0]


def _rate(result: Result) -> float:
    value = result.settings.get("lr", 0.0)
    return value if isinstance(value, float) else 0.0


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    sign: float

    def height(self, metric: float) -> float:
        share = (self.sign * metric - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def lines(self) -> tuple[tuple[float, float], ...]:
        """About five round values of the metric, and where they are."""
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        values = (self.sign * i * step for i in range(first, last + 1))
        return tuple((self.height(v), float(f"{v:.10g}")) for v in values)


def _panel(row: Row, results: Sequence[Result], scale: _Scale) -> Panel:
    low, high = min(map(_rate, results)), max(map(_rate, results))
    # A tenth of a decade beside the outermost.
    start, end = math.log10(low) - 0.1, math.log10(high) + 0.1

    def across(lr: float) -> float:
        return (math.log10(lr) - start) / (end - start)

    finished = [r for r in results if r.status == "finished"]
    best = max(
        finished, key=lambda r: (scale.sign * r.epochs[-1].metric, -r.run.trial), default=None
    )

    def point(result: Result) -> Point:
        metric = result.epochs[-1].metric if result.status == "finished" else None
        height = 0.0 if metric is None else scale.height(metric)
        kind = "lost" if metric is None else "best" if result is best else "trial"
        if result.run.trial == 0 and kind == "trial":
            kind = "default"
        return Point(across(_rate(result)), height, result.run.trial, _rate(result), metric, kind)

    near = row.learning_rates
    top = best and best.epochs[-1].metric
    return Panel(
        row=row,
        # What stands out comes last, and so on top.
        points=tuple(sorted(map(point, results), key=lambda p: _KINDS.index(p.kind))),
        ticks=tuple((across(10.0**i), i) for i in range(math.ceil(start), math.floor(end) + 1)),
        grid=scale.lines(),
        band=None
        if top is None
        else (scale.height(top - scale.sign * 0.01 * abs(top)), scale.height(top)),
        near=near and (across(near[0]), across(near[1])),
        default_is_best=best is not None and best.run.trial == 0,
    )
