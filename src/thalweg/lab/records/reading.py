"""What is read from a comparison's file: only what is ours, whole, and as it was written."""

import json
import math
import shutil
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.records import schema
from thalweg.lab.records.migrations import migrate
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.rules.declaration import Setting
from thalweg.training import Record

__all__ = [
    "CURVE",
    "FILE",
    "PATIENCE",
    "checked",
    "copy",
    "damaged",
    "located",
    "read_only",
    "read_study",
    "study_in",
    "telling",
]

FILE = "results.sqlite"
# What is kept of every epoch; the order is that of `Record`.
CURVE = ("epoch", "steps", "train_loss", "validation_loss", "metric", "seconds")
# How long to wait, in seconds, for whoever else has the file open.
PATIENCE = 30.0


def read_study(folder: Path) -> Study:
    """Everything that is stored in a folder, which is left as it is and may be in use.

    Raises:
        UsageError: there is no comparison, it has not begun, is damaged, or a later version of
            Thalweg wrote it.
    """
    path = located(folder)
    # A copy holds still, and can be brought to the current version.
    with closing(sqlite3.connect(":memory:")) as copy:
        with telling(path):
            _copy_from_anywhere(path, copy)
            version = checked(copy, path)
            if version < schema.VERSION:
                migrate(copy, version)
        study = study_in(copy, path)
    if missing := [task.spec for task in study.plan.tasks if task.spec not in study.tasks]:
        raise UsageError(
            f"the comparison in {folder} ended before {missing[0]} was loaded: begin it with "
            f"thalweg compare --resume {folder}."
        )
    return study


def located(folder: Path) -> Path:
    """The file of the comparison in a folder.

    Raises:
        UsageError: there is none, or it is empty.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(
            f"there is no comparison in {folder}: {path} was not found. Start one with "
            "thalweg compare --out."
        )
    if not path.stat().st_size:
        raise damaged(path, "it is empty")
    return path


def read_only(path: Path) -> sqlite3.Connection:
    """A connection through which nothing is changed."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=PATIENCE, uri=True)


def copy(path: Path, into: sqlite3.Connection) -> None:
    """Copy a database as it is at one moment, whoever writes to it."""
    with closing(read_only(path)) as c:
        # A backup alone would wait for others for ever.
        c.execute("BEGIN")
        c.execute("SELECT count(*) FROM sqlite_master")
        c.backup(into)


def _copy_from_anywhere(path: Path, into: sqlite3.Connection) -> None:
    try:
        copy(path, into)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        # Where the folder cannot be written, SQLite has no place for what it shares with others.
        with TemporaryDirectory() as place:
            for file in (path, path.with_name(f"{path.name}-wal")):
                if file.exists():
                    shutil.copyfile(file, Path(place, file.name))
            copy(Path(place, path.name), into)


def checked(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a database.

    Raises:
        UsageError: it is another program's, has a format that is not known, or is not whole.
    """
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == schema.APPLICATION
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if not ours:
        raise UsageError(f"{path} is a database of another program.")
    if not 1 <= version <= schema.VERSION:
        raise UsageError(
            f"{path} has format {version}, but this Thalweg reads formats 1 to {schema.VERSION}: "
            "use the version that wrote it (pip install --upgrade thalweg, perhaps), or start anew "
            "with --out."
        )
    damage = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if damage != "ok":
        raise damaged(path, damage)
    return version


@contextmanager
def telling(path: Path) -> Generator[None]:
    """Turn what comes of a damaged file into a UsageError."""
    try:
        yield
    except schema.DamageError as error:
        if error.run is None:
            raise damaged(path, error) from error
        out = f"sqlite3 {path} 'DELETE FROM runs WHERE id = {error.run}'"  # noqa: S608
        raise UsageError(
            f"{path} is damaged: run {error.run} is not what was written. Put the file back from a "
            f"copy, or take that run out, so that --resume makes it again: {out}."
        ) from error
    except (sqlite3.Error, OSError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}. If it is damaged, put it back from a copy, or save "
            "what can be with the sqlite3 tool's .recover."
        ) from error
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, how: str | Exception) -> UsageError:
    """The error that says so."""
    if isinstance(how, KeyError | TypeError):
        how = f"{type(how).__name__}: {how}"
    return UsageError(
        f"{path} is damaged: {how}. Put it back from a copy, or save what can be with the sqlite3 "
        "tool's .recover."
    )


def study_in(c: sqlite3.Connection, path: Path) -> Study:
    """Everything that is stored.

    Args:
        c: to a database of the current format.
        path: of its file.

    Raises:
        UsageError: something in it is damaged.
    """
    with telling(path):
        [(_, plan)] = schema.rows(c, "study")
        facts = {task: json.loads(text) for task, text, _ in schema.rows(c, "tasks")}
        sessions = dict(schema.rows(c, "sessions"))
        places = {number: i for i, number in enumerate(sessions)}
        results = tuple(_result(row, places) for row in schema.rows(c, "runs"))
    stored = Plan.from_json(plan)
    tasks = {t.spec: TaskFacts(**facts[t.spec]) for t in stored.tasks if t.spec in facts}
    return Study(stored, tasks, results, tuple(map(json.loads, sessions.values())))


def _result(row: tuple[Any, ...], places: Mapping[int, int]) -> Result:
    _, task, optimizer, trial, seed, status, reason, settings, *numbers = row
    *_, test, _, _, _, state_bytes, memory, session, curve = numbers
    run = Run(task, optimizer, trial, seed)
    epochs = _records(curve, test)
    place = places[session]
    return Result(run, status, reason, epochs, _settings(settings), state_bytes, memory, place)


def _records(curve: str, test: float | None) -> tuple[Record, ...]:
    columns: dict[str, list[float | None]] = json.loads(curve)
    rows: list[list[Any]] = [
        [math.nan if v is None else v for v in row]
        for row in zip(*(columns[name] for name in CURVE), strict=True)
    ]
    records = [Record(*row) for row in rows]
    if test is not None:
        records[-1] = replace(records[-1], test=test)
    return tuple(records)


def _settings(text: str) -> dict[str, Setting]:
    """Settings as they were stored; JSON has lists for tuples."""
    values: dict[str, Any] = json.loads(text)
    return {
        k: tuple(cast("list[float]", v)) if isinstance(v, list) else math.nan if v is None else v
        for k, v in values.items()
    }
