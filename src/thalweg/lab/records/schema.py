"""The tables of a store, and how rows stand in them; `docs/store.md` tells what they mean."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

__all__ = [
    "APPLICATION",
    "TABLES",
    "VERSION",
    "DamageError",
    "insert",
    "lay_out",
    "portable",
    "rows",
]

VERSION = 3
# "thwg", by which the `file` command could tell such a database from others.
APPLICATION = 0x74687767
# The order is that in which rows may refer to others.
TABLES = ("study", "tasks", "sessions", "runs")
_SCHEMA = (
    """
CREATE TABLE study (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    checksum INTEGER NOT NULL
)""",
    """
CREATE TABLE tasks (
    task TEXT PRIMARY KEY,
    facts TEXT NOT NULL,
    identity TEXT NOT NULL,
    checksum INTEGER NOT NULL
)""",
    """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    value TEXT NOT NULL,
    checksum INTEGER NOT NULL
)""",
    """
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
    checksum INTEGER NOT NULL,
    UNIQUE (task, optimizer, trial, seed)
)""",
    """
CREATE VIEW epochs AS
SELECT
    runs.id AS run, task, optimizer, trial, seed,
    at.value AS epoch,
    json_extract(curve, '$.steps[' || at.key || ']') AS steps,
    json_extract(curve, '$.train_loss[' || at.key || ']') AS train_loss,
    json_extract(curve, '$.validation_loss[' || at.key || ']') AS validation_loss,
    json_extract(curve, '$.metric[' || at.key || ']') AS metric,
    json_extract(curve, '$.seconds[' || at.key || ']') AS seconds
FROM runs, json_each(runs.curve, '$.epoch') AS at""",
)
_BARE = re.compile(r'("(?:[^"\\]|\\.)*")|NaN|Infinity')


class DamageError(Exception):
    """A row is not what was written.

    Attributes:
        run: the id of the run it stands for; None if it is none.
    """

    def __init__(self, table: str, row: tuple[Any, ...]) -> None:
        super().__init__(f"a row of the table {table} is not what was written")
        self.run = row[0] if table == "runs" else None


def lay_out(connection: sqlite3.Connection) -> None:
    """Make the tables, in the transaction that is open."""
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute(f"PRAGMA application_id = {APPLICATION}")


def insert(connection: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> None:
    """Put a row into a table, or in place of the one that has its key.

    Args:
        connection: to the file.
        table: one of `TABLES`.
        values: by the names of all columns but the checksum, in the table's order.
    """
    row = [None if value != value else value for value in values.values()]
    places = ", ".join("?" * (len(row) + 1))
    verb = "INSERT" if table == "runs" else "REPLACE"
    connection.execute(
        f"{verb} INTO {table} ({', '.join(values)}, checksum) VALUES ({places})",
        (*row, _checksum(row)),
    )


def rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table as `insert` put them there, the first one first.

    Raises:
        DamageError: a row has changed since.
    """
    for *row, checksum in connection.execute(f"SELECT * FROM {table} ORDER BY rowid"):  # noqa: S608
        if _checksum(row) != checksum:
            raise DamageError(table, tuple(row))
        yield tuple(row)


def portable(text: str) -> str:
    """JSON as SQLite reads it too: infinite numbers as 9e999, and null for NaN."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return _BARE.sub(lambda found: found[1] or ("null" if found[0] == "NaN" else "9e999"), text)


def _checksum(row: list[Any]) -> int:
    # A column of real numbers gives back floats for the integers put into it, and 0 for -0.
    plain = [v + 0.0 if isinstance(v, int | float) else v for v in row]
    return crc32(json.dumps(plain).encode())
