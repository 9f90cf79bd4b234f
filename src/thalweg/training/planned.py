"""What a run's settings are planned to be, step by step, read from the data it is kept as."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from thalweg.pages import setting
from thalweg.schedules import Schedule

__all__ = ["Line", "lines", "spelled"]

_POINTS = 900
"""A page is a thousand pixels wide at most."""


@dataclass(frozen=True)
class Line:
    """A setting over a run.

    Attributes:
        group: which layer group it is for, from 0; None where it is for all.
        steps: where its value is known, counted from 0.
        values: what it is there; None where it is not known beforehand.
    """

    group: int | None
    steps: list[int]
    values: list[float | None]


def lines(run: Mapping[str, Any]) -> dict[str, list[Line]]:
    """Every setting that a run's phases or its optimizer gave a schedule, or phases change.

    Args:
        run: what `run.json` holds.

    Returns:
        By name, one line, or one for each layer group where a phase tells those apart. Between
        two points of a line are at most a 900th of the run's steps.
    """
    phases: list[dict[str, Any]] = run["phases"]
    given = _by_name(run["optimizer"]["settings"])
    named = [n for n, value in given.items() if isinstance(value, dict)]
    names = dict.fromkeys([*named, *(n for phase in phases for n in phase["settings"])])
    return {name: list(_lines(name, given.get(name), phases)) for name in names}


def _lines(name: str, given: Any, phases: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    ends = list(accumulate(phase["steps"] for phase in phases))
    width = max(
        (
            len(cast("list[Any]", value))
            for phase in phases
            if isinstance(value := phase["settings"].get(name), list)
        ),
        default=0,
    )
    stride = max(1, -(-ends[-1] // _POINTS))
    for group in range(width) if width else (None,):
        steps: list[int] = []
        values: list[float | None] = []
        for phase, end in zip(phases, ends, strict=True):
            first = end - phase["steps"]
            at = sorted({*range(first, end, stride), end - 1})
            if name in phase["settings"]:
                value, begin, length = phase["settings"][name], first, phase["steps"]
            else:
                value, begin, length = given, 0, ends[-1]
            if isinstance(value, list):
                value = cast("list[Any]", value)[group or 0]
            steps += at
            values += _values(value, [s - begin for s in at], length)
        yield Line(group, steps, values)


def _values(value: Any, steps: Sequence[int], length: int) -> list[float | None]:
    if isinstance(value, dict):
        if "schedule" not in value:
            return [None] * len(steps)
        schedule = Schedule.from_data(cast("dict[str, Any]", value)["schedule"]).over(length)
        return [schedule(s) for s in steps]
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return [value if known else None] * len(steps)


def _by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's settings, with each of torch's betas under the name that schedules use."""
    betas = settings.get("betas", ())
    return {**{f"beta{i}": beta for i, beta in enumerate(betas, 1)}, **settings}


def spelled(value: Any) -> str:
    """A setting as it is typed: a schedule as the call that makes it."""
    if isinstance(value, list):
        return ", ".join(map(spelled, cast("list[Any]", value)))
    if isinstance(value, dict):
        held = cast("dict[str, Any]", value)
        schedule = held.get("schedule")
        return repr(Schedule.from_data(schedule)) if schedule else str(held.get("function"))
    return "none" if value is None else setting(value)
