"""Where results are kept: one SQLite file per comparison, written as runs end."""

import json
import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.lab.worker import Loaded
from thalweg.rules.rule import Setting
from thalweg.training import Record

__all__ = ["Store", "check_unused"]

_FILE = "results.sqlite"
_VERSION = 2
# "thwg", by which the `file` command could tell such a database from others.
_APPLICATION = 0x74687767
_SCHEMA = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tasks (
    task TEXT PRIMARY KEY,
    facts TEXT NOT NULL,
    identity TEXT NOT NULL
);
CREATE TABLE sessions (id INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    optimizer TEXT NOT NULL,
    trial INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    settings TEXT NOT NULL,
    train_loss REAL,
    validation_loss REAL,
    metric REAL,
    test REAL,
    epochs REAL NOT NULL,
    steps INTEGER NOT NULL,
    seconds REAL NOT NULL,
    state_bytes REAL,
    memory INTEGER,
    session INTEGER NOT NULL REFERENCES sessions (id),
    curve TEXT NOT NULL,
    UNIQUE (task, optimizer, trial, seed)
);
"""
# What is kept of every epoch; the order is that of `Record`.
_CURVE = ("epoch", "steps", "train_loss", "validation_loss", "metric", "seconds")


class Store:
    """The results of one comparison, in a folder of its own.

    The file is readable with the plain `sqlite3` tool: `study` holds the plan, the task's facts
    and the environment as JSON; `runs` one row per ended run; `epochs` their curves.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection = connection
        self.folder = folder
        self._session = 0

    @classmethod
    def create(cls, folder: Path, plan: Plan) -> "Store":
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
            c.execute("INSERT INTO study VALUES ('plan', ?)", (plan.to_json(),))
        return store

    def begin(
        self,
        loaded: Mapping[str, Loaded],
        session: Mapping[str, str],
        *,
        plan: Plan | None = None,
        force: bool = False,
    ) -> None:
        """Begin or go on with the study; what `add` keeps from now on belongs to this session.

        Args:
            loaded: the tasks as they are now, by their spec.
            session: what is kept of where and with what the runs are made.
            plan: the plan from now on, where it has become a larger one.
            force: go on though a task is not what it was.

        Raises:
            UsageError: a task's code, model or data are not what they were, or the store cannot be
                written.
        """
        from thalweg.training.identity import differences

        c = self._connection
        rows = c.execute("SELECT task, identity FROM tasks")
        known = {task: json.loads(identity) for task, identity in rows}
        changed = {
            spec: differences(known[spec], task.identity)
            for spec, task in loaded.items()
            if known.get(spec)
        }
        changed = {spec: lines for spec, lines in changed.items() if lines}
        if changed and not force:
            lines = "; ".join(f"{spec}: {', '.join(parts)}" for spec, parts in changed.items())
            raise UsageError(
                f"what the study in {self.folder} trains has changed since: {lines}. Runs of both "
                "would be mixed: put it back, start anew with --out, or go on nevertheless with "
                "--force, which the report then tells."
            )
        notes = {f"changed in {spec}": "; ".join(lines) for spec, lines in changed.items()}
        try:
            with c:
                if plan is not None:
                    c.execute("INSERT OR REPLACE INTO study VALUES ('plan', ?)", (plan.to_json(),))
                c.executemany(
                    "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?)",
                    (
                        (spec, json.dumps(task.task.__dict__), json.dumps(task.identity))
                        for spec, task in loaded.items()
                    ),
                )
                value = json.dumps({**session, **notes})
                self._session = (
                    c.execute("INSERT INTO sessions (value) VALUES (?)", (value,)).lastrowid or 0
                )
        except sqlite3.Error as error:
            raise UsageError(f"the study in {self.folder} cannot be written: {error}.") from error

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
        run, epochs = result.run, result.epochs
        last = epochs[-1] if epochs else None
        curve = {name: [_kept(getattr(e, name)) for e in epochs] for name in _CURVE}
        values = {
            **run.__dict__,
            "status": result.status,
            "reason": result.reason,
            "settings": json.dumps(dict(result.settings)),
            "train_loss": last and last.train_loss,
            "validation_loss": last and last.validation_loss,
            "metric": last and last.metric,
            "test": last and last.test,
            "epochs": last.epoch if last else 0,
            "steps": last.steps if last else 0,
            "seconds": last.seconds if last else 0.0,
            "state_bytes": result.state_bytes,
            "memory": result.memory,
            "session": self._session,
            "curve": json.dumps(curve, separators=(",", ":")),
        }
        with self._connection as c:
            c.execute(
                f"INSERT INTO runs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608
                tuple(values.values()),
            )

    def study(self) -> Study:
        """Everything that is stored."""
        c = self._connection
        [(plan,)] = c.execute("SELECT value FROM study WHERE key = 'plan'")
        tasks = {
            task: TaskFacts(**json.loads(facts))
            for task, facts in c.execute("SELECT task, facts FROM tasks ORDER BY rowid")
        }
        sessions = dict(c.execute("SELECT id, value FROM sessions"))
        places = {number: i for i, number in enumerate(sessions)}
        rows = c.execute(
            "SELECT task, optimizer, trial, seed, status, reason, curve, test, settings, "
            "state_bytes, memory, session FROM runs ORDER BY id"
        )
        results = tuple(
            Result(
                Run(*run),
                status,
                reason,
                _records(curve, test),
                _settings(settings),
                state_bytes,
                memory,
                places[session],
            )
            for *run, status, reason, curve, test, settings, state_bytes, memory, session in rows
        )
        return Study(
            Plan.from_json(plan), tasks, results, tuple(map(json.loads, sessions.values()))
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _kept(value: float) -> float | None:
    """What JSON can hold of a number; what is not finite comes back as NaN."""
    return value if math.isfinite(value) else None


def _records(curve: str, test: float | None) -> tuple[Record, ...]:
    columns: dict[str, list[float | None]] = json.loads(curve)
    rows: list[list[Any]] = [
        [math.nan if v is None else v for v in row]
        for row in zip(*(columns[name] for name in _CURVE), strict=True)
    ]
    records = [Record(*row) for row in rows]
    if test is not None:
        records[-1] = replace(records[-1], test=test)
    return tuple(records)


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
