"""Where results are kept: one SQLite file per comparison, written as runs end."""

import json
import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.rules.rule import Setting
from thalweg.training import Record

__all__ = ["Store", "check_unused"]

_FILE = "results.sqlite"
_VERSION = 1
# "thwg", by which the `file` command could tell such a database from others.
_APPLICATION = 0x74687767
_SCHEMA = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    optimizer TEXT NOT NULL,
    seed INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    settings TEXT NOT NULL,
    UNIQUE (optimizer, seed)
);
CREATE TABLE epochs (
    run INTEGER NOT NULL REFERENCES runs (id),
    epoch INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    train_loss REAL,
    validation_loss REAL,
    metric REAL,
    seconds REAL NOT NULL,
    PRIMARY KEY (run, epoch)
) WITHOUT ROWID;
"""


class Store:
    """The results of one comparison, in a folder of its own.

    The file is readable with the plain `sqlite3` tool: `study` holds the plan, the task's facts
    and the environment as JSON; `runs` one row per ended run; `epochs` their curves.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection = connection
        self.folder = folder

    @classmethod
    def create(
        cls, folder: Path, plan: Plan, task: TaskFacts, environment: Mapping[str, str]
    ) -> "Store":
        """A new store in a folder that is new or empty.

        Raises:
            UsageError: the folder holds something already, or cannot be written.
        """
        check_unused(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            connection = _connected(folder / _FILE)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"the output folder {folder} cannot be made: {error}.") from error
        store = cls(connection, folder)
        with store._connection as c:
            c.executescript(_SCHEMA)
            c.execute(f"PRAGMA user_version = {_VERSION}")
            c.execute(f"PRAGMA application_id = {_APPLICATION}")
            values = {
                "plan": plan.to_json(),
                "task": json.dumps(task.__dict__),
                "environment": json.dumps(dict(environment)),
            }
            c.executemany("INSERT INTO study VALUES (?, ?)", values.items())
        return store

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """The store that an earlier comparison left in a folder.

        Raises:
            UsageError: there is none, it is damaged, or another version of Thalweg wrote it.
        """
        path = folder / _FILE
        if not path.is_file():
            raise UsageError(
                f"there is no comparison in {folder}: {path} was not found. Start one with "
                "thalweg compare --out."
            )
        try:
            # Nothing is changed before it is certain that the file is ours and whole.
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as c:
                ours = c.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
                version = c.execute("PRAGMA user_version").fetchone()[0]
                damage = c.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            raise UsageError(f"{path} cannot be read: {error}.") from error
        if not ours:
            raise UsageError(f"{path} is a database of another program.")
        if damage != "ok":
            raise UsageError(f"{path} is damaged: {damage}.")
        if version != _VERSION:
            raise UsageError(
                f"{path} has format {version}, but this Thalweg reads format {_VERSION}: use the "
                "version that wrote it, or start anew with --out."
            )
        try:
            return cls(_connected(path), folder)
        except sqlite3.Error as error:
            raise UsageError(f"{path} cannot be written: {error}.") from error

    def add(self, result: Result) -> None:
        """Keep one run's result, all of it or nothing.

        Raises:
            UsageError: it cannot be written, or another process has written that run.
        """
        try:
            self._add(result)
        except sqlite3.IntegrityError as error:
            raise UsageError(
                f"{result.run.optimizer}, seed {result.run.seed} is in {self.folder} already: "
                "another process is working on it, and two cannot."
            ) from error
        except sqlite3.Error as error:
            raise UsageError(
                f"{result.run.optimizer}, seed {result.run.seed} could not be kept in "
                f"{self.folder}: {error}. Earlier runs are kept; go on with --resume."
            ) from error

    def _add(self, result: Result) -> None:
        with self._connection as c:
            cursor = c.execute(
                "INSERT INTO runs (optimizer, seed, status, reason, settings) VALUES (?,?,?,?,?)",
                (
                    result.run.optimizer,
                    result.run.seed,
                    result.status,
                    result.reason,
                    json.dumps(dict(result.settings)),
                ),
            )
            c.executemany(
                "INSERT INTO epochs VALUES (?,?,?,?,?,?,?)",
                (
                    (
                        cursor.lastrowid,
                        e.epoch,
                        e.steps,
                        e.train_loss,
                        e.validation_loss,
                        e.metric,
                        e.seconds,
                    )
                    for e in result.epochs
                ),
            )

    def study(self) -> Study:
        """Everything that is stored."""
        c = self._connection
        values = dict(c.execute("SELECT key, value FROM study"))
        epochs: dict[int, list[Record]] = {}
        for run, *numbers in c.execute("SELECT * FROM epochs ORDER BY run, epoch"):
            # SQLite keeps NaN as NULL.
            whole: list[Any] = [math.nan if n is None else n for n in numbers]
            epochs.setdefault(run, []).append(Record(*whole))
        results = tuple(
            Result(
                Run(optimizer, seed),
                status,
                reason,
                tuple(epochs.get(run, ())),
                _settings(settings),
            )
            for run, optimizer, seed, status, reason, settings in c.execute(
                "SELECT id, optimizer, seed, status, reason, settings FROM runs ORDER BY id"
            )
        )
        return Study(
            Plan.from_json(values["plan"]),
            TaskFacts(**json.loads(values["task"])),
            results,
            json.loads(values["environment"]),
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _settings(text: str) -> dict[str, Setting]:
    """Settings as they were stored; JSON has lists for tuples."""
    values: dict[str, Any] = json.loads(text)
    return {
        k: tuple(cast("list[float]", v)) if isinstance(v, list) else v for k, v in values.items()
    }


def check_unused(folder: Path) -> None:
    """See that a folder can become a comparison's.

    Raises:
        UsageError: there is something in it, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the output folder {folder} is a file: choose another with --out.")
    if folder.is_dir() and any(folder.iterdir()):
        resume = (
            f", or go on with what is in it: thalweg compare --resume {folder}"
            if (folder / _FILE).exists()
            else ""
        )
        raise UsageError(
            f"the output folder {folder} is not empty, and nothing in it is overwritten: choose "
            f"another with --out{resume}."
        )


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection
