"""The pool, with workers that only pretend to train."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from thalweg import rules
from thalweg.errors import UsageError
from thalweg.lab.plan import Order, Run
from thalweg.lab.runner import memory, pool, process
from thalweg.lab.runner.pool import Event, Pool, Started
from thalweg.lab.runner.worker import Ended, Progress
from thalweg.lab.study import Result, TaskFacts

# In place of `serve`. A run does what its optimizer is called; the task says how loading goes.
PRETENDING = """
import os
import pickle
import signal
import time
from pathlib import Path

from thalweg.lab.plan import Order
from thalweg.lab.study import Result, TaskFacts
from thalweg.lab.runner.worker import Ended, Loaded, Progress, Unusable
from thalweg.training.records import Record

HERE = Path(__file__).parent
DEAF = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

def first_time(name):
    try:
        (HERE / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def load(connection, order):
    how = order.spec
    if how == "unusable":
        return connection.send(Unusable("there is no such task"))
    if how == "exits" or how == "exits once" and first_time("loading"):
        os._exit(7)
    if how == "hangs" or how == "hangs later" and not first_time("loading"):
        time.sleep(60)
    connection.send(Loaded(how, TaskFacts(how, "", "score", True, 1, 1, None), {}))

def pretend(connection, threads):
    held = []
    try:
        while True:
            order = pickle.loads(connection.recv_bytes())
            if not isinstance(order, Order):
                load(connection, order)
                device = order.device
                continue
            do, run = order.run.optimizer, order.run
            with (HERE / "log").open("a") as log:
                print(os.getpid(), do, run.seed, file=log)
            epoch = Record(1, 1, 0.5, 0.5, 0.5, 0.5)
            connection.send(Progress(run, epoch))
            if do == "dies" and not os.fork():
                # A process of the run's own, which has all that it had, and lives on.
                until = time.monotonic() + 90
                while not (HERE / "over").exists():
                    time.sleep(0.05)
                    if time.monotonic() > until:
                        (HERE / "given up").touch()
                        break
                os._exit(0)
            if do == "dies" or do == "dies once" and first_time(f"run-{run.seed}"):
                os._exit(3)
            if do == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if do == "waits":
                time.sleep(60)
            if do == "naps":
                time.sleep(1.0)
            if do.startswith("meets"):
                (HERE / f"met-{os.getpid()}").touch()
                while len(list(HERE.glob("met-*"))) < 2:
                    time.sleep(0.01)
            if do == "grows":
                held.append(b"x" * 300_000_000)
                time.sleep(60)
            said = ",".join(os.environ.get(name, "") for name in THREADS)
            reason = f"{threads};{device};{said};{DEAF}"
            connection.send(Ended(Result(run, "finished", reason, (epoch,), {})))
    except (EOFError, OSError):
        return
"""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pretending.py").write_text(PRETENDING)
    monkeypatch.syspath_prepend(tmp_path)
    import pretending  # pyright: ignore

    monkeypatch.setattr(process, "serve", pretending.pretend)  # pyright: ignore
    others = set(multiprocessing.active_children())
    yield tmp_path
    monkeypatch.delitem(__import__("sys").modules, "pretending")
    assert set(multiprocessing.active_children()) <= others
    if (tmp_path / "log").exists():
        assert all(gone(int(pid)) for pid, *_ in begun(tmp_path))


def order(run: Run, rule: rules.Rule = rules.sgd) -> Order:
    return Order(run, rule(lr=0.5), "paper", None, {"decay": "l2"}, 1, 1, True, False)


def runs(*names: str, task: str = "fine") -> list[Run]:
    return [Run(task, name, 0, seed) for seed, name in enumerate(names)]


@dataclass
class Queue:
    """Gives one run after the other."""

    orders: deque[Order]

    def __call__(self, task: str | None) -> Order | None:
        return self.orders.popleft() if self.orders else None


def queue(of: list[Run]) -> Queue:
    return Queue(deque(order(run) for run in of))


def events(size: int, of: list[Run], **how: object) -> list[Event]:
    tasks = dict.fromkeys([run.task for run in of] or ["fine"])
    with Pool(tasks, size, **how) as there:  # pyright: ignore
        there.loaded()
        return list(there.events(queue(of)))


def results(found: list[Event]) -> dict[str, Result]:
    return {e.result.run.optimizer: e.result for e in found if isinstance(e, Ended)}


def run_of(event: Event) -> Run:
    return event.result.run if isinstance(event, Ended) else event.run


def begun(folder: Path) -> list[tuple[str, str, int]]:
    """Each run that a worker was given, and the worker's process."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [(pid, " ".join(name), int(seed)) for pid, *name, seed in lines]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# Events:


def test_one_worker_carries_out_one_run_after_the_other(folder: Path):
    """Also what it finds: threads, device, environment, and that Ctrl-C is its parent's alone."""
    before = [os.environ.get(name) for name in THREADS], signal.getsignal(signal.SIGINT)
    wanted = runs("a", "b", "c")
    with Pool({"fine": None}, 1, threads=2, devices=("cuda:1",)) as there:
        assert there.loaded()["fine"].task == TaskFacts("fine", "", "score", True, 1, 1, None)
        found = list(there.events(queue(wanted)))
        assert list(there.events(queue([]))) == []
    assert [type(e) for e in found] == [Started, Progress, Ended] * 3
    assert [run_of(e) for e in found] == [r for r in wanted for _ in range(3)]
    assert len({pid for pid, *_ in begun(folder)}) == 1
    assert {r.reason for r in results(found).values()} == {"2;cuda:1;2,2,2;True"}
    assert ([os.environ.get(n) for n in THREADS], signal.getsignal(signal.SIGINT)) == before


def test_several_workers_begin_every_run_once_and_are_dealt_devices(folder: Path):
    wanted = runs("meets", "meets too", *"cdef")
    found = events(2, wanted, devices=("cuda:0", "cuda:1"))
    assert [run_of(e) for e in found if isinstance(e, Started)] == wanted
    assert len(found) == 18
    for run in wanted:
        assert [type(e) for e in found if run_of(e) == run] == [Started, Progress, Ended]
    assert sorted(seed for _, _, seed in begun(folder)) == [0, 1, 2, 3, 4, 5]
    assert {r.reason.split(";")[1] for r in results(found).values()} == {"cuda:0", "cuda:1"}


def test_a_worker_loads_another_task_when_there_are_no_more_runs_of_its_own(folder: Path):
    wanted = [*runs("a", "b", task="one"), *runs("c", "d", task="two")]
    asked: list[str | None] = []
    orders = queue(wanted)

    def take(task: str | None) -> Order | None:
        asked.append(task)
        return orders(task)

    with Pool({"one": None, "two": None}, 1) as there:
        assert list(there.loaded()) == ["one", "two"]
        found = [(e, len(orders.orders)) for e in there.events(take)]
    ended = [(run_of(e), left) for e, left in found if isinstance(e, Ended)]
    # When the end of a run is reported, the next one has begun.
    assert ended == list(zip(wanted, (2, 1, 0, 0), strict=True))
    assert asked[:4] == ["two", "one", "one", "two"]
    assert len({pid for pid, *_ in begun(folder)}) == 1


# Deaths:


def test_a_run_whose_process_dies_is_begun_once_more(folder: Path):
    wanted = runs("dies once", "b", "dies")
    found = events(1, wanted)
    assert not (folder / "given up").exists()
    (folder / "over").touch()
    assert [(type(e), run_of(e).seed) for e in found] == [
        *[(Started, 0), (Progress, 0)],
        *[(Started, 0), (Progress, 0), (Ended, 0)],
        *[(Started, 1), (Progress, 1), (Ended, 1)],
        *[(Started, 2), (Progress, 2)],
        *[(Started, 2), (Progress, 2), (Ended, 2)],
    ]
    of = results(found)
    assert [r.status for r in of.values()] == ["finished", "finished", "failed"]
    assert of["dies"].reason == "its process died (exit status 3), 2 times"
    assert [e.epoch for e in of["dies"].epochs] == [1]
    assert of["dies"].settings == {"lr": 0.5, "decay": "l2"}
    (first, *_), (second, *_), (third, *_), *_ = begun(folder)
    assert first != second == third


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([0], "its process died (signal 9), 1 times"),
        ([None], "its process died (signal 9; out of memory, perhaps), 1 times"),
        (range(99), "out of memory: it does not fit into this machine, even alone; it had taken"),
    ],
)
def test_a_kill_for_lack_of_memory_is_told_from_others(
    counts: list[int | None], says: str, monkeypatch: pytest.MonkeyPatch
):
    left = list(counts)
    monkeypatch.setattr(pool, "_ATTEMPTS", 1)
    monkeypatch.setattr(memory, "kills", lambda: left.pop(0) if len(left) > 1 else left[0])
    [result] = results(events(1, runs("killed"))).values()
    assert result.status == "failed"
    assert says in result.reason


def test_workers_that_die_while_they_load_are_not_started_for_ever():
    with Pool({"exits": None}, 1) as there, pytest.raises(UsageError) as caught:
        there.loaded()
    assert "end while they load task exits (exit status 7)" in str(caught.value)
    assert "--jobs 1" in str(caught.value)


def test_a_worker_that_dies_while_it_loads_is_replaced():
    found = events(1, runs("a", task="exits once"))
    assert results(found)["a"].status == "finished"


def test_task_that_cannot_be_loaded():
    with Pool({"unusable": None}, 1) as there, pytest.raises(UsageError, match="no such task"):
        there.loaded()


def test_what_cannot_be_sent_is_told():
    lock = threading.Lock()
    with pytest.raises(UsageError, match=r"the task mine cannot be sent .*cannot pickle '_thread"):
        Pool({"mine": lock}, 1).__enter__()  # pyright: ignore

    fine = order(Run("fine", "a", 0, 0))
    bad = replace(fine, run=Run("fine", "bad", 0, 0), extra={"x": lock})  # pyright: ignore
    with Pool({"fine": None}, 1) as there:
        there.loaded()
        found = list(there.events(Queue(deque([bad, fine]))))
    assert [type(e) for e in found] == [Ended, Started, Progress, Ended]
    assert results(found)["bad"].status == "failed"
    assert "bad's rule cannot be sent to a worker process" in results(found)["bad"].reason


# Time and memory:


def test_a_run_that_takes_too_long_has_failed_and_the_others_go_on():
    found = events(1, runs("waits", "b"), run_timeout=0.4)
    of = results(found)
    assert of["waits"].status == "failed"
    assert of["waits"].reason == "it took longer than 0.4 s (run_timeout), in epoch 2"
    assert len(of["waits"].epochs) == 1
    assert of["b"].status == "finished"
    assert [type(e) for e in found].count(Started) == 2


def test_loading_that_takes_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_LOADING", 0.3)
    with (
        Pool({"hangs": None}, 1, run_timeout=0.1) as there,
        pytest.raises(UsageError, match=r"task hangs cannot be loaded: .* longer than 0.3 s"),
    ):
        there.loaded()


def test_a_run_whose_task_hangs_when_it_is_loaded_again_has_failed(
    monkeypatch: pytest.MonkeyPatch,
):
    with Pool({"hangs later": None, "fine": None}, 1, run_timeout=0.2) as there:
        there.loaded()
        monkeypatch.setattr(pool, "_LOADING", 0.3)
        wanted = [*runs("b"), *runs("a", task="hangs later")]
        of = results(list(there.events(queue(wanted))))
    assert of["a"].status == "failed"
    assert of["a"].reason == "loading the task took longer than 0.3 s (run_timeout)"
    assert of["a"].epochs == ()


def test_a_run_that_takes_too_much_memory_has_failed_and_the_others_go_on():
    of = results(events(1, runs("grows", "b"), limit=2**28))
    assert of["grows"].status == "failed"
    assert "of memory, more than the 0.2 GiB that it may (memory)" in of["grows"].reason
    assert of["b"].status == "finished"


class Machine:
    """One whose memory is short whenever several runs go on in a pool, or even one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.pool: Pool | None = None
        self.most = 0
        self._room = room
        monkeypatch.setattr(memory, "floor", lambda: 1000)
        monkeypatch.setattr(memory, "free", self.free)

    def free(self) -> int:
        if self.pool is None:
            return 10**12
        busy = sum(worker.order is not None for worker in self.pool._workers)  # pyright: ignore
        self.most = max(self.most, busy)
        return 10**12 if busy <= self._room else 0


def test_when_memory_runs_short_the_youngest_run_is_begun_again_later(
    monkeypatch: pytest.MonkeyPatch,
):
    machine = Machine(monkeypatch, room=1)
    with Pool({"fine": None}, 2) as there:
        there.loaded()
        while any(worker.loading for worker in there._workers):  # pyright: ignore
            list(there._messages())  # pyright: ignore
        machine.pool = there
        found = list(there.events(queue(runs("naps", "naps", "naps"))))
    assert [run_of(e).seed for e in found if isinstance(e, Ended)] == [0, 1, 2]
    assert all(e.result.status == "finished" for e in found if isinstance(e, Ended))
    assert [run_of(e).seed for e in found if isinstance(e, Started)][:3] == [0, 1, 1]
    assert machine.most == 2


def test_a_run_that_does_not_fit_even_alone_has_failed(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(monkeypatch, room=0)
    with Pool({"fine": None}, 1) as there:
        there.loaded()
        machine.pool = there
        of = results(list(there.events(queue(runs("waits")))))
    assert of["waits"].status == "failed"
    assert of["waits"].reason.startswith("out of memory: it does not fit into this machine")


def test_no_run_is_stopped_for_memory_that_others_have_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "floor", lambda: 10**15)
    assert results(events(1, runs("naps")))["naps"].status == "finished"


# The end:


def test_no_process_is_left_by_an_error(folder: Path):
    def fail(events: Iterator[Event]) -> None:
        next(e for e in events if isinstance(e, Progress))
        raise KeyError

    with Pool({"fine": None}, 2) as there:
        there.loaded()
        with pytest.raises(KeyError):
            fail(there.events(queue(runs("waits", "waits"))))
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert begun(folder)


def test_no_process_is_left_by_leaving_while_they_load():
    others = set(multiprocessing.active_children())
    with Pool({"fine": None}, 2):
        mine = set(multiprocessing.active_children()) - others
    assert len(mine) == 2
    assert set(multiprocessing.active_children()) <= others


def test_environment_is_restored_when_a_process_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch,
):
    def refused(_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.delenv(THREADS[0], raising=False)
    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refused)
    with pytest.raises(OSError, match="no more processes"):
        Pool({"fine": None}, 1).__enter__()
    assert THREADS[0] not in os.environ


@pytest.mark.parametrize("how", [{"run_timeout": 0}, {"run_timeout": -1.0}, {"threads": 0}])
def test_what_a_pool_cannot_be_told(how: dict[str, float]):
    with pytest.raises(UsageError, match=f"{next(iter(how))} is "):
        Pool({"fine": None}, 1, **how)  # pyright: ignore
