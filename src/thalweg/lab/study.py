"""What a comparison found: its runs and what is needed to repeat them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thalweg.lab.plan import Plan, Run
from thalweg.rules.declaration import Setting
from thalweg.tasks import Task
from thalweg.training import Record

if TYPE_CHECKING:
    from pandas import DataFrame  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["Result", "Status", "Study", "TaskFacts"]

Status = Literal["finished", "diverged", "failed"]


@dataclass(frozen=True)
class Result:
    """How one run went.

    Attributes:
        run: which.
        status: `"diverged"` if the loss or the metric stopped being finite, `"failed"` if it
            could not be carried out.
        reason: why it did not finish; empty if it did.
        epochs: what each completed epoch came to; the last one holds the metric on the test data
            too, where the run judges and the task has some.
        settings: every value the optimizer ran with, and its schedule and decay if it had any.
        state_bytes: what the optimizer keeps between steps, per parameter; None if unknown.
        memory: the most memory that its process had taken by its end, in bytes; None if unknown.
        session: which of the study's sessions it was made in.
    """

    run: Run
    status: Status
    reason: str
    epochs: tuple[Record, ...]
    settings: Mapping[str, Setting]
    state_bytes: float | None = None
    memory: int | None = None
    session: int = 0


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task outside the processes that train it: see `thalweg.tasks.Task`.

    Attributes:
        has_test: whether its data have a part that is kept for a last look.
        parameters: how many its model has; None if unknown.
    """

    name: str
    about: str
    metric_name: str
    higher_is_better: bool
    epochs: int
    batch_size: int
    target: float | None
    has_test: bool = False
    parameters: int | None = None

    @classmethod
    def of(cls, task: Task, *, has_test: bool, parameters: int) -> "TaskFacts":
        """The facts of a task that has been loaded."""
        own = (f.name for f in fields(cls) if f.name not in ("has_test", "parameters"))
        return cls(
            **{name: getattr(task, name) for name in own}, has_test=has_test, parameters=parameters
        )

    @property
    def sign(self) -> float:
        """What the metric is multiplied with so that more is better: 1 or -1."""
        return 1.0 if self.higher_is_better else -1.0


@dataclass(frozen=True)
class Study:
    """A plan, what is known of its tasks, the results so far, and where they were made.

    Attributes:
        plan: what was to be run.
        tasks: what a report says of each task, in the order of the plan's.
        results: one per run that has ended, in the order in which they did.
        sessions: versions, hardware, the state of the code and the command, by name, for each time
            that the study was begun or gone on with.
    """

    plan: Plan
    tasks: Mapping[str, TaskFacts]
    results: tuple[Result, ...]
    sessions: Sequence[Mapping[str, str]] = field(default=())

    @cached_property
    def by_run(self) -> Mapping[Run, Result]:
        """Each result by its run."""
        return {r.run: r for r in self.results}

    def tuning(self, task: str, optimizer: str) -> list[Result]:
        """The results of an optimizer's trials that have ended, in their order."""
        runs = self.plan.tuning(task, optimizer)
        return [self.by_run[run] for run in runs if run in self.by_run]

    def chosen(self, task: str, optimizer: str) -> int | None:
        """The trial that did best on the validation data, the earlier one if two did.

        None as long as a trial has not ended, and if none of them finished.
        """
        if self.plan.trials_of(optimizer) == 1:
            return 0
        ended = self.tuning(task, optimizer)
        finished = [r for r in ended if r.status == "finished"]
        if len(ended) < self.plan.trials_of(optimizer) or not finished:
            return None
        sign = self.tasks[task].sign
        return max(finished, key=lambda r: (sign * r.epochs[-1].metric, -r.run.trial)).run.trial

    def judging(self, task: str, optimizer: str) -> list[Result]:
        """The results of the chosen trial on fresh seeds that have ended, in the seeds' order."""
        trial = self.chosen(task, optimizer)
        if trial is None:
            return []
        runs = self.plan.judging(task, optimizer, trial)
        return [self.by_run[run] for run in runs if run in self.by_run]

    def pending(self) -> list[Run]:
        """The runs that can begin now: trials, and fresh seeds of what is chosen already."""
        found: list[Run] = []
        for task in self.plan.tasks:
            for contestant in self.plan.contestants:
                name = contestant.name
                runs = self.plan.tuning(task.spec, name)
                if (trial := self.chosen(task.spec, name)) is not None:
                    runs = [*runs, *self.plan.judging(task.spec, name, trial)]
                found += [run for run in runs if run not in self.by_run]
        return found

    @staticmethod
    def read(folder: str | Path) -> "Study":
        """The study that a folder holds, which is left as it is and may still go on.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        from thalweg.lab.records.store import read_study

        return read_study(Path(folder))

    def verdict(self) -> str:
        """Which optimizer is best on each task, how sure that is, and what ties with it."""
        from thalweg.lab.findings.summary import overall, summaries

        said = [summary.verdict for summary in summaries(self)]
        return "\n\n".join([overall(self), *said] if len(said) > 1 else said)

    def best(self, budget: int | None = None, task: str | None = None) -> str:
        """Code to paste: the optimizer to use on a task, with its settings.

        Args:
            budget: how many settings there is time to try; all of the study's trials unless given.
            task: the spec of one of the study's tasks; not needed if there is only one.

        Raises:
            UsageError: there is no such task, the study has fewer trials, or no run has finished.
        """
        from thalweg.lab.report.advice import best

        return best(self, budget, task)

    def frame(self) -> "DataFrame":
        """A table of pandas, a row per ended run; see `thalweg.lab.records.export.runs`."""
        from thalweg.lab.records.export import frame

        return frame(self)

    def __repr__(self) -> str:
        specs = ", ".join(task.spec for task in self.plan.tasks)
        optimizers = len(self.plan.contestants)
        return f"<Study of {specs}: {optimizers} optimizers, {len(self.results)} runs>"

    def _repr_html_(self) -> str:
        """The verdict, where a notebook shows the study."""
        return "".join(f"<p>{escape(part)}</p>" for part in self.verdict().split("\n\n"))
