"""A pool of worker processes that survives the death of any of them."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import Result, TaskFacts
from thalweg.lab.worker import Ended, Message, Order, Progress, Ready, Unusable, serve

__all__ = ["Event", "Pool", "Started"]

_ATTEMPTS = 2
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Started:
    """A run has been given to a worker."""

    def __init__(self, run: Run) -> None:
        self.run = run


Event: TypeAlias = Started | Progress | Ended


class _Worker:
    """A process, the connection to it, and the run it was given."""

    def __init__(self, task: str) -> None:
        # Forked processes inherit the state of torch's threads, which hangs them.
        context = multiprocessing.get_context("spawn")
        self.connection: Connection[Order, Message]
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, task), daemon=True)
        # Libraries of linear algebra read these when they are loaded, and otherwise start a
        # thread per core in every process, which then wait for work by spinning.
        before = {name: os.environ.get(name) for name in _THREADS}
        os.environ.update(dict.fromkeys(_THREADS, "1"))
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        self.run: Run | None = None
        self.ready = False

    def give(self, plan: Plan, run: Run) -> None:
        """Have the process carry out a run; if it has died, its end of the connection tells."""
        with suppress(OSError):
            self.connection.send((plan, run))

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


class Pool:
    """Worker processes that load a task at once and then carry out runs of it.

    Args:
        task: as `thalweg.tasks.load` takes it.
        size: how many processes.
    """

    def __init__(self, task: str, size: int) -> None:
        self._task = task
        self._size = size
        self._lost_early = 0
        self._workers = [_Worker(task) for _ in range(size)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def facts(self) -> TaskFacts:
        """What is known of the task, as soon as one process has loaded it.

        Raises:
            UsageError: the task or its data cannot be loaded.
        """
        while True:
            for _, message in self._messages():
                if isinstance(message, Ready):
                    return message.task

    def events(self, plan: Plan, runs: Sequence[Run]) -> Iterator[Event]:
        """Carry out the runs, begun in their order, and report what happens as it does.

        A run whose process dies is begun once more; when that one dies too, it has failed.

        Raises:
            UsageError: the task or its data cannot be loaded.
        """
        waiting = deque(runs)
        attempts = dict.fromkeys(runs, 0)
        left = len(runs)
        ready = [worker for worker in self._workers if worker.ready]
        while left:
            for worker in ready:
                if waiting:
                    worker.run = waiting.popleft()
                    attempts[worker.run] += 1
                    worker.give(plan, worker.run)
                    yield Started(worker.run)
            ready: list[_Worker] = []
            for worker, message in self._messages():
                if isinstance(message, Progress):
                    yield message
                elif isinstance(message, Ended):
                    yield message
                    left -= 1
                    worker.run = None
                    ready.append(worker)
                elif isinstance(message, Ready):
                    ready.append(worker)
                elif worker.run is not None:
                    if attempts[worker.run] < _ATTEMPTS:
                        waiting.appendleft(worker.run)
                    else:
                        left -= 1
                        yield _lost(worker.run, message)

    def _messages(self) -> Iterator[tuple[_Worker, Ready | Progress | Ended | str]]:
        """What workers have to say; for one that has died how it did, and it is replaced."""
        by_connection = {w.connection: w for w in self._workers}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # pyright: ignore
            message = worker.received()
            if isinstance(message, Unusable):
                raise UsageError(message.reason)
            if isinstance(message, Ready):
                worker.ready = True
            if message is not None:
                yield worker, message
                continue
            how = _exit_code(worker)
            self._workers.remove(worker)
            if not worker.ready:
                self._lost_early += 1
                if self._lost_early >= _ATTEMPTS * self._size:
                    raise UsageError(
                        f"worker processes end while they load task {self._task} ({how}): there "
                        "may be too little memory for so many; try --jobs 1."
                    )
            self._workers.append(_Worker(self._task))
            yield worker, how


def _exit_code(worker: _Worker) -> str:
    worker.process.join()
    code = worker.process.exitcode
    worker.end()
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _lost(run: Run, code: str) -> Ended:
    reason = f"its process was killed {_ATTEMPTS} times ({code}); out of memory, perhaps"
    return Ended(Result(run, "failed", reason, (), {}))
