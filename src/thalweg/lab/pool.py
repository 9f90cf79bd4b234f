"""A pool of worker processes that survives the death of any of them."""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Order, Run
from thalweg.lab.study import Result
from thalweg.lab.worker import Ended, Load, Loaded, Message, Progress, Unusable, packed, serve

if TYPE_CHECKING:
    from thalweg.tasks import Task

__all__ = ["Event", "Pool", "Started"]

_ATTEMPTS = 2
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Started:
    """A run has been given to a worker."""

    def __init__(self, run: Run) -> None:
        self.run = run


Event: TypeAlias = Started | Progress | Ended


class _Worker:
    """A process, the connection to it, and what it was given."""

    def __init__(self) -> None:
        # Forked processes inherit the state of torch's threads, which hangs them.
        context = multiprocessing.get_context("spawn")
        self.connection: Connection[bytes, Message]
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(theirs,), daemon=True)
        with _surroundings():
            self.process.start()
        theirs.close()
        self.order: Order | None = None
        self.loading: str | None = None
        self.loaded: str | None = None

    def load(self, load: Load) -> None:
        """Have the process load a task."""
        self.loading, self.loaded = load.spec, None
        self._send(load)

    def give(self, order: Order) -> None:
        """Have the process carry out a run."""
        self.order = order
        self._send(order)

    def _send(self, order: Load | Order) -> None:
        # If it has died, its end of the connection tells.
        with suppress(OSError):
            self.connection.send_bytes(packed(order))

    def received(self) -> Message | None:
        """The next message; None if the process has died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


@contextmanager
def _surroundings() -> Iterator[None]:
    """What a process is to find when it starts."""
    # Libraries of linear algebra read these when they are loaded, and otherwise start a
    # thread per core in every process, which then wait for work by spinning.
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    # The user's script would be run again in every process, and compare again.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Pool:
    """Worker processes that load tasks and carry out runs of them.

    Args:
        tasks: by their spec, as `thalweg.tasks.load` takes it; with the task itself, where it was
            given as an object.
        size: how many processes.
    """

    def __init__(self, tasks: "Mapping[str, Task | None]", size: int) -> None:
        self._tasks = tasks
        self._size = size
        self._lost_early = 0
        self._loaded: dict[str, Loaded] = {}
        self._workers = [_Worker() for _ in range(size)]
        for i, worker in enumerate(self._workers):
            self._load(worker, [*tasks][i % len(tasks)])

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def _load(self, worker: _Worker, spec: str) -> None:
        worker.load(Load(spec, self._tasks[spec]))

    def loaded(self) -> Mapping[str, Loaded]:
        """What is known of each task, as soon as some process has loaded it.

        Raises:
            UsageError: a task or its data cannot be loaded.
        """
        while missing := [spec for spec in self._tasks if spec not in self._loaded]:
            under_way = {w.loading for w in self._workers}
            for worker in self._workers:
                left = [spec for spec in missing if spec not in under_way]
                if worker.loading is None and left:
                    self._load(worker, left[0])
                    under_way.add(left[0])
            for _ in self._messages():
                pass
        return {spec: self._loaded[spec] for spec in self._tasks}

    def events(self, take: Callable[[], Order | None]) -> Iterator[Event]:
        """Carry out runs, and report what happens as it does.

        A run whose process dies is begun once more; when that one dies too, it has failed.

        Args:
            take: gives the next run to begin; None if there is none now. It is asked again after
                every run that ends.

        Raises:
            UsageError: a task or its data cannot be loaded.
        """
        again: deque[Order] = deque()
        held: dict[_Worker, Order] = {}
        attempts: dict[Run, int] = {}
        while True:
            for worker in self._workers:
                if worker.order or worker.loading or worker in held:
                    continue
                order = again.popleft() if again else take()
                if order is None:
                    break
                held[worker] = order
                if worker.loaded != order.run.task:
                    self._load(worker, order.run.task)
            for worker, order in list(held.items()):
                if worker.loaded == order.run.task and not worker.loading:
                    attempts[order.run] = attempts.get(order.run, 0) + 1
                    del held[worker]
                    worker.give(order)
                    yield Started(order.run)
            if not held and not any(w.order for w in self._workers):
                return
            for worker, message in self._messages():
                if isinstance(message, Progress):
                    yield message
                elif isinstance(message, Ended):
                    worker.order = None
                    yield message
                elif isinstance(message, str):
                    if worker in held:
                        again.append(held.pop(worker))
                    elif worker.order is None:
                        continue
                    elif attempts[worker.order.run] < _ATTEMPTS:
                        again.append(worker.order)
                    else:
                        yield _lost(worker.order.run, message)

    def _messages(self) -> Iterator[tuple[_Worker, Loaded | Progress | Ended | str]]:
        """What workers have to say; for one that has died how it did, and it is replaced."""
        by_connection = {w.connection: w for w in self._workers}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # pyright: ignore
            message = worker.received()
            if isinstance(message, Unusable):
                raise UsageError(message.reason)
            if isinstance(message, Loaded):
                worker.loading, worker.loaded = None, message.spec
                self._loaded.setdefault(message.spec, message)
            if message is not None:
                yield worker, message
                continue
            how = _exit_code(worker)
            self._workers.remove(worker)
            if worker.loading:
                self._lost_early += 1
                if self._lost_early >= _ATTEMPTS * self._size:
                    raise UsageError(
                        f"worker processes end while they load task {worker.loading} ({how}): "
                        "there may be too little memory for so many; try --jobs 1."
                    )
            another = _Worker()
            self._load(another, worker.loading or worker.loaded or next(iter(self._tasks)))
            self._workers.append(another)
            yield worker, how


def _exit_code(worker: _Worker) -> str:
    worker.process.join()
    code = worker.process.exitcode
    worker.end()
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _lost(run: Run, code: str) -> Ended:
    reason = f"its process was killed {_ATTEMPTS} times ({code}); out of memory, perhaps"
    return Ended(Result(run, "failed", reason, (), {}))
