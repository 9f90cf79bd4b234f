"""What runs in a worker process: one training run after the other."""

import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Order, Run
from thalweg.lab.runner import memory
from thalweg.lab.study import Result, Status, TaskFacts
from thalweg.rules.declaration import Setting
from thalweg.training import Record

if TYPE_CHECKING:
    from thalweg.tasks import Data, Task

__all__ = [
    "Ended",
    "Load",
    "Loaded",
    "Message",
    "Progress",
    "Unusable",
    "packed",
    "serve",
    "settings_of",
    "told",
]

# An error may have a whole tensor in its message.
_LONGEST = 600


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
        gpu: what the GPU is called that it is trained on; empty if there is none.
    """

    spec: str
    task: TaskFacts
    identity: Mapping[str, Mapping[str, str]]
    gpu: str = ""


@dataclass(frozen=True)
class Unusable:
    """A task or its data could not be loaded, or what was sent could not be read."""

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
    """What `serve` is sent: what was defined in a script or a notebook goes along whole.

    Raises:
        UsageError: it holds something that cannot be sent.
    """
    import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

    try:
        return cloudpickle.dumps(order)  # pyright: ignore[reportUnknownMemberType]
    # Whatever an object's own methods raise.
    except Exception as error:
        what = (
            f"the task {order.spec}" if isinstance(order, Load) else f"{order.run.optimizer}'s rule"
        )
        raise UsageError(
            f"{what} cannot be sent to a worker process ({told(error)}): make what cannot be "
            "pickled, such as a lock or an open file, within the functions that use it."
        ) from error


def serve(connection: "Connection[Message, bytes]", threads: int = 1) -> None:
    """Load tasks and carry out runs of them for as long as there is anyone to report to.

    Args:
        connection: to whoever gives orders.
        threads: how many a run gets.
    """
    # Ctrl-C reaches the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        _settle(parent.sentinel)
    # What is imported stays: to search it for garbage, again and again, takes a tenth of the time.
    gc.disable()

    def send(message: Message) -> None:
        try:
            connection.send(message)
        except OSError:
            raise _Unheard from None

    ready: _Ready | None = None
    with suppress(EOFError, OSError, _Unheard):
        while True:
            received = connection.recv_bytes()
            try:
                order = pickle.loads(received)  # noqa: S301
            except Exception as error:
                send(Unusable(f"what was sent to a worker process cannot be read: {told(error)}"))
                continue
            if isinstance(order, Order):
                assert ready is not None
                send(Ended(_carried_out(order, ready, send)))
                continue
            # At most one task's data are held at a time.
            ready = None
            gc.unfreeze()
            gc.enable()
            gc.collect()
            gc.disable()
            try:
                _prepare(threads)
                ready, loaded = _loaded(order)
                send(loaded)
            except UsageError as error:
                send(Unusable(str(error)))
            except (Exception, SystemExit) as error:
                send(Unusable(f"task {order.spec} cannot be loaded: {told(error)}"))
            gc.freeze()
            gc.enable()


def _settle(parent: int) -> None:
    """Arrange for what concerns the process as a whole, and not its runs."""
    # What a task prints is not to stand in the midst of the results.
    os.dup2(2, 1)
    # When memory runs out, the system is to end this process, and none of the user's others.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    # A run in which nothing moves any more must not outlive its parent: the system ends it, and
    # where the system does not, a thread does.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        wait([parent])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _prepare(threads: int) -> None:
    """Set what is torch's own for the whole process, and what an earlier task may have changed."""
    import torch

    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    # Averages of gradients that have died away fade through numbers below 1e-38, on which
    # processors are many times slower; they are rounded to 0.
    torch.set_flush_denormal(True)
    # torch broadcasts a loss over shapes that do not match and merely warns.
    warnings.filterwarnings("error", message="Using a target size")


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
    there = Loaded(order.spec, facts, identity(task, model, data), _gpu(order.device))
    return _Ready(task, data, order.device), there


def _gpu(device: str | None) -> str:
    import torch

    from thalweg.training.run import usable

    there = usable(device)
    return torch.cuda.get_device_name(there) if there.type == "cuda" else ""


class _Unheard(BaseException):
    """Nobody is left to report to. No Exception, which would be taken for the task's own."""


def _carried_out(order: Order, ready: _Ready, send: Callable[[Message], None]) -> Result:
    from thalweg.optim import Optimizer
    from thalweg.training import DivergenceError, train
    from thalweg.training.order import course

    epochs: list[Record] = []
    status: Status = "finished"
    reason = ""
    made: list[Optimizer] = []
    memory.forget_peak()

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
        status, reason = "failed", _reason(error)
    return Result(
        order.run,
        status,
        reason,
        tuple(epochs),
        settings_of(order),
        state_bytes=_state_bytes(made[-1]) if made else None,
        memory=memory.peak(),
    )


def settings_of(order: Order) -> dict[str, Setting]:
    """Every value that a run's optimizer has, and its schedule and decay if it has any."""
    settings = order.rule.settings(order.convention)
    return {**settings.hypers, **settings.flags, **order.extra}


def _reason(error: BaseException) -> str:
    import torch

    if isinstance(error, UsageError):
        return str(error)
    short = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return f"{'out of memory: ' * (short or 'DefaultCPUAllocator' in str(error))}{told(error)}"


def _state_bytes(optimizer: Any) -> float:
    """What an optimizer keeps between steps, in bytes per parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [v for p in parameters for v in optimizer.state.get(p, {}).values()]
    sizes = [getattr(v, "nbytes", 8) for v in kept]
    return sum(sizes) / sum(p.numel() for p in parameters)


def _compile(optimizer: Callable[[list[Any]], Any]) -> None:
    """Take a step of nothing, so that compiling is not timed as training."""
    import torch

    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.zeros(1)
    optimizer([p]).step(lambda: None)


def told(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code where it came up."""
    others = {Path(__file__).parents[2], Path(traceback.__file__).parent}
    places = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and others.isdisjoint(Path(frame.filename).parents)
    ]
    place = f" ({places[-1]})" if places else ""
    words = " ".join(str(error).split())
    if len(words) > _LONGEST:
        words = f"{words[:_LONGEST]} ..."
    return f"{type(error).__name__}: {words}{place}"
