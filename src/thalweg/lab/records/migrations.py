"""What earlier versions of Thalweg stored, as this one would have stored it."""

import json
import math
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from thalweg.lab.contestant import contestant
from thalweg.lab.records.schema import TABLES, VERSION, insert, lay_out, portable

__all__ = ["migrate"]

Tables: TypeAlias = dict[str, list[dict[str, Any]]]


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a database to the current version, all of it or nothing.

    Args:
        connection: to the database.
        version: the one that it has; 1 or more, and below the current one.

    Raises:
        sqlite3.Error, ValueError, KeyError, TypeError: it is damaged, or cannot be written.
    """
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE sql > ''")]
        tables = {name: _content(connection, name) for name in names}
        for step in range(version, VERSION):
            tables = _STEPS[step](tables)
        # What refers to other tables goes before them.
        for name in reversed(names):
            connection.execute(f"DROP TABLE {name}")
        lay_out(connection)
        for table in TABLES:
            for row in tables[table]:
                insert(connection, table, row)


def _content(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    # By their key: epochs have one of two columns.
    cursor = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _from_1(tables: Tables) -> Tables:
    """One task and no trials, environment and task among the study's values, epochs as rows."""
    kept = {row["key"]: json.loads(row["value"]) for row in tables["study"]}
    old = kept["plan"]
    spec = old["task"]
    plan = {
        "tasks": [{"spec": spec} | {k: old[k] for k in ("epochs", "batch_size", "target")}],
        "convention": old["convention"],
        "trials": 1,
        "seeds": old["seeds"],
        "tuning_seed": max(old["seeds"]) + 1,
        "lr": old["lr"],
        "reshuffle": old["reshuffle"],
        # Nothing was searched; more trials would look in the rules' own spaces.
        "contestants": [
            contestant(name, 1, lr=old["lr"]).data() | {"name": name} for name in old["optimizers"]
        ],
    }
    epochs: dict[int, list[dict[str, Any]]] = {}
    for row in tables["epochs"]:
        epochs.setdefault(row.pop("run"), []).append(row)
    return {
        "study": [{"key": "plan", "value": json.dumps(plan)}],
        "tasks": [{"task": spec, "facts": json.dumps(kept["task"]), "identity": "{}"}],
        "sessions": [{"id": 1, "value": json.dumps(kept["environment"])}],
        "runs": [_run(row, spec, epochs.get(row["id"], [])) for row in tables["runs"]],
    }


def _run(row: Mapping[str, Any], task: str, epochs: list[dict[str, Any]]) -> dict[str, Any]:
    last = epochs[-1] if epochs else {"epoch": 0, "steps": 0, "seconds": 0.0}
    names = ("epoch", "steps", "train_loss", "validation_loss", "metric", "seconds")
    curve = {name: [_number(epoch[name]) for epoch in epochs] for name in names}
    return {
        "id": row["id"],
        "task": task,
        "optimizer": row["optimizer"],
        "trial": 0,
        **{name: row[name] for name in ("seed", "status", "reason", "settings")},
        **{name: last.get(name) for name in ("train_loss", "validation_loss", "metric")},
        "test": None,
        "epochs": last["epoch"],
        "steps": last["steps"],
        "seconds": last["seconds"],
        "state_bytes": None,
        "memory": None,
        "session": 1,
        "curve": json.dumps(curve, separators=(",", ":")),
    }


def _number(value: float | None) -> float:
    """SQLite keeps NaN as NULL."""
    return math.nan if value is None else value


def _from_2(tables: Tables) -> Tables:
    """No checksums, and JSON with numbers that SQLite cannot read."""
    return {
        table: [{k: portable(v) if k in _JSON else v for k, v in row.items()} for row in found]
        for table, found in tables.items()
    }


_JSON = ("value", "facts", "identity", "settings", "curve")
_STEPS: Mapping[int, Callable[[Tables], Tables]] = {1: _from_1, 2: _from_2}
