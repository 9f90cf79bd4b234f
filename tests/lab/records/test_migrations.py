"""A study of an earlier format is read, gone on with and extended; its file stays beside it."""

import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg.errors import UsageError
from thalweg.lab.contestant import contestant
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.lab.records import migrations
from thalweg.lab.records.store import Store, read_study
from thalweg.lab.runner.worker import Loaded
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.training import Record

APPLICATION = 0x74687767
FACTS = TaskFacts("digits", "8x8 digits", "accuracy", True, 20, 32, 0.95)
SESSION = {"command": "thalweg compare --lr 0.3", "torch": "2.9"}

# As the versions that wrote them had it:

FORMAT_1 = """
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
PLAN_1 = {
    "task": "digits",
    "optimizers": ["sgd:lr=0.1", "l2 + adam"],
    "convention": "paper",
    "lr": 0.3,
    "epochs": 2,
    "batch_size": "full",
    "seeds": [0, 1, 2],
    "target": 0.9,
    "reshuffle": False,
}
FACTS_1 = {k: v for k, v in vars(FACTS).items() if k not in ("has_test", "parameters")}

FORMAT_2 = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tasks (task TEXT PRIMARY KEY, facts TEXT NOT NULL, identity TEXT NOT NULL);
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
PLAN_2 = Plan(
    (TaskPlan("z", 2, 32), TaskPlan("a", 1, 8)), (contestant("adam", 3),), "torch", 3, (1,)
)


def written(folder: Path, version: int, tables: str, rows: dict[str, list[tuple[object, ...]]]):
    with closing(sqlite3.connect(folder / "results.sqlite")) as c:
        c.execute("PRAGMA journal_mode = WAL")
        c.executescript(tables)
        for table, values in rows.items():
            for row in values:
                c.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        c.execute(f"PRAGMA user_version = {version}")
        c.execute(f"PRAGMA application_id = {APPLICATION}")
        c.commit()


def first(folder: Path) -> Study:
    """A store of format 1, and what is in it."""
    study = {"plan": PLAN_1, "task": FACTS_1, "environment": SESSION}
    settings = '{"lr": 0.1, "x": -Infinity, "y": [0.5, Infinity], "on": true}'
    rows: dict[str, list[tuple[object, ...]]] = {
        "study": [(k, json.dumps(v)) for k, v in study.items()],
        "runs": [
            (4, "sgd:lr=0.1", 1, "finished", "", settings),
            (7, "l2 + adam", 0, "diverged", "was NaN", '{"lr": 0.3}'),
        ],
        "epochs": [(4, 2, 18, 0.4, 0.3, math.inf, 0.25), (4, 1, 9, 0.5, 0.25, 0.125, 0.125)],
    }
    written(folder, 1, FORMAT_1, rows)
    # Its seeds judged what had not been tuned, so that later trials need a seed of their own.
    plan = Plan(
        (TaskPlan("digits", 2, "full", 0.9),),
        (
            contestant("sgd:lr=0.1", 1),
            replace(contestant("l2+adam", 1, lr=0.3), name="l2 + adam"),
        ),
        "paper",
        1,
        (0, 1, 2),
        3,
        0.3,
        False,
    )
    results = (
        Result(
            Run("digits", "sgd:lr=0.1", 0, 1),
            "finished",
            "",
            (Record(1, 9, 0.5, 0.25, 0.125, 0.125), Record(2, 18, 0.4, 0.3, math.inf, 0.25)),
            {"lr": 0.1, "x": -math.inf, "y": (0.5, math.inf), "on": True},
        ),
        Result(Run("digits", "l2 + adam", 0, 0), "diverged", "was NaN", (), {"lr": 0.3}),
    )
    return Study(plan, {"digits": FACTS}, results, (SESSION,))


def second(folder: Path) -> Study:
    """A store of format 2, and what is in it."""
    curve = (
        '{"epoch":[1,2],"steps":[9,18],"train_loss":[0.5,0.4],"validation_loss":[0.25,0.3],'
        '"metric":[0.1,0.2],"seconds":[0.5,0.75]}'
    )
    run = ("adam", 2, 0, "finished", "", '{"lr": Infinity, "of": "NaN"}')
    ends = (0.4, 0.3, 0.2, 0.7, 2.0, 18, 0.75, 8.5, 2**30, 5, curve)
    written(
        folder,
        2,
        FORMAT_2,
        {
            "study": [("plan", PLAN_2.to_json())],
            "tasks": [(t, json.dumps(vars(FACTS)), '{"code": {"t.py": "ab"}}') for t in "za"],
            "sessions": [(2, '{"torch": "2.8"}'), (5, json.dumps(SESSION))],
            "runs": [(3, "z", *run, *ends), (9, "a", *run, *ends)],
        },
    )
    epochs = (Record(1, 9, 0.5, 0.25, 0.1, 0.5), Record(2, 18, 0.4, 0.3, 0.2, 0.75, test=0.7))
    settings = {"lr": math.inf, "of": "NaN"}
    results = tuple(
        Result(Run(t, "adam", 2, 0), "finished", "", epochs, settings, 8.5, 2**30, 1) for t in "za"
    )
    return Study(PLAN_2, {"z": FACTS, "a": FACTS}, results, ({"torch": "2.8"}, SESSION))


EACH = pytest.mark.parametrize(("version", "earlier"), [(1, first), (2, second)])


@EACH
def test_reading_changes_nothing(tmp_path: Path, version: int, earlier):
    study = earlier(tmp_path)
    before = (tmp_path / "results.sqlite").read_bytes()
    assert read_study(tmp_path) == study
    assert (tmp_path / "results.sqlite").read_bytes() == before
    assert not list(tmp_path.glob("results-format*"))


@EACH
def test_going_on_brings_it_up_and_keeps_the_earlier_file(tmp_path: Path, version: int, earlier):
    study = earlier(tmp_path)
    store = Store.open(tmp_path)
    assert store.study() == study
    store.close()
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as c:
        assert c.execute("PRAGMA user_version").fetchone() == (3,)
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert c.execute("PRAGMA foreign_key_check").fetchall() == []
        ids = [n for (n,) in c.execute("SELECT id FROM runs ORDER BY id")]
        assert ids == ([4, 7] if version == 1 else [3, 9])
        assert all(n for (n,) in c.execute("SELECT json_valid(settings) FROM runs"))
    again = Store.open(tmp_path)
    assert again.study() == study
    again.close()
    # The earlier file is a comparison as well.
    kept = tmp_path / f"results-format-{version}.sqlite"
    (tmp_path / "earlier").mkdir()
    kept.rename(tmp_path / "earlier" / "results.sqlite")
    assert read_study(tmp_path / "earlier") == study


@EACH
def test_either_all_of_it_or_nothing(
    tmp_path: Path, version: int, earlier, monkeypatch: pytest.MonkeyPatch
):
    study = earlier(tmp_path)
    insert = migrations.insert

    def failing(connection: sqlite3.Connection, table: str, values: dict[str, object]) -> None:
        if table == "runs":
            raise sqlite3.OperationalError("database or disk is full")
        insert(connection, table, values)

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "insert", failing)
        with pytest.raises(UsageError, match=rf"format {version} to 3, and is as it was:.* full"):
            Store.open(tmp_path)
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as c:
        assert c.execute("PRAGMA user_version").fetchone() == (version,)
        assert c.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    store = Store.open(tmp_path)
    assert store.study() == study
    store.close()


@pytest.mark.parametrize("value", ["{", "{}", "[]"])
def test_damaged_one_is_told(tmp_path: Path, value: str):
    first(tmp_path)
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as c, c:
        c.execute("UPDATE study SET value = ? WHERE key = 'plan'", (value,))
    for attempt in (read_study, Store.open):
        with pytest.raises(UsageError, match=r"results\.sqlite is damaged"):
            attempt(tmp_path)


def test_first_format_is_extended_on_fresh_seeds(tmp_path: Path):
    study = first(tmp_path)
    larger = study.plan.extended(["nag"], trials=4, seeds=4)
    assert larger.seeds == (0, 1, 2, 4)
    assert larger.trials_of("l2 + adam") == 4
    facts = replace(FACTS, has_test=True, parameters=9)
    store = Store.open(tmp_path)
    loaded = {"digits": Loaded("digits", facts, {"code": {"t.py": "ab"}})}
    with pytest.raises(UsageError, match="seed 3 is that of the trials"):
        store.begin(loaded, SESSION, plan=replace(larger, seeds=(0, 1, 2, 3)))
    store.begin(loaded, SESSION, plan=larger)
    now = store.study()
    assert now.plan == larger
    assert now.results == study.results
    # The earlier runs took no metric on test data, so none can be compared by it.
    assert now.tasks == {"digits": FACTS}
    # What the task is, is known from now on.
    changed = {"digits": Loaded("digits", facts, {"code": {"t.py": "cd"}})}
    with pytest.raises(UsageError, match="was ab, is cd"):
        store.begin(changed, SESSION)
    store.close()
