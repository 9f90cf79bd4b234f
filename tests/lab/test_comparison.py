"""What is still to run, in which order, and what is written down of the machine."""

import getpass
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

import thalweg
from thalweg.lab import comparison
from thalweg.lab.comparison import carry_out, cores, environment, pending
from thalweg.lab.plan import Plan, Run
from thalweg.lab.pool import Event, Started
from thalweg.lab.store import Store
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.lab.worker import Ended, Progress
from thalweg.training import Record

PLAN = Plan("digits", ("sgd", "qhadam", "momentum"), "paper", None, 1, 32, (0, 1), None)
FACTS = TaskFacts("digits", "", "accuracy", True, 1, 32, None)


def result(run: Run, status: Status = "finished") -> Result:
    return Result(run, status, "", (Record(1, 1, 0.5, 0.5, 0.5, 0.5),), {})


def study(*ended: Result, plan: Plan = PLAN) -> Study:
    return Study(plan, FACTS, ended, {})


def test_runs_that_take_longest_come_first():
    assert [r.optimizer for r in pending(study())] == [
        *2 * ["qhadam"],
        *2 * ["momentum"],
        *2 * ["sgd"],
    ]
    assert [r.seed for r in pending(study())] == [0, 1] * 3


def test_a_chain_takes_longer_than_its_rule():
    plan = Plan("digits", ("sgd", "l2:weight_decay=0.1+sgd"), "paper", None, 1, 32, (0,), None)
    assert [r.optimizer for r in pending(study(plan=plan))] == ["l2:weight_decay=0.1+sgd", "sgd"]


@pytest.mark.parametrize("status", ["finished", "diverged", "failed"])
def test_only_what_has_not_ended_is_pending(status: Status):
    ended = [Run("qhadam", 1), Run("sgd", 0)]
    left = pending(study(*(result(r, status) for r in ended)))
    assert left == [Run("qhadam", 0), Run("momentum", 0), Run("momentum", 1), Run("sgd", 1)]


def test_nothing_is_pending_in_the_end():
    assert pending(study(*map(result, PLAN.runs()))) == []


class Pretending:
    """A pool that has been through it all before."""

    def __init__(self, store: Store, fail_after: int | None = None) -> None:
        self.asked: list[Run] = []
        self._store = store
        self._fail_after = fail_after

    def events(self, plan: Plan, runs: Sequence[Run]) -> Iterator[Event]:
        assert plan == PLAN
        self.asked = list(runs)
        for i, run in enumerate(runs):
            if i == self._fail_after:
                raise KeyboardInterrupt
            yield Started(run)
            yield Progress(run, result(run).epochs[0])
            yield Ended(result(run))
            # Whoever asks for the next event has kept this one.
            assert self._store.study().results[-1].run == run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create(tmp_path / "o", PLAN, FACTS, {})
    yield store
    store.close()


def test_each_result_is_kept_as_it_comes_and_a_report_is_written(store: Store):
    pool, seen = Pretending(store), []
    outcome = carry_out(store, pool, seen.append)  # pyright: ignore
    assert pool.asked == pending(study())
    assert [type(e) for e in seen] == [Started, Progress, Ended] * 6
    assert outcome == store.study()
    assert {r.run for r in outcome.results} == set(PLAN.runs())
    assert (store.folder / "report.html").exists()


def test_what_was_broken_off_is_gone_on_with(store: Store):
    with pytest.raises(KeyboardInterrupt):
        carry_out(store, Pretending(store, fail_after=2), lambda _: None)  # pyright: ignore
    assert len(store.study().results) == 2
    pool = Pretending(store)
    carry_out(store, pool, lambda _: None)  # pyright: ignore
    assert pool.asked == pending(study())[2:]
    assert len(store.study().results) == 6


def test_report_is_written_anew_when_nothing_is_left(store: Store):
    for run in PLAN.runs():
        store.add(result(run))
    pool = Pretending(store)
    carry_out(store, pool, lambda _: None)  # pyright: ignore
    assert pool.asked == []
    assert (store.folder / "report.html").exists()


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(sys, "argv", ["/secret/place/thalweg", "compare", "a b.py:task", "--lr=1"])
    return environment()


def test_environment_is_what_a_repetition_needs(described: dict[str, str]):
    assert shlex.split(described["command"]) == ["thalweg", "compare", "a b.py:task", "--lr=1"]
    assert described["thalweg"] == thalweg.__version__
    assert described["Python"] == platform.python_version()
    assert {"torch", "numpy", "system"} <= described.keys()
    assert described["processor"].endswith(f", {cores()} cores")
    started = datetime.fromisoformat(described["started"])
    assert 0 <= (datetime.now(timezone.utc) - started).total_seconds() < 60


def test_environment_says_nothing_of_whose_machine_it_is(
    described: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_TOKEN", "xyzzy-12345")
    text = " ".join(environment().values())
    assert "xyzzy" not in text
    assert "/secret/place" not in text
    command = described.pop("command")
    text = " ".join(described.values())
    folders = (str(Path.home()), str(Path.cwd()), sys.prefix, str(Path(thalweg.__file__).parent))
    for folder in folders:
        assert folder not in text or folder == "/"
    assert {getpass.getuser(), socket.gethostname()}.isdisjoint(text.split())
    assert shlex.split(command)[0] == "thalweg"


class CpuInfo:
    """Stands in for the file in which Linux describes its processors."""

    text: str | None = None

    def __init__(self, path: str) -> None:
        assert path == "/proc/cpuinfo"

    def read_text(self) -> str:
        if self.text is None:
            raise FileNotFoundError
        return self.text


def test_processor_has_a_name_everywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comparison, "Path", CpuInfo)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert environment()["processor"] == f"riscv64, {cores()} cores"
    monkeypatch.setattr(CpuInfo, "text", "flags\t: a\nmodel name\t: Fast One: 3\n")
    assert environment()["processor"] == f"Fast One: 3, {cores()} cores"
