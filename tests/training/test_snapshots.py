"""Whatever happens to a snapshot, there is a whole one to go on from, or an error that says why."""

import errno
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from thalweg import UsageError
from thalweg.training.snapshots import Snapshots

BIG = 200_000


def state(step: int, size: int = 2000) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((size,), float(step)), "order": torch.arange(7)}


def whole(found: Mapping[str, Any]) -> int:
    """The step of a state, once it is certain that all of it is of that step."""
    assert (found["weights"] == found["step"]).all()
    assert found["order"].tolist() == list(range(7))
    return found["step"]


def newest(snapshots: Snapshots) -> int:
    found = snapshots.newest()
    assert found is not None
    return whole(found[0])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path)


@pytest.fixture
def two(snapshots: Snapshots) -> tuple[Snapshots, Path, Path]:
    return snapshots, snapshots.save(10, state(10)), snapshots.save(20, state(20))


def test_there_is_none_before_the_first(snapshots: Snapshots) -> None:
    assert snapshots.newest() is None


def test_the_name_is_the_step_and_the_start_of_the_sum(snapshots: Snapshots) -> None:
    path = snapshots.save(123, state(123))
    assert path.name == f"00000123-{sha256(path.read_bytes()).hexdigest()[:16]}.pt"


def test_all_that_may_be_in_a_state_comes_back_as_it_was(snapshots: Snapshots) -> None:
    saved = {
        "tensors": [torch.randn(3), torch.ones(2, dtype=torch.bfloat16), torch.get_rng_state()],
        "parameter": nn.Parameter(torch.ones(2)),
        "plain": [True, 2**70, -1, 0.1, 1j, float("inf"), "µ", b"\xff\0", None, (1, (2,))],
        "torch": (torch.float16, torch.device("cpu"), torch.Size([1, 2])),
        "random": random.getstate(),
        "ordered": OrderedDict(b=1, a=2),
        3: "a number as a key",
    }
    snapshots.save(0, saved)  # pyright: ignore
    found = snapshots.newest()
    assert found is not None
    loaded: dict[Any, Any] = found[0]
    for a, b in zip(saved.pop("tensors"), loaded.pop("tensors"), strict=True):  # pyright: ignore
        assert a.dtype == b.dtype  # pyright: ignore
        assert a.equal(b)  # pyright: ignore
    assert saved.pop("parameter").equal(loaded.pop("parameter"))  # pyright: ignore
    assert loaded == saved


@pytest.mark.parametrize("value", [{1}, object(), range(3), torch.float32.__class__, sha256])
def test_what_could_not_be_loaded_again_is_not_saved(snapshots: Snapshots, value: object) -> None:
    with pytest.raises(UsageError, match=re.escape("state['a'][1]['b'] is of the type")):
        snapshots.save(1, {"a": [0, {"b": value}]})
    assert names(snapshots.folder) == []


def test_the_last_two_are_kept(snapshots: Snapshots) -> None:
    paths = [snapshots.save(step, state(step)) for step in (8, 9, 10, 100_000_000, 100_000_001)]
    assert sorted(snapshots.folder.iterdir()) == sorted(paths[-2:])
    assert newest(snapshots) == 100_000_001


def test_two_of_one_step_are_told_apart_by_their_time(snapshots: Snapshots) -> None:
    first = snapshots.save(7, state(7))
    second = snapshots.save(7, {**state(7), "later": True})
    for older, newer in ((first, second), (second, first)):
        os.utime(older, ns=(1, 1))
        os.utime(newer, ns=(2, 2))
        found = snapshots.newest()
        assert found is not None
        assert found[1] == newer


def test_what_was_saved_last_is_the_newest_though_its_step_is_earlier(
    two: tuple[Snapshots, Path, Path],
) -> None:
    snapshots, first, _ = two
    last = snapshots.save(15, state(15))
    assert sorted(snapshots.folder.iterdir()) == [first, last]


def test_what_a_dead_writer_left_is_removed(snapshots: Snapshots) -> None:
    (snapshots.folder / ".0123456789abcdef.part").write_bytes(b"x" * 1000)
    path = snapshots.save(1, state(1))
    assert names(snapshots.folder) == [path.name]


@pytest.mark.parametrize("share", range(20))
def test_one_that_is_cut_off_is_named_and_the_one_before_is_used(
    two: tuple[Snapshots, Path, Path], share: int
) -> None:
    snapshots, _, last = two
    os.truncate(last, last.stat().st_size * share // 20)
    with pytest.warns(UserWarning, match=f"{last.name}: truncated or altered"):
        assert newest(snapshots) == 10


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_found(two: tuple[Snapshots, Path, Path], seed: int) -> None:
    snapshots, _, last = two
    generator = random.Random(seed)
    content = bytearray(last.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    last.write_bytes(content)
    with pytest.warns(UserWarning, match=last.name):
        assert newest(snapshots) == 10


def test_once_it_goes_on_the_damaged_one_is_removed_and_the_whole_ones_stay(
    two: tuple[Snapshots, Path, Path],
) -> None:
    snapshots, first, last = two
    os.truncate(last, 100)
    with pytest.warns(UserWarning, match=last.name):
        snapshots.newest()
    again = snapshots.save(20, {**state(20), "again": True})
    assert sorted(snapshots.folder.iterdir()) == sorted([first, again])


def test_where_all_are_damaged_all_are_named(two: tuple[Snapshots, Path, Path]) -> None:
    snapshots, first, last = two
    os.truncate(first, 0)
    os.truncate(last, 10)
    before = names(snapshots.folder)
    with pytest.raises(UsageError, match=r"can be used") as caught:
        snapshots.newest()
    assert first.name in str(caught.value)
    assert last.name in str(caught.value)
    assert names(snapshots.folder) == before


class Executed:
    """What runs a command once it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._path}",)


def foreign(folder: Path, kind: str, trap: Path) -> None:
    """A file that is called as a snapshot is, with the right sum, and is none."""
    file = folder / "made"
    others: dict[str, object] = {
        "weights": nn.Linear(2, 2).state_dict(),
        "list": [1, 2],
        "code": Executed(trap),
        "code in a snapshot": {"mark": "thalweg snapshot", "format": 1, "state": Executed(trap)},
        "newer": {"mark": "thalweg snapshot", "format": 2, "step": 30, "state": {}},
        "renamed": {"mark": "thalweg snapshot", "format": 1, "step": 29, "state": {}},
    }
    if kind in others:
        torch.save(others[kind], file)
    else:
        pickled = pickle.dumps(Executed(trap), 2)
        file.write_bytes({"text": b"hello", "empty": b"", "pickle": pickled}[kind])
    digest = sha256(file.read_bytes()).hexdigest()[:16]
    file.rename(folder / f"00000030-{digest}.pt")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("weights", "written by another program"),
        ("list", "written by another program"),
        ("text", "torch does not load it"),
        ("empty", "torch does not load it"),
        ("pickle", "torch does not load it .*[Ww]eights"),
        ("code", "torch does not load it .*[Ww]eights"),
        ("code in a snapshot", "torch does not load it .*[Ww]eights"),
        ("newer", "its format is 2"),
        ("renamed", "holds step 29"),
    ],
)
def test_a_file_of_others_is_neither_used_nor_run(
    two: tuple[Snapshots, Path, Path], tmp_path: Path, kind: str, reason: str
) -> None:
    trap = tmp_path.parent / f"{tmp_path.name}-trap"
    foreign(tmp_path, kind, trap)
    with pytest.warns(UserWarning, match=rf"00000030-.*: {reason}"):
        assert newest(two[0]) == 20
    assert not trap.exists()


def test_the_trap_above_would_be_sprung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Executed(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


def test_a_file_of_another_name_is_named_and_left_alone(
    two: tuple[Snapshots, Path, Path],
) -> None:
    snapshots, _, last = two
    own = snapshots.folder / "best.pt"
    shutil.copy(last, own)
    with pytest.warns(UserWarning, match="best.pt: not called as a snapshot is"):
        assert newest(snapshots) == 20
    snapshots.save(30, state(30))
    snapshots.save(40, state(40))
    assert own.exists()


def refused(snapshots: Snapshots, reason: str, size: int = 2000) -> None:
    """A save fails for this reason, says what is left, and leaves it."""
    before = names(snapshots.folder)
    with pytest.raises(UsageError, match=reason) as caught:
        snapshots.save(30, state(30, size))
    message = str(caught.value)
    assert "the snapshot of step 30 could not be written" in message
    assert f"{snapshots.folder / before[-1]} is intact" in message
    assert names(snapshots.folder) == before
    assert newest(snapshots) == 20


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "the disk failed"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not write"),
    ],
)
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_an_error_of_the_disk_is_told_and_the_earlier_ones_stay(
    two: tuple[Snapshots, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    reason: str,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(call, fail)
    refused(two[0], reason)


def test_an_error_in_the_middle_of_a_file_is_told(two: tuple[Snapshots, Path, Path]) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limit[1]))
    try:
        refused(two[0], "File too large", size=10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_an_interruption_while_saving_leaves_nothing_behind(
    two: tuple[Snapshots, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bytes] = []

    class Interrupted:
        def update(self, data: bytes) -> None:
            calls.append(data)
            if len(calls) == 3:
                raise KeyboardInterrupt

        def hexdigest(self) -> str:
            return "0" * 64

    before = names(two[0].folder)
    monkeypatch.setattr("thalweg.training.part.sha256", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        two[0].save(30, state(30))
    assert names(two[0].folder) == before


def test_a_folder_that_was_deleted_is_told(two: tuple[Snapshots, Path, Path]) -> None:
    snapshots, *_ = two
    shutil.rmtree(snapshots.folder)
    with pytest.raises(UsageError, match=r"not there any more.*There is no earlier snapshot"):
        snapshots.save(30, state(30))
    with pytest.raises(UsageError, match="does not exist"):
        snapshots.newest()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a disk, and not everywhere")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_earlier_snapshots_and_room_is_enough_to_go_on(disk: Path) -> None:
    snapshots = Snapshots(disk)
    snapshots.save(10, state(10))
    snapshots.save(20, state(20))
    refused(snapshots, "the disk is full", size=BIG * 2)
    # Nearly full, so that the last block fails.
    (disk / ".filler").write_bytes(b"x" * (2**20 - 300_000))
    refused(snapshots, "the disk is full", size=BIG)
    (disk / ".filler").unlink()
    snapshots.save(30, state(30, BIG))
    assert newest(snapshots) == 30


def test_a_disk_that_is_read_only_is_told(disk: Path) -> None:
    snapshots = Snapshots(disk)
    snapshots.save(10, state(10))
    snapshots.save(20, state(20))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused(snapshots, "the folder is read-only")


KILLED = f"""
import os, random, signal, sys, time
from pathlib import Path
import torch
from thalweg.training.snapshots import Snapshots

folder = Path(sys.argv[1])

def writer(acknowledged, first, dies_at):
    seen = 0
    def hook(event, _):
        nonlocal seen
        if event in ("open", "os.rename", "os.remove"):
            seen += 1
            if seen == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    for step in range(first, first + 1000):
        state = {{"step": step, "weights": torch.full(({BIG},), float(step))}}
        Snapshots(folder).save(step, state)
        os.write(acknowledged, step.to_bytes(4, "big"))

def life(first, seconds, dies_at):
    "The step that the next life goes on from."
    reader, acknowledged = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writer(acknowledged, first, dies_at)
        finally:
            os._exit(1)
    os.close(acknowledged)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    told = os.read(reader, 100_000)
    os.close(reader)
    last = int.from_bytes(told[-4:], "big") if told else first - 1
    state, _ = Snapshots(folder).newest()
    assert state["step"] in (last, last + 1), (state["step"], last)
    assert (state["weights"] == state["step"]).all()
    global inside
    inside += any(p.suffix == ".part" for p in folder.iterdir())
    return state["step"] + 1

inside = 0
Snapshots(folder).save(1, {{"step": 1, "weights": torch.ones({BIG})}})
step = 2
draw = random.Random(0)
for _ in range(40):
    step = life(step, draw.uniform(0.005, 0.05), None)
for event in range(1, 21):
    step = life(step, None, event)
assert inside > 5, inside
print("whole", len(list(folder.glob("*.pt"))))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_there_is_a_whole_snapshot_and_none_is_lost(tmp_path: Path) -> None:
    # One process imports torch and forks the writers, so that sixty of them take little time.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", KILLED]
    done = subprocess.run(
        [*command, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "whole"
