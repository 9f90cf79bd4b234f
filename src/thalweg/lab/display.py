"""What the terminal shows: progress while runs go on, and the table when they have ended."""

import sys
from collections.abc import Sequence
from statistics import fmean
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from thalweg.lab.plan import Run
from thalweg.lab.pool import Event, Started
from thalweg.lab.study import Result, Study
from thalweg.lab.summary import Row, Summary
from thalweg.lab.worker import Ended
from thalweg.lab.worker import Progress as RunProgress

__all__ = ["Display", "print_summary"]


class Display:
    """Shows runs done and running, the time left and the best so far.

    In a terminal it is one line that changes; in a pipe or a file it is a line per ended run.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._total = len(list(study.plan.runs())) * study.plan.epochs
        self._results = list(study.results)
        self._running: dict[Run, int] = {}
        self._resumed = self._epochs(study.results)
        self._started = perf_counter()
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
        self._bar = self._progress.add_task(
            study.task.name,
            total=len(list(study.plan.runs())),
            completed=len(study.results),
            note="",
        )

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event and show what it changes."""
        match event:
            case Started():
                self._running[event.run] = 0
            case RunProgress():
                self._running[event.run] = int(event.epoch.epoch)
            case Ended():
                self._running.pop(event.result.run, None)
                self._results.append(event.result)
                if not self._console.is_terminal:
                    self._line(event.result)
        self._progress.update(self._bar, completed=len(self._results), note=self._note())

    def _note(self) -> str:
        parts = [f"{len(self._running)} running", self._left(), self._best()]
        return " · ".join(p for p in parts if p)

    def _left(self) -> str:
        done = self._epochs(self._results) + sum(self._running.values())
        fresh = done - self._resumed
        if fresh <= 0:
            return ""
        left = (perf_counter() - self._started) / fresh * (self._total - done)
        return f"{left:.0f} s left"

    def _epochs(self, results: Sequence[Result]) -> int:
        """Epochs that need not be trained any more; a run that broke off counts as whole."""
        return sum(max(len(r.epochs), self._study.plan.epochs) for r in results)

    def _best(self) -> str:
        task = self._study.task
        metrics: dict[str, list[float]] = {}
        for r in self._results:
            if r.status == "finished":
                metrics.setdefault(r.run.optimizer, []).append(r.epochs[-1].metric)
        if not metrics:
            return ""
        pick = max if task.higher_is_better else min
        best = pick(metrics, key=lambda o: fmean(metrics[o]))
        return f"best so far {best} ({task.metric_name} {fmean(metrics[best]):.4g})"

    def _line(self, result: Result) -> None:
        total = len(list(self._study.plan.runs()))
        outcome = (
            f"{self._study.task.metric_name} {result.epochs[-1].metric:.4g}"
            if result.status == "finished"
            else f"{result.status}: {result.reason}"
        )
        run = result.run
        print(
            f"[{len(self._results)}/{total}] {run.optimizer}, seed {run.seed}: {outcome}",
            file=sys.stderr,
        )


def print_summary(study: Study, summary: Summary) -> None:
    """Print the table and the verdict."""
    # What users called their things is not markup. A table that is read by a program or from a
    # file must not be cut to a terminal's width.
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=160)
    target = "the target" if summary.target is None else f"{summary.target:.4g}"
    table = Table(title=f"{study.task.name}, {study.plan.epochs} epochs", title_justify="left")
    table.add_column("optimizer", no_wrap=True)
    for heading in (
        "train loss",
        study.task.metric_name,
        f"epochs to {target}",
        f"seconds to {target}",
        "ms per step",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for i, row in enumerate(summary.rows):
        table.add_row(*_cells(row), _note(row, leads=i == 0))
    console.print(table)
    console.print(summary.verdict, soft_wrap=True, highlight=False)


def _cells(row: Row) -> list[str]:
    metric = "-" if row.metric is None else f"{row.metric:.4f}"
    if row.metric_spread is not None:
        metric += f" ± {row.metric_spread:.4f}"
    pace = None if row.seconds_per_step is None else row.seconds_per_step * 1000
    return [
        row.optimizer,
        _number(row.train_loss, ".4f"),
        metric,
        _number(row.epochs_to_target, "g"),
        _number(row.seconds_to_target, ".2f"),
        _number(pace, ".3f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _note(row: Row, *, leads: bool) -> str:
    if row.problem:
        return row.problem
    if leads and row.metric is not None:
        return "best"
    return "tie" if row.ties else ""
