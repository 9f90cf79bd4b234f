"""The folder of a run: held by one process at a time, and nothing in it is lost."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from thalweg.errors import UsageError
from thalweg.training.holding import LOCK, HeldError, held
from thalweg.training.part import Part, clear, failing
from thalweg.training.records import Record
from thalweg.training.snapshots import Snapshots, check_plain

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Folder", "read_records", "read_run"]

_RUN, _RECORDS, _MODEL, _SNAPSHOTS = "run.json", "records.jsonl", "model.pt", "snapshots"
_FORMAT = 1


class Folder:
    """A run's folder, held until it is closed or the process ends, however it ends.

    Attributes:
        path: where it is.
        run: what `run.json` holds: plain JSON data.
        snapshots: the run's.
    """

    def __init__(self, path: Path, run: dict[str, Any], lock: "BaseFileLock") -> None:
        self.path = path
        self.run = run
        self.snapshots = Snapshots(path / _SNAPSHOTS)
        self._lock = lock

    @classmethod
    def create(cls, path: Path, run: Mapping[str, Any]) -> "Folder":
        """The folder of a new run, in a place that is new or empty.

        Args:
            path: where.
            run: what is to be in `run.json`.

        Raises:
            UsageError: something is there already, a live run holds it, or it cannot be written.
        """
        with failing("a run", path, lambda: "Choose another folder."):
            _check_unused(path)
            path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        try:
            # Another run may have begun and ended in between.
            _check_unused(path)
            folder = cls(path, {}, lock)
            with failing("a run", path, lambda: "Choose another folder."):
                clear(path)
                folder.snapshots.folder.mkdir(exist_ok=True)
            # This file makes it the folder of a run, so it comes last.
            folder.note(**run)
        except BaseException:
            lock.release()
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> "Folder":
        """The folder of a run that is to go on.

        Raises:
            UsageError: there is no run, a live one holds it, it was written by another version
                of Thalweg, is damaged, or cannot be written.
        """
        read_run(path)
        lock = _locked(path)
        try:
            with failing("the run", path, lambda: "Make it writable to go on."):
                clear(path)
            return cls(path, read_run(path), lock)
        except BaseException:
            lock.release()
            raise

    def note(self, **entries: Any) -> None:
        """Set entries of `run`, and put it on the disk.

        Raises:
            UsageError: it cannot be written; the file is as it was.
        """
        run = {**self.run, **entries}
        text = json.dumps({"format": _FORMAT, **run}, indent=1, ensure_ascii=False)
        self._replace(_RUN, text.encode())
        self.run = run

    def append(self, record: Record) -> None:
        """Write one more record.

        Raises:
            UsageError: it cannot be written; the earlier ones are as they were.
        """
        line = _line(record)
        with (
            failing(f"the record of step {record.steps}", self.path, self.snapshots.earlier),
            (self.path / _RECORDS).open("ab", buffering=0) as file,
        ):
            end = file.seek(0, os.SEEK_END)
            try:
                # A file that is not buffered may take less than it is given.
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(end)
                raise

    def cut(self, steps: int) -> list[Record]:
        """The records of the first so many steps; what comes after them is removed for good.

        That is what the run did after the snapshot that it now goes on from, and will do again.

        Raises:
            UsageError: a record is damaged, or the file cannot be written.
        """
        path = self.path / _RECORDS
        kept = [record for record in read_records(self.path) if record.steps <= steps]
        content = b"".join(map(_line, kept))
        if path.exists() and path.read_bytes() != content:
            self._replace(_RECORDS, content)
        return kept

    def save_model(self, state: Mapping[str, Any]) -> Path:
        """Write the final weights, a `state_dict`, to `model.pt`.

        Raises:
            UsageError: it cannot be written; an earlier file is as it was.
        """
        import torch

        check_plain(state)
        with failing(_MODEL, self.path, self.snapshots.earlier), Part(self.path) as part:
            torch.save(dict(state), part)  # pyright: ignore[reportArgumentType]
            return part.become(_MODEL)

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.release()

    def __enter__(self) -> "Folder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _replace(self, name: str, content: bytes) -> None:
        with failing(name, self.path, self.snapshots.earlier), Part(self.path) as part:
            part.write(content)
            part.become(name)


def read_run(path: Path) -> dict[str, Any]:
    """What `run.json` holds, without its format.

    Args:
        path: a run's folder, which may be in use.

    Raises:
        UsageError: there is none, it is damaged, or another version of Thalweg wrote it.
    """
    file = path / _RUN
    if not file.is_file():
        raise UsageError(
            f"there is no run in {path}: {file} was not found. Start one there with "
            f"out={str(path)!r} and without resume (thalweg train --out {path})."
        )
    try:
        run = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(
            f"{file} is damaged: {error}. Put it back from a copy, or start anew in another folder."
        ) from error
    found = cast("dict[str, Any]", run).pop("format", None) if isinstance(run, dict) else None
    if found != _FORMAT:
        raise UsageError(
            f"{file} has format {found}, but this Thalweg reads format {_FORMAT}: use the "
            "version that wrote it, or start anew in another folder."
        )
    return cast("dict[str, Any]", run)


def read_records(path: Path) -> list[Record]:
    """The records of a run, the first one first; a last line that is torn is left out.

    Args:
        path: a run's folder, which may be in use.

    Raises:
        UsageError: another line is damaged, or the file cannot be read.
    """
    file = path / _RECORDS
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            if number == len(lines):
                break
            raise UsageError(
                f"{file} is damaged in line {number}: {error}. Mend or delete that line."
            ) from error
    return records


def _line(record: Record) -> bytes:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    values["settings"] = {k: _text(v) for k, v in record.settings.items()}
    kept = {k: _text(v) for k, v in values.items() if v is not None}
    return json.dumps(kept, allow_nan=False).encode() + b"\n"


def _record(line: bytes) -> Record:
    values: dict[str, Any] = json.loads(line)
    settings: dict[str, Any] = values.pop("settings")
    numbers = {k: _number(v) for k, v in values.items()}
    return Record(**numbers, settings={k: _number(v) for k, v in settings.items()})


def _text(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as strings."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _check_unused(path: Path) -> None:
    """See that a folder can become a run's; what a start that did not succeed left is nothing."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"out is {str(path)!r}, which is a file: choose a folder.")
    if (path / _RUN).exists():
        raise UsageError(
            f"the folder {path} holds a run already, and nothing in it is overwritten: go on with "
            f"it by resume=True (thalweg train --resume {path}), or choose another folder."
        )
    if path.is_dir() and any(not _left_by_a_start(p) for p in path.iterdir()):
        raise UsageError(
            f"the folder {path} is not empty, and nothing in it is overwritten: choose another, or "
            f"one inside it, such as {path / 'run'}."
        )


def _left_by_a_start(path: Path) -> bool:
    if path.name == _SNAPSHOTS and path.is_dir():
        return not any(path.iterdir())
    return path.name == LOCK or (path.name[0] == "." and path.suffix == ".part")


def _locked(path: Path) -> "BaseFileLock":
    with failing("a run", path, lambda: "Make it writable, or choose another folder."):
        try:
            return held(path)
        except HeldError as error:
            raise UsageError(
                f"the folder {path} is in use by a live run ({error}): wait until it has ended or "
                "end it, or choose another folder."
            ) from error
