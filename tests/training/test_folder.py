"""A run's folder: held by one, never overwritten, and every record that counts is in it."""

import errno
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg import UsageError
from thalweg.training import Record
from thalweg.training import folder as module
from thalweg.training.folder import Folder, read_records, read_run

RUN: dict[str, Any] = {"task": "digits", "phases": [{"epochs": 3, "lr": 0.1}], "name": "ä"}


def record(steps: int) -> Record:
    settings = {"lr": 0.1 / steps, "momentum": 0.9}
    return Record(steps / 10, steps, 0.1 + 1 / steps, 1 / 3, 0.9, 1.5 * steps, 1, settings)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder.create(tmp_path / "runs" / "first", RUN) as made:
        yield made


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_what_is_noted_is_read_again(folder: Folder) -> None:
    folder.note(resumed=[1, 2])
    assert folder.run == read_run(folder.path) == {**RUN, "resumed": [1, 2]}
    folder.close()
    with Folder.open(folder.path) as again:
        assert again.run == folder.run
        assert again.snapshots.newest() is None


def test_a_note_that_cannot_be_written_changes_nothing(folder: Folder) -> None:
    with largest_file(20), pytest.raises(UsageError, match=r"run.json could not be written"):
        folder.note(more="x" * 100)
    assert folder.run == read_run(folder.path) == RUN
    assert not list(folder.path.glob(".*"))


def test_an_empty_folder_will_do_and_so_does_what_a_start_left_that_was_killed(
    tmp_path: Path,
) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / ".0123.part").touch()
    with Folder.create(tmp_path, RUN):
        assert not (tmp_path / ".0123.part").exists()


def test_what_is_in_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match="is not empty"):
        Folder.create(tmp_path, RUN)
    with pytest.raises(UsageError, match="is a file"):
        Folder.create(tmp_path / "thesis.tex", RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_not_overwritten_and_how_to_go_on_is_said(folder: Folder) -> None:
    folder.close()
    with pytest.raises(UsageError, match=rf"resume=True \(thalweg train --resume {folder.path}"):
        Folder.create(folder.path, {"task": "another"})
    assert read_run(folder.path) == RUN


def test_a_folder_without_a_run_cannot_be_resumed_and_is_left_as_it_is(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="there is no run in"):
            Folder.open(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b'{"format": 1, "ta', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[1]", "has format None"),
        (b'{"format": 2}', "has format 2, but this Thalweg reads format 1"),
    ],
)
def test_a_damaged_run_is_named_and_not_held(folder: Folder, content: bytes, message: str) -> None:
    folder.close()
    file = folder.path / "run.json"
    whole = file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"{file} {message}"):
        Folder.open(folder.path)
    file.write_bytes(whole)
    Folder.open(folder.path).close()


def test_a_folder_in_use_is_refused_until_it_is_closed(folder: Folder) -> None:
    holder = f"in use by a live run .process {os.getpid()} on {socket.gethostname()}"
    for _ in range(2):
        with pytest.raises(UsageError, match=holder):
            Folder.open(folder.path)
    folder.close()
    Folder.open(folder.path).close()


def test_two_that_start_at_once_do_not_share_a_folder(folder: Folder) -> None:
    # As it is between the making of the folder and of run.json.
    (folder.path / "run.json").unlink()
    with pytest.raises(UsageError, match="in use by a live run"):
        Folder.create(folder.path, RUN)


def test_a_run_that_ends_while_another_starts_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = module._locked  # pyright: ignore[reportPrivateUsage]

    def late(path: Path) -> object:
        monkeypatch.setattr(module, "_locked", locked)
        Folder.create(path, RUN).close()
        return locked(path)

    monkeypatch.setattr(module, "_locked", late)
    with pytest.raises(UsageError, match="holds a run already"):
        Folder.create(tmp_path, {"task": "another"})
    assert read_run(tmp_path) == RUN


def test_a_folder_that_could_not_be_made_or_opened_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The errors are kept, and with them all that their frames refer to.
    with largest_file(20), pytest.raises(UsageError) as first:
        Folder.create(tmp_path, RUN)
    Folder.create(tmp_path, RUN).close()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", fail)
        with pytest.raises(UsageError) as second:
            Folder.open(tmp_path)
    Folder.open(tmp_path).close()
    assert first.tb
    assert second.tb


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_another_process_holds_it_until_it_dies(folder: Folder) -> None:
    folder.close()
    code = (
        "import sys, time; from pathlib import Path; from thalweg.training.folder import Folder\n"
        "held = Folder.open(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"live run .process {other.pid} on"):
            Folder.open(folder.path)
        other.send_signal(signal.SIGKILL)
        other.wait()
        Folder.open(folder.path).close()


def test_without_filelock_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(UsageError, match="pip install"):
        Folder.create(tmp_path, RUN)


def test_records_come_back_to_the_last_bit(folder: Folder) -> None:
    records = [
        record(3),
        replace(record(6), train_loss=math.inf, metric=-math.inf, settings={"lr": math.inf}),
        replace(record(9), test=0.91, test_tta=0.92),
    ]
    for r in records:
        folder.append(r)
    found = read_records(folder.path)
    assert found == records
    assert [r.settings for r in found] == [r.settings for r in records]
    assert (found[0].test, found[2].test_tta) == (None, 0.92)
    folder.append(replace(record(12), validation_loss=math.nan))
    assert math.isnan(read_records(folder.path)[3].validation_loss)


def test_records_are_json_for_every_reader(folder: Folder) -> None:
    folder.append(replace(record(3), train_loss=math.nan))

    def refuse(name: str) -> None:
        raise AssertionError(name)

    line = json.loads((folder.path / "records.jsonl").read_text(), parse_constant=refuse)
    assert line["steps"] == 3
    assert line["settings"]["momentum"] == 0.9


def test_records_beyond_the_snapshot_are_cut_off(folder: Folder) -> None:
    assert folder.cut(0) == []
    for steps in (3, 6, 9):
        folder.append(record(steps))
    assert folder.cut(6) == read_records(folder.path) == [record(3), record(6)]
    folder.append(record(9))
    assert read_records(folder.path) == [record(3), record(6), record(9)]


@pytest.mark.parametrize("kept", [0, 1, 30, -1])
def test_a_torn_last_line_is_dropped(folder: Folder, kept: int) -> None:
    file = folder.path / "records.jsonl"
    folder.append(record(3))
    first = file.read_bytes()
    folder.append(record(6))
    file.write_bytes(first + file.read_bytes()[len(first) :][:kept])
    # All but the line's end is the whole record.
    whole = [record(3), record(6)] if kept == -1 else [record(3)]
    assert folder.cut(6) == whole
    folder.append(record(9))
    assert read_records(folder.path) == [*whole, record(9)]


def test_a_line_that_is_damaged_otherwise_is_named_and_nothing_is_cut(folder: Folder) -> None:
    file = folder.path / "records.jsonl"
    for steps in (3, 6, 9):
        folder.append(record(steps))
    damaged = file.read_bytes().replace(b'"steps": 6', b'"steps" 6')
    file.write_bytes(damaged)
    with pytest.raises(UsageError, match="is damaged in line 2"):
        folder.cut(3)
    assert file.read_bytes() == damaged


def test_a_record_that_does_not_fit_leaves_the_earlier_ones(folder: Folder) -> None:
    folder.append(record(3))
    before = (folder.path / "records.jsonl").read_bytes()
    folder.snapshots.save(3, {})
    with (
        largest_file(len(before) + 40),
        pytest.raises(UsageError, match=r"record of step 6 could not be written.*is intact"),
    ):
        folder.append(record(6))
    assert (folder.path / "records.jsonl").read_bytes() == before


def test_records_are_cut_all_at_once_or_not(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (3, 6, 9):
        folder.append(record(steps))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match="the disk is full"):
        folder.cut(3)
    assert [r.steps for r in read_records(folder.path)] == [3, 6, 9]


def test_the_model_is_written_whole_or_not(folder: Folder) -> None:
    weights = torch.nn.Linear(30, 30).state_dict()
    path = folder.save_model(weights)
    assert path == folder.path / "model.pt"
    with largest_file(2000), pytest.raises(UsageError, match=r"model.pt could not be written"):
        folder.save_model({"weight": torch.zeros(10_000)})
    loaded = torch.load(path, weights_only=True)
    assert loaded.keys() == weights.keys()
    assert all(loaded[name].equal(weights[name]) for name in weights)


@pytest.fixture
def read_only(folder: Folder) -> Iterator[Path]:
    """The folder of a run on a disk that cannot be written."""
    folder.close()
    bind = ["mount", "--bind", str(folder.path), str(folder.path)]
    if sys.platform != "linux" or subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("only root may mount a disk, and not everywhere")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder.path)], check=True)
    yield folder.path
    subprocess.run(["umount", str(folder.path)], check=True)


def test_a_run_that_cannot_be_written_is_not_resumed(read_only: Path) -> None:
    with pytest.raises(UsageError, match=f"could not be written to {read_only}: .*read-only"):
        Folder.open(read_only)
    assert read_run(read_only) == RUN


def test_a_run_is_not_started_where_it_cannot_be_written(read_only: Path) -> None:
    with pytest.raises(UsageError, match=r"read-only .*Choose another folder"):
        Folder.create(read_only / "new", RUN)
