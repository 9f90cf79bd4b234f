"""A pool of worker processes that survives the death of any of them."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import Result
from thalweg.lab.worker import Ended, Message, Progress, Ready, Unusable, serve

__all__ = ["Event", "Started", "events"]

_ATTEMPTS = 2


class Started:
    """A run has been given to a worker."""

    def __init__(self, run: Run) -> None:
        self.run = run


Event: TypeAlias = Started | Progress | Ended


class _Worker:
    """A process, the connection to it, and the run it was given."""

    def __init__(self, plan: Plan) -> None:
        # Forked processes inherit the state of torch's threads, which hangs them.
        context = multiprocessing.get_context("spawn")
        self.connection: Connection[Run | None, Message]
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, plan), daemon=True)
        self.process.start()
        theirs.close()
        self.run: Run | None = None
        self.ready = False

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
        self.process.close()


def events(plan: Plan, runs: Sequence[Run], jobs: int) -> Iterator[Event]:
    """Carry out the runs, in their order, and report what happens as it does.

    Args:
        plan: what they are runs of.
        runs: which to carry out.
        jobs: how many processes to use at most.

    Raises:
        UsageError: the task or its data cannot be loaded.
    """
    waiting = deque(runs)
    attempts = dict.fromkeys(runs, 0)
    workers = [_Worker(plan) for _ in range(min(jobs, len(runs)))]
    startups_lost = 0
    try:
        while workers:
            for connection in wait([w.connection for w in workers]):
                worker = next(w for w in workers if w.connection is connection)
                message = worker.received()
                match message:
                    case Unusable():
                        raise UsageError(message.reason)
                    case Progress():
                        yield message
                        continue
                    case Ended():
                        yield message
                        worker.run = None
                    case Ready():
                        worker.ready = True
                    case None:
                        code = _exit_code(worker)
                        workers.remove(worker)
                        if not worker.ready:
                            startups_lost += 1
                            if startups_lost >= _ATTEMPTS * jobs:
                                raise UsageError(
                                    f"worker processes end while they load the task ({code}): "
                                    "there may be too little memory for so many; try --jobs 1."
                                )
                        elif worker.run is not None:
                            if attempts[worker.run] < _ATTEMPTS:
                                waiting.appendleft(worker.run)
                            else:
                                yield _lost(worker.run, code)
                        if waiting:
                            workers.append(_Worker(plan))
                        continue
                if waiting:
                    worker.run = waiting.popleft()
                    attempts[worker.run] += 1
                    worker.connection.send(worker.run)
                    yield Started(worker.run)
                else:
                    workers.remove(worker)
                    worker.end()
    finally:
        for worker in workers:
            worker.end()


def _exit_code(worker: _Worker) -> str:
    worker.process.join()
    code = worker.process.exitcode
    worker.end()
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _lost(run: Run, code: str) -> Ended:
    reason = f"its process was killed {_ATTEMPTS} times ({code}); out of memory, perhaps"
    return Ended(Result(run, "failed", reason, (), {}))
