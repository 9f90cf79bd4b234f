"""What the terminal shows of a run: how far it is, what it has come to, and a summary."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thalweg.pages.numbers import duration
from thalweg.tasks.task import Task
from thalweg.training.records import Progress, Record

__all__ = ["Display", "print_summary"]

_SMOOTHING = 0.9
"""How much of itself the loss on show keeps when a new one comes: of the last ten or so."""

_LED = ("lr", "momentum", "beta1")


class Display:
    """Shows how far a run is, its loss, last metric, settings, throughput and the time left.

    In a terminal it is two lines that change; in a pipe or a file it is a line per record. Either
    is on standard error.

        with Display(task) as display:
            for record in train(task, optimizer, watch=display.watch):
                display(record)
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._first: Progress | None = None
        self._last: Progress | None = None
        self._record: Record | None = None
        self._loss, self._weight = 0.0, 0.0
        self._pace = 0.0
        self._begun = perf_counter()
        self._console = Console(stderr=True)
        # No thread redraws it: that would take time from the run.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def watch(self, progress: Progress) -> None:
        """Show how far the run is."""
        if self._first is None:
            self._first, self._begun = progress, perf_counter()
        last, self._last = self._last, progress
        if math.isfinite(progress.loss):
            self._loss = _SMOOTHING * self._loss + (1 - _SMOOTHING) * progress.loss
            self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
        if last and progress.seconds > last.seconds:
            pace = (progress.samples - last.samples) / (progress.seconds - last.seconds)
            self._pace = 0.7 * self._pace + 0.3 * pace if self._pace else pace
        self._refresh()

    def __call__(self, record: Record) -> None:
        """Show what the run has come to."""
        self._record = record
        if self._console.is_terminal:
            self._refresh()
        else:
            print(", ".join(self._line(record)), file=sys.stderr, flush=True)

    def _refresh(self) -> None:
        if self._live.is_started and self._last:
            self._live.update(self._shown(self._last), refresh=True)

    def _shown(self, now: Progress) -> RenderableType:
        # Whatever the terminal's width, each of both stays on one line, cut where it is too long.
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
        head.add_column(ratio=1, min_width=4)
        head.add_column(no_wrap=True, overflow="ellipsis")
        place = f"epoch {now.epoch:.1f}/{now.epochs:g} · step {now.steps}/{now.total}"
        parts = [place, self._left(now)]
        head.add_row(
            Text(self._task.name),
            ProgressBar(total=now.total, completed=now.steps),
            Text(" · ".join(p for p in parts if p)),
        )
        whole = Table.grid(expand=True)
        whole.add_column(no_wrap=True, overflow="ellipsis")
        whole.add_row(head)
        whole.add_row(Text(" · ".join(self._notes(now)), style="dim"))
        return whole

    def _notes(self, now: Progress) -> list[str]:
        loss = self._loss / self._weight if math.isfinite(now.loss) else now.loss
        parts = [f"loss {loss:.4g}"]
        if self._record:
            parts += _evaluation(self._task, self._record)
        parts += _settings(now.settings)
        if self._pace:
            parts.append(f"{self._pace:,.0f} samples/s")
        return parts

    def _left(self, now: Progress) -> str:
        if not self._first or now.steps <= self._first.steps:
            return ""
        # Evaluation takes time too, so it is the clock that counts.
        per_step = (perf_counter() - self._begun) / (now.steps - self._first.steps)
        return f"{duration(round(per_step * (now.total - now.steps)))} left"

    def _line(self, record: Record) -> list[str]:
        return [
            f"epoch {record.epoch:.4g}",
            f"step {record.steps}",
            f"loss {record.train_loss:.4g}",
            *_evaluation(self._task, record),
            *_settings(record.settings),
            duration(record.seconds),
        ]


def _evaluation(task: Task, record: Record) -> list[str]:
    return [
        f"validation loss {record.validation_loss:.4g}",
        f"{task.metric_name} {record.metric:.4g}",
        *([f"{record.skipped} steps skipped"] if record.skipped else []),
    ]


def _settings(settings: Mapping[str, float]) -> list[str]:
    return [f"{name} {settings[name]:.3g}" for name in _LED if name in settings]


def print_summary(task: Task, records: Sequence[Record], folder: Path | None = None) -> None:
    """Print what a run came to, and where it is kept.

    Args:
        task: what was trained.
        records: of the whole run.
        folder: the run's, where it has one.
    """
    console = Console(markup=False, highlight=False, soft_wrap=True)
    name = task.metric_name
    if records:
        last = records[-1]
        console.print(
            f"{name} {last.metric:.4g} after {_epochs(last)}, "
            f"in {duration(last.seconds)} of training"
        )
        known = [r for r in records if math.isfinite(r.metric)]
        pick = max if task.higher_is_better else min
        best = pick(known, key=lambda r: r.metric, default=last)
        if best.metric != last.metric:
            console.print(f"best: {best.metric:.4g} after {_epochs(best)}")
        if last.test is not None:
            augmented = "" if last.test_tta is None else f", {last.test_tta:.4g} with augmentation"
            console.print(f"on the test data: {last.test:.4g}{augmented}")
    for what, place in (("weights", "model.pt"), ("page", "report.html")):
        if folder and (folder / place).exists():
            console.print(f"{what}: {folder / place}")


def _epochs(record: Record) -> str:
    return f"{record.epoch:.4g} epoch{'' if record.epoch == 1 else 's'}"
