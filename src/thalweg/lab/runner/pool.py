"""A pool of worker processes that survives the death of any of them."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

from thalweg.errors import UsageError
from thalweg.lab.plan import Order, Run
from thalweg.lab.runner import memory
from thalweg.lab.runner.memory import words
from thalweg.lab.runner.process import WorkerProcess
from thalweg.lab.runner.worker import Ended, Load, Loaded, Message, Progress, Unusable, settings_of
from thalweg.lab.study import Result

if TYPE_CHECKING:
    from thalweg.tasks import Task

__all__ = ["Event", "Pool", "Started"]

_ATTEMPTS = 2
# Seconds between two looks at clocks and memory. Within one, a process can take some 0.3 GB.
_LOOK = 0.1
# What loading a task may take at least: Python starts, and a disk may be slow.
_LOADING = 60.0


class Started:
    """A run has been given to a worker."""

    def __init__(self, run: Run) -> None:
        self.run = run


Event: TypeAlias = Started | Progress | Ended
_Take: TypeAlias = Callable[[str | None], Order | None]


@dataclass(frozen=True)
class _Lost:
    """A worker is no more.

    Attributes:
        reason: why.
        run: what is to become of its run: it has failed, it is to be begun again, or it is to be
            begun again if it was the first time.
    """

    reason: str
    run: Literal["failed", "again", "once more"]


class Pool:
    """Worker processes that load tasks and carry out runs of them.

    Args:
        tasks: by their spec, as `thalweg.tasks.load` takes it; with the task itself, where it was
            given as an object.
        size: how many processes.
        threads: how many each of them computes with.
        devices: what the processes train on, dealt round; None: the best there is.
        run_timeout: seconds that a run may take; None: as many as it does.
        limit: bytes that a process may take for its run and data; None: any number.
    """

    def __init__(
        self,
        tasks: "Mapping[str, Task | None]",
        size: int,
        *,
        threads: int = 1,
        devices: Sequence[str | None] = (None,),
        run_timeout: float | None = None,
        limit: int | None = None,
    ) -> None:
        if run_timeout is not None and not run_timeout > 0:
            raise UsageError(f"run_timeout is {run_timeout!r}, but must be a time above 0 s.")
        if threads < 1:
            raise UsageError(f"threads is {threads!r}, but must be at least 1.")
        self._tasks = tasks
        self._size = size
        self._threads = threads
        self._devices = devices
        self._timeout = math.inf if run_timeout is None else run_timeout
        self._limit = math.inf if limit is None else limit
        self._room = memory.Room()
        self._lost_early = 0
        self._loaded: dict[str, Loaded] = {}
        self._workers: list[WorkerProcess] = []
        self._again: deque[Order] = deque()
        self._deaths: dict[Run, int] = {}
        self._looked = monotonic()

    def __enter__(self) -> "Pool":
        try:
            # All of them start up at once, before the first is waited for.
            for _ in range(self._size):
                self._add()
            for worker in self._workers:
                self._load(worker, [*self._tasks][worker.slot % len(self._tasks)])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
        while self._workers:
            self._workers.pop().end()

    def _add(self) -> WorkerProcess:
        slots = {worker.slot for worker in self._workers}
        slot = next(i for i in range(self._size) if i not in slots)
        self._workers.append(WorkerProcess(slot, self._threads))
        return self._workers[-1]

    def _load(self, worker: WorkerProcess, spec: str) -> None:
        device = self._devices[worker.slot % len(self._devices)]
        worker.load(Load(spec, self._tasks[spec], device))

    def loaded(self) -> Mapping[str, Loaded]:
        """What is known of each task, as soon as some process has loaded it.

        Raises:
            UsageError: a task or its data cannot be loaded.
        """
        while missing := [spec for spec in self._tasks if spec not in self._loaded]:
            under_way = {w.task for w in self._workers if w.loading}
            for spec in missing:
                if spec not in under_way and (worker := self._free_for(spec)):
                    self._load(worker, spec)
            for worker, message in self._messages():
                if isinstance(message, _Lost) and message.run == "failed":
                    raise UsageError(f"the task {worker.task} cannot be loaded: {message.reason}.")
        return {spec: self._loaded[spec] for spec in self._tasks}

    def _free_for(self, spec: str) -> WorkerProcess | None:
        """Who can begin with something of a task, if there is room for it."""
        # Who has the task need not load it.
        idle = sorted((w for w in self._workers if not w.busy), key=lambda w: w.task != spec)
        if not idle and len(self._workers) == self._size:
            return None
        others = [(w.task or "", w.size) for w in self._workers if w.busy]
        if not self._room.allows(spec, idle[0].size if idle else 0, others):
            # What idle processes hold can be had back.
            for unused in idle[1:]:
                self._remove(unused)
            return None
        return idle[0] if idle else self._add()

    def events(self, take: _Take) -> Iterator[Event]:
        """Carry out runs, and report what happens as it does.

        A run whose process dies is begun once more; when that one dies too, it has failed. When
        memory runs short, the run that was begun last is stopped and begun again later, with fewer
        others beside it.

        Args:
            take: gives the next run to begin, of the given task if it can; None if there is none
                now. It is asked before a run's end is reported, and again after that.

        Raises:
            UsageError: a task or its data cannot be loaded.
        """
        while True:
            yield from self._given_out(take)
            if not self._again and not any(worker.order for worker in self._workers):
                return
            for worker, message in self._messages():
                yield from self._heard(worker, message, take)

    def _given_out(self, take: _Take) -> Iterator[Event]:
        """Give runs to whoever is idle, as long as there are some and there is room for them."""
        while True:
            idle = [worker for worker in self._workers if not worker.busy]
            if not idle and len(self._workers) == self._size:
                return
            task = idle[0].task if idle else None
            order = self._again.popleft() if self._again else take(task)
            if order is None:
                return
            worker = self._free_for(order.run.task)
            if worker is None:
                self._again.appendleft(order)
                return
            worker.order = order
            if worker.task == order.run.task:
                yield from self._begun(worker, order)
            else:
                self._load(worker, order.run.task)

    def _begun(self, worker: WorkerProcess, order: Order) -> Iterator[Event]:
        try:
            worker.begin()
        except UsageError as error:
            worker.order = None
            yield _failed(order, str(error), worker)
        else:
            yield Started(order.run)

    def _heard(
        self,
        worker: WorkerProcess,
        message: "Message | _Lost",
        take: _Take,
    ) -> Iterator[Event]:
        """What a message is to whoever follows the runs."""
        order = worker.order
        if order is None:
            return
        if isinstance(message, Loaded):
            yield from self._begun(worker, order)
        elif isinstance(message, Progress):
            worker.epochs.append(message.epoch)
            yield message
        elif isinstance(message, Ended):
            worker.order = None
            worker.measure()
            self._room.took(order.run.task, worker.largest)
            self._room.ended(order.run.task)
            # The next run goes on while this one's result is being kept.
            begun = [*self._given_out(take)]
            yield message
            yield from begun
        elif isinstance(message, Unusable):
            worker.order = None
            yield _failed(order, message.reason, worker)
        elif message.run == "failed":
            yield _failed(order, message.reason, worker)
        elif message.run == "again" or worker.loading:
            self._again.append(order)
        else:
            count = self._deaths[order.run] = self._deaths.get(order.run, 0) + 1
            if count < _ATTEMPTS:
                self._again.append(order)
            else:
                yield _failed(order, f"{message.reason}, {count} times", worker)

    def _messages(self) -> Iterator[tuple[WorkerProcess, "Message | _Lost"]]:
        """What workers have to say, and of which there is no more to be heard."""
        by_connection = {w.connection: w for w in self._workers}
        for connection in wait(list(by_connection), _LOOK):
            worker = by_connection[connection]  # pyright: ignore
            message = worker.received()
            if message is None:
                yield worker, self._died(worker)
                continue
            if isinstance(message, Unusable) and worker.loading:
                raise UsageError(message.reason)
            if isinstance(message, Loaded):
                worker.loading = False
                worker.measure()
                self._room.took(message.spec, worker.size)
                self._loaded.setdefault(message.spec, message)
                self._lost_early = 0
            yield worker, message
        now = monotonic()
        if now - self._looked >= _LOOK:
            yield from self._watched(now)
            self._looked = monotonic()

    def _watched(self, now: float) -> Iterator[tuple[WorkerProcess, _Lost]]:
        """Those that have died unheard, take too long, or take too much memory."""
        # While the whole program stood still, as after Ctrl-Z, no run went on.
        paused = max(0.0, now - self._looked - 50 * _LOOK)
        for worker in list(self._workers):
            worker.since += paused
            worker.measure()
            if worker.alone_dead:
                yield worker, self._died(worker)
            elif worker.busy and (reason := self._beyond(worker, now - worker.since)):
                self._remove(worker)
                yield worker, _Lost(reason, "failed")
        missing = memory.floor() - memory.free()
        if missing > 0:
            yield from self._shortened(missing)

    def _beyond(self, worker: WorkerProcess, seconds: float) -> str:
        """What a worker has taken too much of."""
        if worker.size > self._limit:
            limit = f"more than the {words(self._limit)} that it may (memory)"
            return f"it took {words(worker.size)} of memory, {limit}"
        allowed = max(self._timeout, _LOADING) if worker.loading else self._timeout
        if seconds <= allowed or worker.connection.poll():
            return ""
        if worker.loading:
            return f"loading the task took longer than {allowed:g} s (run_timeout)"
        return f"it took longer than {allowed:g} s (run_timeout), in epoch {len(worker.epochs) + 1}"

    def _shortened(self, missing: int) -> Iterator[tuple[WorkerProcess, _Lost]]:
        """Who is stopped because the machine has too little memory, by so many bytes."""
        idle = [worker for worker in self._workers if not worker.busy]
        busy = [worker for worker in self._workers if worker.busy]
        if idle:
            self._remove(max(idle, key=lambda worker: worker.size))
        elif len(busy) > 1:
            self._room.ran_short([worker.task or "" for worker in busy])
            youngest = max(busy, key=lambda worker: worker.since)
            self._room.took(youngest.task or "", youngest.largest)
            self._remove(youngest)
            yield youngest, _Lost("memory ran short", "again")
        # Where others than ours have taken the memory, it would be of no use.
        elif busy and busy[0].size >= missing:
            self._remove(busy[0])
            yield busy[0], _Lost(_does_not_fit(busy[0]), "failed")

    def _died(self, worker: WorkerProcess) -> _Lost:
        """What is known of a death."""
        self._workers.remove(worker)
        how, short = worker.death()
        others = [w for w in self._workers if w.busy]
        if short and others:
            self._room.ran_short([w.task or "" for w in (worker, *others)])
            return _Lost("the system killed it for lack of memory", "again")
        if short:
            return _Lost(_does_not_fit(worker), "failed")
        if worker.loading:
            self._lost_early += 1
            if self._lost_early >= _ATTEMPTS * self._size:
                raise UsageError(
                    f"worker processes end while they load task {worker.task} ({how}): there may "
                    "be too little memory for so many; try --jobs 1."
                )
        perhaps = "; out of memory, perhaps" if short is None else ""
        return _Lost(f"its process died ({how}{perhaps})", "once more")

    def _remove(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.end()


def _does_not_fit(worker: WorkerProcess) -> str:
    return (
        f"out of memory: it does not fit into this machine, even alone; it had taken "
        f"{words(worker.largest)} when it was stopped"
    )


def _failed(order: Order, reason: str, worker: WorkerProcess) -> Ended:
    return Ended(Result(order.run, "failed", reason, tuple(worker.epochs), settings_of(order)))
