"""What the terminal shows: progress while runs go on, and the tables when they have ended."""

import math
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from thalweg.lab.findings.summary import Row, Summary, overall, summaries
from thalweg.lab.findings.wording import number
from thalweg.lab.report.recipe import rounded
from thalweg.lab.runner.pool import Event
from thalweg.lab.runner.worker import Ended
from thalweg.lab.study import Result, Study
from thalweg.lab.tally import Tally
from thalweg.pages import setting

__all__ = ["Display", "print_summary"]

# How wide a terminal is to be for columns of speed, and of settings and problems too.
_FOR_SPEED, _FOR_ALL = 120, 150


class Display:
    """Shows runs done and running, the time left and the best so far of each task.

    In a terminal it is a line per task that changes; in a pipe or a file a line per ended run.

    Args:
        study: the plan and the results so far.
        size: how many runs go on at the same time.
    """

    def __init__(self, study: Study, size: int) -> None:
        self._study = study
        self._tally = Tally(study, size)
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        several = len(study.plan.tasks) > 1
        self._whole = self._bar(f"{len(study.plan.tasks)} tasks", None) if several else None
        self._bars = {t.spec: self._bar(study.tasks[t.spec].name, t.spec) for t in study.plan.tasks}

    def _bar(self, name: str, task: str | None) -> TaskID:
        done, total = self._tally.done(task), self._tally.total(task)
        return self._progress.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event and show what it changes."""
        self._tally.note(event)
        if not self._console.is_terminal:
            if isinstance(event, Ended):
                # Of thousands of lines, a notebook would keep every one.
                start, end = ("\r\x1b[2K", "") if self._console.is_jupyter else ("", "\n")
                line = f"{start}{self._line(event.result)}"
                print(line, end=end, file=sys.stderr, flush=True)
            return
        pace = " · ".join(p for p in (f"{self._tally.running} running", self._left()) if p)
        if self._whole is not None:
            self._update(self._whole, None, pace)
        for task, bar in self._bars.items():
            parts = ["" if self._whole is not None else pace, self._best(task)]
            self._update(bar, task, " · ".join(p for p in parts if p))

    def _update(self, bar: TaskID, task: str | None, note: str) -> None:
        done, total = self._tally.done(task), self._tally.total(task)
        self._progress.update(bar, completed=done, total=total, note=note)

    def _left(self) -> str:
        left = self._tally.seconds_left()
        if left is None:
            return ""
        seconds, at_least = left
        return f"{'over ' * at_least}{_duration(seconds)} left"

    def _best(self, task: str) -> str:
        best = self._tally.best(task)
        if best is None:
            return ""
        return f"best so far {best[0]} ({self._study.tasks[task].metric_name} {best[1]:.4g})"

    def _line(self, result: Result) -> str:
        run, plan = result.run, self._study.plan
        judges = run.seed in plan.seeds
        where = f"{self._study.tasks[run.task].name}: " if len(plan.tasks) > 1 else ""
        which = f"seed {run.seed}" if judges else f"trial {run.trial}"
        outcome = f"{result.status}: {result.reason}"
        if result.status == "finished":
            name = self._study.tasks[run.task].metric_name
            outcome = f"{name} {result.epochs[-1].metric:.4g}"
        count = f"[{self._tally.done()}/{self._tally.total()}]"
        return f"{count} {where}{run.optimizer}, {which}: {outcome}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def print_summary(study: Study, report: Path | None = None) -> None:
    """Print for each task the verdict, the table and what a number of trials is worth.

    Args:
        study: what was found.
        report: the page that says more.
    """
    # What users called their things is not markup. A table that is read by a program or from a
    # file must not be cut to a terminal's width.
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=160)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    found = summaries(study)
    for summary in found:
        say(summary.verdict)
        console.print(_table(study, summary, console))
        if console.width < _FOR_ALL:
            for row in summary.rows:
                if row.problem:
                    say(f"{row.optimizer}: {row.problem}")
        if budget := budget_line(study, summary):
            say(budget)
        say("")
    if len(found) > 1:
        say(overall(study) + "\n")
    if report is not None:
        say(f"Report: {report}")


def budget_line(study: Study, summary: Summary) -> str:
    """What to use at 1, 2, 4, .. trials, and what to expect of it; empty without a search."""
    if not summary.budget:
        return ""
    counts = [1 << i for i in range(study.plan.trials.bit_length())]
    steps: list[str] = []
    for count in sorted({*(c for c in counts if c < study.plan.trials), study.plan.trials}):
        expected = {
            name: float(curve.expected[min(count, len(curve.trials)) - 1])
            for name, curve in summary.budget.items()
        }
        best = max(expected, key=lambda name: summary.facts.sign * expected[name])
        steps.append(f"{count}: {best} ({expected[best]:.4g})")
    return (
        f"Best to expect by number of trials ({summary.facts.metric_name} on the validation "
        f"data): {', '.join(steps)}."
    )


def _table(study: Study, summary: Summary, console: Console) -> Table:
    """The final table, with as many columns as there is room for."""
    facts, width = summary.facts, console.width
    epochs = study.plan.task(summary.task).epochs
    data = "test data" if summary.judged_on == "test" else "validation data"
    target = "the target" if summary.target is None else f"{summary.target:.4g}"
    table = Table(
        title=f"{facts.name}, {epochs} epoch{'s' * (epochs != 1)}; metric on the {data}",
        title_justify="left",
    )
    table.add_column("optimizer", no_wrap=not console.is_terminal, overflow="fold")
    table.add_column("", no_wrap=True)
    headings = [facts.metric_name, "behind the best"]
    if width >= _FOR_SPEED:
        headings += [f"epochs to {target}", f"seconds to {target}", "ms per step"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= _FOR_ALL:
        table.add_column("", overflow="fold")
    for i, row in enumerate(summary.rows):
        place = "best" if i == 0 and row.metric is not None else "tie" * row.ties
        cells = [row.optimizer, place, *_cells(row)[: len(headings)]]
        table.add_row(*cells, *([_note(row)] if width >= _FOR_ALL else []))
    return table


def _cells(row: Row) -> list[str]:
    metric = "-" if row.metric is None else _to_place(row.metric, row.spread)
    if row.spread is not None:
        metric += f" ± {_to_place(row.spread, row.spread)}"
    pace = None if row.seconds_per_step is None else row.seconds_per_step * 1000
    return [
        metric,
        "" if row.difference == 0 else _behind(row),
        _number(row.epochs_to_target, "g"),
        _number(row.seconds_to_target, ".2f"),
        _number(pace, ".3f"),
    ]


def _behind(row: Row) -> str:
    if row.difference is None:
        return "-"
    if row.low is None or row.high is None:
        return _to_place(row.difference, None)
    width = (row.high - row.low) / 2
    low, high = (_to_place(end, width) for end in (row.low, row.high))
    return f"{_to_place(row.difference, width)} ({low} to {high})"


def _to_place(value: float, margin: float | None) -> str:
    """A number to the place that two digits of what it is uncertain by reach."""
    if not margin or not 1e-6 < margin < 1e4:
        return number(value)
    return f"{value:.{max(0, 1 - math.floor(math.log10(margin)))}f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _note(row: Row) -> str:
    """What it ran with, if that was searched, and what went wrong."""
    searched = " ".join(f"{name}={setting(rounded(value))}" for name, value in row.searched.items())
    edge = f"at the edge of its range: {', '.join(row.edges)}" if row.edges else ""
    if not row.trials:
        searched = edge = ""
    return "; ".join(p for p in (searched, edge, row.problem) if p)
