"""What a schedule is, for a person to read: meaning, source, settings and how it goes."""

from collections.abc import Iterator, Mapping
from textwrap import fill
from typing import Any, cast

from thalweg.schedules.cycles import momentum_of
from thalweg.schedules.drawing import chart
from thalweg.schedules.schedule import SCHEDULES, Schedule

__all__ = ["curves", "explained", "shown_steps"]

# How long a schedule is drawn that leaves it open.
STEPS = 100


def curves(schedule: Schedule) -> dict[str, Schedule]:
    """What is drawn of a schedule, by title: 1cycle is two, the rate and the momentum."""
    momentum = momentum_of(schedule)
    if momentum is None:
        return {schedule.name: schedule}
    return {schedule.name: schedule, momentum.name: momentum}


def shown_steps(schedule: Schedule) -> int:
    """How many steps show what a schedule does: all that it covers, or beyond its last turn."""
    return schedule.steps or max([STEPS, *(2 * n for n in _turns(schedule.arguments))])


def _turns(value: Any) -> Iterator[int]:
    if isinstance(value, Schedule):
        yield from _turns(value.arguments)
    elif isinstance(value, tuple):
        for part in cast("tuple[Any, ...]", value):
            yield from _turns(part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def explained(schedule: Schedule, steps: int, width: int) -> str:
    """Everything there is to say of a schedule, as text of `width` columns with a plot."""
    form = SCHEDULES[schedule.name]
    meaning = (fill(part, width) for part in form.doc.split("\n\n"))
    settings: Mapping[str, Any] = dict(schedule.arguments)
    name = max(map(len, settings))
    lines = (
        fill(f"{n:<{name}}  {_shown(v)}  ({form.allowed[n].words})", width, subsequent_indent="  ")
        for n, v in settings.items()
    )
    return "\n\n".join(
        [
            schedule.name,
            *meaning,
            fill(f"Source: {form.source}", width),
            "Settings:\n" + "\n".join(lines),
            *(f"{title}\n{chart(s, steps, width)}" for title, s in curves(schedule).items()),
        ]
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, cast("tuple[Any, ...]", value))) or "-"
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)
