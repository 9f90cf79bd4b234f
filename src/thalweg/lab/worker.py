"""What runs in a worker process: one training run after the other, on one thread."""

import gc
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import Result, Status, TaskFacts
from thalweg.training import Record

__all__ = ["Ended", "Message", "Order", "Progress", "Ready", "Unusable", "serve"]


@dataclass(frozen=True)
class Ready:
    """The worker has loaded the task and waits for a run."""

    task: TaskFacts


@dataclass(frozen=True)
class Unusable:
    """The task or its data could not be loaded, so that there is nothing to run."""

    reason: str


@dataclass(frozen=True)
class Progress:
    """A run has completed an epoch."""

    run: Run
    epoch: Record


@dataclass(frozen=True)
class Ended:
    """A run has ended, in whatever way."""

    result: Result


Message: TypeAlias = Ready | Unusable | Progress | Ended
Order: TypeAlias = tuple[Plan, Run]


def serve(connection: "Connection[Message, Order]", spec: str) -> None:
    """Load a task once, then carry out runs of it for as long as there is anyone to report to."""
    # Ctrl-C reaches the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is imported stays: to search it for garbage, again and again, takes a tenth of the time.
    gc.disable()
    import torch

    from thalweg import tasks

    # A run is one of many side by side, so it gets one core.
    torch.set_num_threads(1)
    # Averages of gradients that have died away fade through numbers below 1e-38, on which
    # processors are many times slower; they are rounded to 0.
    torch.set_flush_denormal(True)
    # torch broadcasts a loss over shapes that do not match and merely warns.
    warnings.filterwarnings("error", message="Using a target size")
    try:
        task = tasks.load(spec)
        data = task.data()
    except UsageError as error:
        connection.send(Unusable(str(error)))
        return
    except (Exception, SystemExit) as error:
        connection.send(Unusable(f"the data of task {spec} cannot be loaded: {told(error)}"))
        return
    gc.freeze()
    gc.enable()

    def send(message: Message) -> None:
        try:
            connection.send(message)
        except OSError:
            raise _Unheard from None

    try:
        send(Ready(TaskFacts.of(task)))
        while True:
            plan, run = connection.recv()
            send(Ended(_carried_out(run, plan, task, data, send)))
    except (EOFError, OSError, _Unheard):
        return


class _Unheard(BaseException):
    """Nobody is left to report to. No Exception, which would be taken for the task's own."""


def _carried_out(
    run: Run, plan: Plan, task: Any, data: Any, send: Callable[[Message], None]
) -> Result:
    from thalweg.optim import Optimizer
    from thalweg.training import DivergenceError, train

    rule = plan.rule(run)
    settings = rule.settings(plan.convention)
    epochs: list[Record] = []
    status: Status = "finished"
    reason = ""

    def optimizer(params: Iterable[Any]) -> Optimizer:
        return Optimizer(params, rule, convention=plan.convention)

    try:
        _compile(optimizer)
        for epoch in train(
            task,
            optimizer,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            seed=run.seed,
            reshuffle=plan.reshuffle,
            data=data,
        ):
            epochs.append(epoch)
            send(Progress(run, epoch))
    except DivergenceError as error:
        status, reason = "diverged", str(error)
    except (Exception, SystemExit) as error:
        # Whatever a user's task does wrong is that run's result; the others go on.
        status, reason = "failed", told(error)
    return Result(run, status, reason, tuple(epochs), {**settings.hypers, **settings.flags})


def _compile(optimizer: Callable[[list[Any]], Any]) -> None:
    """Take a step of nothing, so that compiling is not timed as training."""
    import torch

    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.zeros(1)
    optimizer([p]).step(lambda: None)


def told(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code where it came up."""
    others = {Path(__file__).parents[1], Path(traceback.__file__).parent}
    places = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and others.isdisjoint(Path(frame.filename).parents)
    ]
    place = f" ({places[-1]})" if places else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
