"""What runs in a worker process: one training run after the other, on one thread."""

import gc
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Order, Run
from thalweg.lab.study import Result, Status, TaskFacts
from thalweg.training import Record

if TYPE_CHECKING:
    from thalweg.tasks import Data, Task

__all__ = ["Ended", "Load", "Loaded", "Message", "Progress", "Unusable", "packed", "serve"]


@dataclass(frozen=True)
class Load:
    """Asks a worker to load a task and its data.

    Attributes:
        spec: as `thalweg.tasks.load` takes it.
        task: the task itself, where it was given as an object.
        device: what to train on, such as "cuda:0"; None: the best there is.
    """

    spec: str
    task: "Task | None" = None
    device: str | None = None


@dataclass(frozen=True)
class Loaded:
    """The worker has loaded a task and waits for its runs.

    Attributes:
        spec: the task's.
        task: what is known of it.
        identity: what it is, told apart by content: see `thalweg.training.identity`.
    """

    spec: str
    task: TaskFacts
    identity: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Unusable:
    """A task or its data could not be loaded, so that there is nothing to run."""

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


Message: TypeAlias = Loaded | Unusable | Progress | Ended


def packed(order: Load | Order) -> bytes:
    """What `serve` is sent: what was defined in a script or a notebook goes along whole."""
    import cloudpickle

    return cloudpickle.dumps(order)


def serve(connection: "Connection[Message, bytes]") -> None:
    """Load tasks and carry out runs of them for as long as there is anyone to report to."""
    # Ctrl-C reaches the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is imported stays: to search it for garbage, again and again, takes a tenth of the time.
    gc.disable()
    import torch

    # A run is one of many side by side, so it gets one core.
    torch.set_num_threads(1)
    # Averages of gradients that have died away fade through numbers below 1e-38, on which
    # processors are many times slower; they are rounded to 0.
    torch.set_flush_denormal(True)
    # torch broadcasts a loss over shapes that do not match and merely warns.
    warnings.filterwarnings("error", message="Using a target size")

    def send(message: Message) -> None:
        try:
            connection.send(message)
        except OSError:
            raise _Unheard from None

    task: _Ready | None = None
    with suppress(EOFError, OSError, _Unheard):
        while True:
            order = pickle.loads(connection.recv_bytes())  # noqa: S301
            if isinstance(order, Order):
                assert task is not None
                send(Ended(_carried_out(order, task, send)))
                continue
            # At most one task's data are held at a time.
            task = None
            gc.unfreeze()
            gc.enable()
            gc.collect()
            gc.disable()
            try:
                task, loaded = _loaded(order)
                send(loaded)
            except UsageError as error:
                send(Unusable(str(error)))
            except (Exception, SystemExit) as error:
                send(Unusable(f"task {order.spec} cannot be loaded: {told(error)}"))
            gc.freeze()
            gc.enable()


@dataclass(frozen=True)
class _Ready:
    task: "Task"
    data: "Data"
    device: str | None


def _loaded(order: Load) -> tuple[_Ready, Loaded]:
    from thalweg import tasks
    from thalweg.training.identity import identity

    task = order.task or tasks.load(order.spec)
    data = task.data()
    model = task.model()
    facts = TaskFacts.of(
        task,
        has_test=data.test is not None,
        parameters=sum(p.numel() for p in model.parameters()),
    )
    there = Loaded(order.spec, facts, identity(task, model, data))
    return _Ready(task, data, order.device), there


class _Unheard(BaseException):
    """Nobody is left to report to. No Exception, which would be taken for the task's own."""


def _carried_out(order: Order, ready: _Ready, send: Callable[[Message], None]) -> Result:
    from thalweg.optim import Optimizer
    from thalweg.training import DivergenceError, train
    from thalweg.training.order import course

    settings = order.rule.settings(order.convention)
    epochs: list[Record] = []
    status: Status = "finished"
    reason = ""
    made: list[Optimizer] = []

    def optimizer(params: Iterable[Any]) -> Optimizer:
        made.append(Optimizer(params, order.rule, convention=order.convention))
        return made[-1]

    try:
        _compile(optimizer)
        for epoch in train(
            ready.task,
            optimizer,
            course(
                optimizer, order.epochs, order.schedule, given=dict.fromkeys(order.rule.given, "")
            ),
            batch_size=order.batch_size,
            seed=order.run.seed,
            reshuffle=order.reshuffle,
            data=ready.data,
            device=ready.device,
            test=order.test,
        ):
            epochs.append(epoch)
            send(Progress(order.run, epoch))
    except DivergenceError as error:
        status, reason = "diverged", str(error)
    except (Exception, SystemExit) as error:
        # Whatever a user's task does wrong is that run's result; the others go on.
        status, reason = "failed", told(error)
    return Result(
        order.run,
        status,
        reason,
        tuple(epochs),
        {**settings.hypers, **settings.flags, **order.extra},
        state_bytes=_state_bytes(made[-1]) if made else None,
        memory=_memory(),
    )


def _state_bytes(optimizer: Any) -> float:
    """What an optimizer keeps between steps, in bytes per parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [v for p in parameters for v in optimizer.state.get(p, {}).values()]
    sizes = [getattr(v, "nbytes", 8) for v in kept]
    return sum(sizes) / sum(p.numel() for p in parameters)


def _memory() -> int | None:
    """The most memory that this process has ever taken, in bytes."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
