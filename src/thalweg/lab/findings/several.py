"""What several tasks say together; metrics of different tasks are never averaged."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thalweg.lab import stats
from thalweg.lab.findings.row import Row
from thalweg.lab.findings.wording import MANY, counted, listed, short

__all__ = ["Profiles", "in_words", "profiles_of"]


@dataclass(frozen=True)
class Profiles:
    """How many times the fastest one's steps each optimizer takes to the targets of the tasks.

    Attributes:
        optimizers: by which `profile` counts contestants.
        tasks: the specs by which it counts tasks: those on which every optimizer has been judged
            and one has reached the target.
        profile: of the median steps to the target.
    """

    optimizers: tuple[str, ...]
    tasks: tuple[str, ...]
    profile: stats.Profile


def profiles_of(rows: Mapping[str, Sequence[Row]], optimizers: tuple[str, ...]) -> Profiles | None:
    """The performance profiles, in the order of `optimizers`; None on fewer than two tasks.

    Args:
        rows: the table of each task, by its spec.
        optimizers: of the study.
    """
    whole = {task: table for task, table in rows.items() if _whole(table)}
    steps = {task: {r.optimizer: r.steps_to_target for r in table} for task, table in whole.items()}
    times = {
        task: [of[o] or math.inf for o in optimizers]
        for task, of in steps.items()
        if any(of.values())
    }
    if len(times) < 2:
        return None
    profile = stats.performance_profile(list(times.values()))
    return Profiles(optimizers, tuple(times), profile)


def in_words(rows: Mapping[str, Sequence[Row]]) -> str:
    """Who is best, or cannot be told apart from the best, on how many tasks.

    Args:
        rows: the table of each task, by the task's name.
    """
    waiting = [task for task, table in rows.items() if not _whole(table)]
    judged = {
        task: table
        for task, table in rows.items()
        if sum(r.metric is not None for r in table) > (task in waiting)
    }
    lost = [task for task in rows if task not in (*judged, *waiting)]
    said = _placed(judged) if judged else ""
    if waiting and judged:
        said = f"so far, {said}"
    if lost:
        said += f" On {listed(lost)} no run finished."
    if waiting:
        said += f" Not every optimizer has been judged on {listed(waiting)} yet."
    said = said.strip()
    return said[:1].upper() + said[1:]


def _whole(table: Sequence[Row]) -> bool:
    """Whether every optimizer has been judged, or never will be."""
    return all(r.ended or r.problem for r in table)


def _placed(rows: Mapping[str, Sequence[Row]]) -> str:
    sure = all(any(r.low is not None for r in table) for table in rows.values())
    first = "best or tied for best" if sure else "first by the mean, which may be luck"
    on = Counter(r.optimizer for table in rows.values() for r in table if r.ties)
    by_count: dict[int, list[str]] = {}
    for optimizer, count in on.most_common():
        by_count.setdefault(count, []).append(optimizer)
    parts: list[str] = []
    for count, optimizers in by_count.items():
        where = f"{count} of {counted(len(rows), 'task')}" if not parts else f"{count}"
        who = optimizers if len(optimizers) <= 2 * MANY else short(optimizers, more="optimizers")
        parts.append(f"{listed(who)} on {where}")
    return f"{first}: {'; '.join(parts)}."
