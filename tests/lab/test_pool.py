"""The pool, with workers that only pretend to train and so start in a moment."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from thalweg.errors import UsageError
from thalweg.lab import pool as pool_module
from thalweg.lab.plan import Plan, Run
from thalweg.lab.pool import Event, Pool, Started
from thalweg.lab.study import TaskFacts
from thalweg.lab.worker import Ended, Progress

# In place of `serve`. A run does what its optimizer is called; the task says how loading goes.
PRETENDING = """
import os
import signal
import sys
import time
from pathlib import Path

from thalweg.lab.study import Result, TaskFacts
from thalweg.lab.worker import Ended, Progress, Ready, Unusable
from thalweg.training import Record

HERE = Path(__file__).parent

def first_time(name):
    try:
        (HERE / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def pretend(connection, spec):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if spec == "unusable":
        connection.send(Unusable("there is no such task"))
        return
    if spec == "exits" or spec == "exits once" and first_time("loading"):
        os._exit(7)
    if spec == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        connection.send(Ready(TaskFacts(spec, "", "score", True, 1, 1, None)))
        while True:
            plan, run = connection.recv()
            do = run.optimizer
            with (HERE / "log").open("a") as log:
                print(os.getpid(), do, run.seed, file=log)
            epoch = Record(1, 1, 0.5, 0.5, 0.5, 0.5)
            connection.send(Progress(run, epoch))
            if do == "dies" or do == "dies once" and first_time(f"run-{run.seed}"):
                os._exit(3)
            if do == "waits":
                time.sleep(60)
            reason = "; ".join(f"{n}={os.environ.get(n)}" for n in plan.optimizers)
            connection.send(Ended(Result(run, "finished", reason, (epoch,), {})))
    except (EOFError, OSError):
        return
"""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PLAN = Plan("t", THREADS, "paper", None, 1, 1, (0,), None)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pretending.py").write_text(PRETENDING)
    monkeypatch.syspath_prepend(tmp_path)
    import pretending  # pyright: ignore

    monkeypatch.setattr(pool_module, "serve", pretending.pretend)  # pyright: ignore
    yield tmp_path
    monkeypatch.delitem(__import__("sys").modules, "pretending")


def runs(*names: str) -> list[Run]:
    return [Run(name, seed) for seed, name in enumerate(names)]


def events(size: int, of: Sequence[Run], task: str = "fine") -> list[Event]:
    with Pool(task, size) as pool:
        return list(pool.events(PLAN, of))


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


def test_events_of_one_worker_are_in_the_order_of_the_runs(folder: Path):
    wanted = runs("a", "b", "c")
    found = events(1, wanted)
    assert [type(e) for e in found] == [Started, Progress, Ended] * 3
    assert [run_of(e) for e in found] == [r for r in wanted for _ in range(3)]
    assert len({pid for pid, *_ in begun(folder)}) == 1


def test_every_run_is_begun_once_by_some_worker(folder: Path):
    wanted = runs(*"abcdef")
    found = events(2, wanted)
    assert [run_of(e) for e in found if isinstance(e, Started)] == wanted
    assert {run_of(e) for e in found if isinstance(e, Ended)} == set(wanted)
    assert len(found) == 18
    for run in wanted:
        mine = [type(e) for e in found if run_of(e) == run]
        assert mine == [Started, Progress, Ended]
    assert sorted(seed for _, _, seed in begun(folder)) == [0, 1, 2, 3, 4, 5]


def test_no_runs_take_no_time():
    assert events(1, []) == []


def test_facts_are_those_of_the_task_and_cost_no_worker(folder: Path):
    with Pool("fine", 2) as pool:
        assert pool.facts() == TaskFacts("fine", "", "score", True, 1, 1, None)
        waiting = runs("dies once", "b", "c", "d")
        found = list(pool.events(PLAN, waiting))
        assert len({run_of(e) for e in found if isinstance(e, Ended)}) == 4


def test_run_whose_worker_dies_is_begun_again(folder: Path):
    found = events(1, runs("dies once", "b"))
    assert [(type(e), run_of(e).seed) for e in found] == [
        (Started, 0),
        (Progress, 0),
        (Started, 0),
        (Progress, 0),
        (Ended, 0),
        (Started, 1),
        (Progress, 1),
        (Ended, 1),
    ]
    (first, *_), (second, *_), (third, *_) = begun(folder)
    assert first != second == third


def test_run_whose_worker_dies_twice_has_failed_and_the_others_go_on():
    found = [e.result for e in events(2, runs("dies", "b", "c", "d")) if isinstance(e, Ended)]
    by_run = {r.run.optimizer: r for r in found}
    assert len(found) == 4
    assert {name: r.status for name, r in by_run.items()} == {
        "dies": "failed",
        "b": "finished",
        "c": "finished",
        "d": "finished",
    }
    assert "killed 2 times (exit status 3)" in by_run["dies"].reason
    assert by_run["dies"].epochs == ()


def test_task_that_cannot_be_loaded():
    with Pool("unusable", 2) as pool, pytest.raises(UsageError, match="there is no such task"):
        pool.facts()
    with pytest.raises(UsageError, match="there is no such task"):
        events(1, runs("a"), "unusable")


@pytest.mark.parametrize(("task", "how"), [("exits", "exit status 7"), ("killed", "signal 9")])
def test_workers_that_die_while_they_load_are_not_started_for_ever(task: str, how: str):
    with Pool(task, 1) as pool, pytest.raises(UsageError) as caught:
        pool.facts()
    assert f"end while they load task {task} ({how})" in str(caught.value)
    assert "--jobs 1" in str(caught.value)


def test_one_worker_that_dies_while_it_loads_is_replaced():
    with Pool("exits once", 2) as pool:
        assert pool.facts().name == "exits once"
        found = list(pool.events(PLAN, runs("a", "b")))
    assert [type(e) for e in found].count(Ended) == 2


@pytest.mark.parametrize("before", [None, "5"])
def test_libraries_get_one_thread_in_workers_only(
    monkeypatch: pytest.MonkeyPatch, before: str | None
):
    for name in THREADS:
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
    with Pool("fine", 1) as pool:
        assert [os.environ.get(name) for name in THREADS] == [before] * 3
        # A worker that is started later, in place of a dead one, gets the same.
        found = [e.result for e in pool.events(PLAN, runs("a", "dies once")) if type(e) is Ended]
    assert len(found) == 2
    for result in found:
        assert result.reason == "; ".join(f"{name}=1" for name in THREADS)
    assert [os.environ.get(name) for name in THREADS] == [before] * 3


def test_environment_is_restored_when_a_process_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch,
):
    def refused(_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.delenv(THREADS[0], raising=False)
    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refused)
    with pytest.raises(OSError, match="no more processes"):
        Pool("fine", 1)
    assert THREADS[0] not in os.environ


def test_no_process_is_left_by_an_error(folder: Path):
    def fail(events: Iterator[Event]) -> None:
        next(e for e in events if isinstance(e, Progress))
        raise KeyError

    others = set(multiprocessing.active_children())
    with Pool("fine", 2) as pool:
        mine = set(multiprocessing.active_children()) - others
        with pytest.raises(KeyError):
            fail(pool.events(PLAN, runs("waits", "waits")))
        started = time.monotonic()
    assert time.monotonic() - started < 20
    assert len(mine) == 2
    assert set(multiprocessing.active_children()) <= others
    assert begun(folder)
    for pid, *_ in begun(folder):
        assert gone(int(pid))


def test_no_process_is_left_by_leaving_while_they_load():
    others = set(multiprocessing.active_children())
    with Pool("fine", 2):
        mine = set(multiprocessing.active_children()) - others
    assert len(mine) == 2
    assert set(multiprocessing.active_children()) <= others


def test_idle_workers_end_too():
    others = set(multiprocessing.active_children())
    with Pool("fine", 1) as pool:
        pool.facts()
        assert set(multiprocessing.active_children()) > others
    assert set(multiprocessing.active_children()) <= others
