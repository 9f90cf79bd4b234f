"""What a comparison found: its runs and what is needed to repeat them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from thalweg.lab.plan import Plan, Run
from thalweg.tasks import Task
from thalweg.training import Record

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
        epochs: what each completed epoch came to.
        settings: every value the optimizer ran with.
    """

    run: Run
    status: Status
    reason: str
    epochs: tuple[Record, ...]
    settings: Mapping[str, float | bool | str | tuple[float, ...]]


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task outside the processes that train it: see `thalweg.tasks.Task`."""

    name: str
    about: str
    metric_name: str
    higher_is_better: bool
    epochs: int
    batch_size: int
    target: float | None

    @classmethod
    def of(cls, task: Task) -> "TaskFacts":
        """The facts of a task that has been loaded."""
        return cls(**{f.name: getattr(task, f.name) for f in fields(cls)})


@dataclass(frozen=True)
class Study:
    """A plan, what is known of the task, the results so far, and where they were made.

    Attributes:
        plan: what was to be run.
        task: what a report says of the task.
        results: one per run that has ended, in the order in which they did.
        environment: versions, hardware and the command, by name, for whoever repeats it.
    """

    plan: Plan
    task: TaskFacts
    results: tuple[Result, ...]
    environment: Mapping[str, str]
