"""What there is of memory, and how many runs it has room for."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from thalweg.lab.runner import memory
from thalweg.lab.runner.memory import Room

MB = 2**20


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch):
    memory.floor.cache_clear()
    memory._limits.cache_clear()  # pyright: ignore
    yield
    monkeypatch.undo()
    memory.floor.cache_clear()
    memory._limits.cache_clear()  # pyright: ignore


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of 10 GB, of which 6 are free; where its groups of processes are told."""
    there = SimpleNamespace(total=10_000 * MB, available=6_000 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    monkeypatch.setattr(memory, "_MINE", tmp_path / "mine")
    monkeypatch.setattr(memory, "_ALL", tmp_path)
    return tmp_path


def written(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_free_is_what_the_system_tells(machine: Path):
    assert memory.free() == 6_000 * MB
    assert memory.floor() == 500 * MB
    written(machine, mine="4:cpu:/\n0::/a/b")
    written(machine / "a/b", memory__max="max")
    memory._limits.cache_clear()  # pyright: ignore
    assert memory.free() == 6_000 * MB


@pytest.mark.parametrize("place", ["a/b", "a", "."])
def test_a_group_has_less_than_the_machine(machine: Path, place: str):
    """Whether the limit is its own, or that of a group around it."""
    written(machine, mine="0::/a/b")
    (machine / "a/b").mkdir(parents=True)
    stat = f"anon {100 * MB}\ninactive_file {300 * MB}"
    written(
        machine / place,
        memory__max=2_000 * MB,
        memory__current=1_900 * MB,
        memory__stat=stat,
    )
    assert memory.free() == 400 * MB
    assert memory.floor() == memory._LEAST  # pyright: ignore


def test_a_group_of_the_older_kind(machine: Path):
    written(machine, mine="4:memory:/not/mounted\n0::/")
    written(
        machine / "memory",
        memory__limit_in_bytes=8_000 * MB,
        memory__usage_in_bytes=7_000 * MB,
        memory__stat=f"inactive_file 7\ntotal_inactive_file {500 * MB}",
    )
    assert memory.free() == 1_500 * MB
    assert memory.floor() == 400 * MB


def test_a_process_has_what_it_has_taken():
    me = psutil.Process().pid
    before = memory.own(me)
    held = bytearray(50 * MB)
    assert before + 40 * MB < memory.own(me) < before + 80 * MB
    if sys.platform == "linux":
        # Python itself is in files that all have together.
        assert memory.own(me) < psutil.Process().memory_info().rss - MB
    del held
    assert memory.own(2**22 + 1) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin anew")
def test_peak_is_counted_anew():
    held = bytearray(100 * MB)
    high = memory.peak()
    del held
    memory.forget_peak()
    low = memory.peak()
    assert high is not None
    assert low is not None
    assert 0 < low < high - 50 * MB


def test_kills_are_counted_where_the_system_tells(monkeypatch: pytest.MonkeyPatch):
    def read(path: Path) -> str:
        if not told:
            raise FileNotFoundError
        return told[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    told = {"/proc/vmstat": "pgfault 7\noom_kill 3\noom_kill_other 9\n"}
    assert memory.kills() == 3
    told = {}
    assert memory.kills() is None


def test_a_size_is_told_in_the_unit_that_suits():
    sizes = (100 * 2**10, 80 * MB, 2**30 // 2, 12 * 2**30)
    assert [memory.words(size) for size in sizes] == ["0 MiB", "80 MiB", "0.5 GiB", "12.0 GiB"]


# Room:


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    sizes = {"free": 1000, "floor": 100}
    monkeypatch.setattr(memory, "free", lambda: sizes["free"])
    monkeypatch.setattr(memory, "floor", lambda: sizes["floor"])
    return sizes


def test_there_is_room_for_a_run_as_large_as_the_largest(left: dict[str, int]):
    room = Room()
    assert room.allows("a", 0, [("a", 0)])
    room.took("a", 600)
    room.took("a", 500)
    # The other one will grow by 400 yet.
    assert room.allows("a", 100, [("a", 600)])
    assert room.allows("a", 100, [("a", 200)])
    assert not room.allows("a", 99, [("a", 200)])
    # Of another task nothing is known.
    assert room.allows("b", 0, [("b", 0)] * 9)
    assert not room.allows("b", 0, [("a", 99), ("a", 199)])


def test_below_the_floor_no_other_run_begins(left: dict[str, int]):
    left["free"] = 99
    assert not Room().allows("a", 0, [("a", 0)])
    assert Room().allows("a", 0, [])


def test_after_a_shortage_fewer_run_until_one_has_come_to_its_end(left: dict[str, int]):
    room = Room()
    three = [("a", 1), ("b", 1), ("a", 1)]
    assert room.allows("a", 0, three)
    room.ran_short(["a", "b", "a", "a"])
    assert not room.allows("a", 0, three)
    assert not room.allows("c", 0, three)
    assert room.allows("a", 0, three[:2])
    assert room.allows("c", 0, [("c", 1)] * 9)
    room.ran_short(["a", "a"])
    assert not room.allows("a", 0, [("a", 1)])
    assert room.allows("b", 0, [("b", 1)])
    assert room.allows("a", 0, [])
    room.ended("b")
    assert not room.allows("a", 0, [("b", 1)])
    room.ended("a")
    assert room.allows("a", 0, three)
