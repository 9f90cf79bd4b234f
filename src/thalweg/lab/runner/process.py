"""A worker process, as its parent sees it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import current_thread, main_thread
from time import monotonic
from types import ModuleType

from thalweg.lab.plan import Order
from thalweg.lab.runner import memory
from thalweg.lab.runner.worker import Load, Message, packed, serve
from thalweg.training import Record

__all__ = ["WorkerProcess"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerProcess:
    """A process, the connection to it, and what it was given.

    Attributes:
        slot: its number among those that run side by side, from 0.
        connection: what it says comes from here.
        task: the task that it has loaded or is loading, by its spec.
        loading: whether it is loading it.
        order: the run that it is to carry out; if `loading`, as soon as the task is there.
        since: when it began with what it does, by the monotonic clock.
        epochs: of the run, so far.
        size: the bytes that it had for itself when `measure` was called last.
        largest: the most of them since it was given the run.
    """

    def __init__(self, slot: int, threads: int) -> None:
        # Forked processes inherit the state of torch's threads, which hangs them.
        context = multiprocessing.get_context("spawn")
        self.slot = slot
        self.connection: Connection[bytes, Message]
        self.connection, theirs = context.Pipe()
        # No daemon: those may not have processes of their own, as a task's data may need them.
        self._process: BaseProcess = context.Process(target=serve, args=(theirs, threads))
        with _surroundings(threads):
            self._process.start()
        theirs.close()
        self.task: str | None = None
        self.loading = False
        self.order: Order | None = None
        self.since = monotonic()
        self.epochs: list[Record] = []
        self.size = self.largest = 0
        self._kills = memory.kills()

    @property
    def busy(self) -> bool:
        """Whether it has something to do."""
        return self.loading or self.order is not None

    def load(self, load: Load) -> None:
        """Have it load a task.

        Raises:
            UsageError: the task holds something that cannot be sent.
        """
        self.task, self.loading = load.spec, True
        self._give(load)

    def begin(self) -> None:
        """Have it carry out its order.

        Raises:
            UsageError: the rule holds something that cannot be sent.
        """
        assert self.order is not None
        self._give(self.order)

    def _give(self, order: Load | Order) -> None:
        content = packed(order)
        self.epochs, self.largest, self._kills = [], self.size, memory.kills()
        self.since = monotonic()
        # If it has died, its end of the connection tells.
        with suppress(OSError):
            self.connection.send_bytes(content)

    def received(self) -> Message | None:
        """The next message; None if the process has died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def measure(self) -> None:
        """See how much memory it has."""
        self.size = memory.own(self._process.pid or 0)
        self.largest = max(self.largest, self.size)

    @property
    def alone_dead(self) -> bool:
        """Whether it has died, while another process holds its end of the connection open."""
        return self._process.exitcode is not None and not self.connection.poll()

    def stop(self) -> None:
        """Have it end, whatever it does; `end` waits for that."""
        self._process.kill()

    def end(self) -> None:
        """End it."""
        self.stop()
        self._process.join()
        self.connection.close()

    def death(self) -> tuple[str, bool | None]:
        """How it died, and whether that was the system's, for lack of memory; None: perhaps."""
        self._process.join()
        code = self._process.exitcode or 0
        self.connection.close()
        if code >= 0:
            return f"exit status {code}", False
        if code != -9:
            return f"signal {-code}", False
        kills = memory.kills()
        short = None if kills is None or self._kills is None else kills > self._kills
        return "signal 9", short


@contextmanager
def _surroundings(threads: int) -> Generator[None, None, None]:
    """What a process is to find when it starts."""
    # Libraries of linear algebra read these when they are loaded, and otherwise start a
    # thread per core in every process, which then wait for work by spinning.
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    # The user's script would be run again in every process, and compare again.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    # Ctrl-C is the parent's alone, also while they start.
    handler = signal.getsignal(signal.SIGINT)
    handles = handler is not None and current_thread() is main_thread()
    if handles:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if handles:
            signal.signal(signal.SIGINT, handler)
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
