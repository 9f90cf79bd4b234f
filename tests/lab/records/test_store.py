"""What is stored comes back, whole runs only, and nobody's file is taken for a comparison."""

import errno
import json
import math
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg.errors import UsageError
from thalweg.lab.contestant import Contestant
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.lab.records import reading
from thalweg.lab.records.store import Store, check_unused, read_study
from thalweg.lab.runner.worker import Loaded
from thalweg.lab.space import Choice, Range
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.training import Record

SGD = Contestant(
    "sgd",
    "sgd",
    {"lr": Range(1e-3, 1.0, "log"), "schedule": Choice(("constant", "one-cycle"))},
    ({"schedule": "constant"}, {"lr": 0.1 + 0.2, "schedule": "one-cycle"}),
)
ADAM = Contestant("l2+adam", "l2+adam", {}, ({"lr": 1e-3},))
TASKS = (TaskPlan("t.py:task", 2, "full", 0.9), TaskPlan("dôme", 3, 32, given=True))
PLAN = Plan(TASKS, (SGD, ADAM), "keras", 2, (1, 5), lr=0.3)
FACTS = TaskFacts("dôme", "α to ω", "score", False, 7, 32, None, True, 10)
LOADED = {
    task.spec: Loaded(task.spec, replace(FACTS, name=task.spec), {"code": {"t.py": "ab12"}})
    for task in TASKS
}
SESSION = {"command": "thalweg compare 't.py:task'", "torch": "2.9"}
SETTINGS = {
    "lr": 0.1 + 0.2,
    "lookahead": True,
    "mode": "Infinity, or NaN",
    "limit": math.inf,
    "gammas": (0.0, 0.9, -math.inf),
    "tiny": 5e-324,
}
RESULTS = (
    Result(
        Run("t.py:task", "sgd", 1, 5),
        "finished",
        "",
        (Record(1, 9, 1 / 3, 2 / 3, 0.1, 1e-7), Record(2, 18, 1e300, -0.0, 5e-324, 1.5, test=0.7)),
        SETTINGS,
        state_bytes=8,
        memory=2**40,
    ),
    Result(Run("dôme", "l2+adam", 0, 1), "diverged", "was nan at step 3", (), {"lr": 1e-3}),
    Result(Run("t.py:task", "sgd", 0, 0), "failed", 'it\'s "so";\n--', (), {}),
)
ANOTHER = replace(RESULTS[0], run=Run("dôme", "sgd", 0, 0))


def begun(folder: Path) -> Store:
    store = Store.create(folder, PLAN)
    store.begin(LOADED, SESSION)
    return store


def filled(folder: Path) -> Store:
    store = begun(folder)
    for result in RESULTS:
        store.add(result)
    return store


def file(folder: Path) -> Path:
    return folder / "results.sqlite"


WHOLE = Study(PLAN, {spec: task.task for spec, task in LOADED.items()}, RESULTS, (SESSION,))


def test_study_comes_back_as_it_was(tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    store = filled(folder)
    assert store.study() == WHOLE
    store.close()
    assert read_study(folder) == WHOLE
    again = Store.open(folder)
    assert again.folder == folder
    assert again.study() == WHOLE
    again.close()


def test_each_session_has_its_runs(tmp_path: Path):
    filled(tmp_path).close()
    store = Store.open(tmp_path)
    store.begin(LOADED, {"torch": "3.0"})
    store.add(ANOTHER)
    study = store.study()
    assert study.sessions == (SESSION, {"torch": "3.0"})
    assert study.results == (*RESULTS, replace(ANOTHER, session=1))
    store.close()


def test_closed_store_is_one_plain_file(tmp_path: Path):
    store = filled(tmp_path)
    assert (tmp_path / "results.sqlite-wal").exists()
    store.close()
    store.close()
    assert {p.name for p in tmp_path.iterdir()} - {"lock"} == {"results.sqlite"}
    before = file(tmp_path).read_bytes()
    assert read_study(tmp_path) == WHOLE
    assert {p.name for p in tmp_path.iterdir()} - {"lock"} == {"results.sqlite"}
    assert file(tmp_path).read_bytes() == before


def test_finished_run_is_put_on_the_disk_before_the_next(tmp_path: Path):
    store = begun(tmp_path)
    connection = store._connection
    # In WAL mode, FULL is what survives a power cut: https://sqlite.org/pragma.html#synchronous
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_results_survive_the_death_of_the_process(tmp_path: Path):
    code = (
        "import os, sys; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path; import test_store as t\n"
        "store = t.begun(Path(sys.argv[1]))\n"
        "store.add(t.RESULTS[0]); os._exit(9)"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "o", Path(__file__).parent]
    assert subprocess.run(arguments).returncode == 9
    assert read_study(tmp_path / "o").results == RESULTS[:1]
    store = Store.open(tmp_path / "o")
    store.begin(LOADED, SESSION)
    store.add(ANOTHER)
    assert store.study().results == (RESULTS[0], replace(ANOTHER, session=1))
    store.close()


@pytest.mark.parametrize("field", ["epoch", "steps", "seconds"])
def test_run_is_kept_whole_or_not_at_all(tmp_path: Path, field: str):
    store = filled(tmp_path)
    half = replace(ANOTHER, epochs=(replace(ANOTHER.epochs[0], **{field: None}),))
    with pytest.raises(UsageError, match=r"sgd on dôme, trial 0, seed 0, is in .* or is not whole"):
        store.add(half)
    assert store.study().results == RESULTS
    store.add(ANOTHER)
    assert store.study().results == (*RESULTS, ANOTHER)
    store.close()


def test_run_cannot_be_kept_twice(tmp_path: Path):
    store = filled(tmp_path)
    with pytest.raises(UsageError, match=r"trial 1, seed 5, is in .* already"):
        store.add(replace(RESULTS[0], status="failed", reason="again", epochs=()))
    assert store.study().results == RESULTS
    store.close()


def test_numbers_that_are_not_finite_survive(tmp_path: Path):
    store = begun(tmp_path)
    infinite = Record(1, 1, math.inf, -math.inf, 5e-324, 0.0, test=-math.inf)
    result = replace(ANOTHER, epochs=(infinite,), settings={"a": -math.inf, "b": math.nan})
    store.add(result)
    store.add(replace(RESULTS[0], epochs=(Record(1, 1, math.nan, math.nan, math.nan, 0.0),)))
    first, second = store.study().results
    assert first.epochs == (infinite,)
    assert first.settings["a"] == -math.inf
    values = (
        first.settings["b"],
        *(getattr(second.epochs[0], n) for n in ("train_loss", "metric")),
    )
    assert all(isinstance(v, float) and math.isnan(v) for v in values)
    # Python's own spelling of these numbers is no JSON, and the sqlite3 tool would stop at it.
    with closing(sqlite3.connect(file(tmp_path))) as c:
        valid = c.execute("SELECT json_valid(settings), json_valid(curve) FROM runs").fetchall()
        assert valid == [(1, 1), (1, 1)]
        assert c.execute("SELECT train_loss, metric FROM epochs ORDER BY run").fetchall() == [
            (math.inf, 5e-324),
            (None, None),
        ]
    store.close()


def test_plain_sqlite_reads_it(tmp_path: Path):
    filled(tmp_path).close()
    with closing(sqlite3.connect(f"file:{file(tmp_path)}?mode=ro", uri=True)) as plain:
        study = dict(plain.execute("SELECT key, value FROM study"))
        assert json.loads(study["plan"])["contestants"][0]["name"] == "sgd"
        facts = plain.execute("SELECT facts FROM tasks WHERE task = 'dôme'").fetchone()
        assert json.loads(*facts)["about"] == "α to ω"
        assert json.loads(*plain.execute("SELECT value FROM sessions").fetchone()) == SESSION
        joined = plain.execute(
            "SELECT runs.optimizer, runs.seed, status, runs.test, epoch, at.steps, at.metric "
            "FROM runs LEFT JOIN epochs AS at ON at.run = runs.id ORDER BY runs.id, epoch"
        )
        assert list(joined) == [
            ("sgd", 5, "finished", 0.7, 1, 9, 0.1),
            ("sgd", 5, "finished", 0.7, 2, 18, 5e-324),
            ("l2+adam", 1, "diverged", None, None, None, None),
            ("sgd", 0, "failed", None, None, None, None),
        ]


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the sqlite3 command")
def test_sqlite_command_reads_it(tmp_path: Path):
    filled(tmp_path).close()
    query = "SELECT status FROM runs ORDER BY id"
    said = subprocess.run(
        ["sqlite3", file(tmp_path), query], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["finished", "diverged", "failed"]


# Going on with a study:


def test_changed_task_is_not_mixed_in(tmp_path: Path):
    filled(tmp_path).close()
    facts = replace(FACTS, metric_name="another")
    changed = {**LOADED, "dôme": Loaded("dôme", facts, {"code": {"t.py": "cd34"}})}
    store = Store.open(tmp_path)
    with pytest.raises(UsageError, match=r"dôme: code: t\.py was ab12, is cd34.*--force"):
        store.begin(changed, SESSION)
    assert store.study() == WHOLE
    store.begin(changed, SESSION, force=True)
    study = store.study()
    assert study.sessions[1]["changed in dôme"] == "code: t.py was ab12, is cd34"
    assert [*study.tasks.items()] == [("t.py:task", LOADED["t.py:task"].task), ("dôme", facts)]
    # From now on, that is what it is.
    store.begin(changed, SESSION)
    with pytest.raises(UsageError, match="was cd34, is ab12"):
        store.begin(LOADED, SESSION)
    store.close()


def test_facts_stay_with_the_runs_they_tell_of(tmp_path: Path):
    filled(tmp_path).close()
    store = Store.open(tmp_path)
    told = {s: replace(one, task=replace(one.task, has_test=False)) for s, one in LOADED.items()}
    store.begin(told, SESSION)
    assert store.study().tasks == WHOLE.tasks
    store.close()


def test_larger_plan_takes_the_place_of_a_smaller_one(tmp_path: Path):
    store = filled(tmp_path)
    more = replace(SGD, configurations=(*SGD.configurations, {"lr": 0.5, "schedule": "constant"}))
    radam = Contestant("radam", "radam", {}, ({},))
    larger = replace(PLAN, contestants=(more, ADAM, radam), trials=3, seeds=(1, 5, 2))
    store.begin(LOADED, SESSION, plan=larger)
    assert store.study().plan == larger
    assert store.study().results == RESULTS
    with pytest.raises(UsageError, match="optimizers radam are missing; seeds 2 are missing"):
        store.begin(LOADED, SESSION, plan=PLAN)
    assert store.study().plan == larger
    store.close()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (replace(PLAN, tasks=TASKS[:1]), "tasks was"),
        (replace(PLAN, tasks=(replace(TASKS[0], epochs=3), TASKS[1])), "tasks was"),
        (replace(PLAN, convention="torch"), "convention was keras, is torch"),
        (replace(PLAN, lr=None), "lr was 0.3, is None"),
        (replace(PLAN, reshuffle=False), "reshuffle was True, is False"),
        (replace(PLAN, tuning_seed=7), "tuning_seed was 0, is 7"),
        (replace(PLAN, seeds=(1, 5, 0)), "seed 0 is that of the trials"),
        (replace(PLAN, seeds=(1, 2)), "seeds 5 are missing"),
        (replace(PLAN, contestants=(SGD,)), r"optimizers l2\+adam are missing"),
        (
            replace(PLAN, contestants=(replace(SGD, rule="nag"), ADAM)),
            "rule of sgd is not what it was",
        ),
        (
            replace(PLAN, contestants=(replace(SGD, space={}), ADAM)),
            "space of sgd is not what it was",
        ),
        (
            replace(PLAN, contestants=(replace(SGD, configurations=SGD.configurations[:1]), ADAM)),
            "trials of sgd are missing",
        ),
        (
            replace(
                PLAN, contestants=(replace(SGD, configurations=SGD.configurations[::-1]), ADAM)
            ),
            "trials of sgd are missing or not what they were",
        ),
    ],
)
def test_other_plan_does_not(tmp_path: Path, plan: Plan, said: str):
    store = filled(tmp_path)
    with pytest.raises(UsageError, match=said):
        store.begin(LOADED, SESSION, plan=plan)
    assert store.study() == WHOLE
    store.close()


def test_changed_rule_of_ones_own_needs_force():
    was, now = (replace(ADAM, rule=None, code=code) for code in ("ab", "cd"))
    old, new = (replace(PLAN, contestants=(one,)) for one in (was, now))
    with pytest.raises(UsageError, match=r"code of l2\+adam is not what it was"):
        new.check_extends(old)
    new.check_extends(old, force=True)


# One writer, any number of readers:


def test_second_writer_is_told_who_has_it_and_a_reader_reads(tmp_path: Path):
    store = begun(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from thalweg.lab.records.store import Store, read_study\n"
        "print(len(read_study(Path(sys.argv[1])).results))\n"
        "try: Store.open(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)"
    )
    store.add(RESULTS[0])
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith(f"1\nthe comparison in {tmp_path} is in use (process {os.getpid()} on ")
    assert f"thalweg report {tmp_path}" in said
    store.add(RESULTS[1])
    assert read_study(tmp_path).results == RESULTS[:2]
    store.close()
    Store.open(tmp_path).close()


def test_reader_does_not_hinder_the_writer(tmp_path: Path):
    filled(tmp_path).close()
    with closing(sqlite3.connect(file(tmp_path))) as reader:
        store = Store.open(tmp_path)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (3,)
        store.begin(LOADED, SESSION)
        store.add(ANOTHER)
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (3,)
        store.close()
    assert len(read_study(tmp_path).results) == 4


def test_another_program_that_writes_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    store = begun(tmp_path)
    with closing(sqlite3.connect(file(tmp_path))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UsageError, match=r"database is locked\. Another program has the file"):
            store.add(RESULTS[0])
        other.rollback()
    store.add(RESULTS[0])
    store.close()
    with closing(sqlite3.connect(file(tmp_path))) as other:
        other.execute("BEGIN EXCLUSIVE")
        for attempt in (Store.open, read_study):
            with pytest.raises(UsageError, match="locked"):
                attempt(tmp_path)
    Store.open(tmp_path).close()


# Files that are no comparison, or not whole:


def refused(folder: Path) -> str:
    """Neither going on nor reading gets by without a `UsageError`, and nothing is altered."""
    before = file(folder).read_bytes() if file(folder).exists() else None
    with pytest.raises(UsageError) as caught:
        read_study(folder)

    def opened() -> None:
        with closing(Store.open(folder)) as store:
            store.study()

    with pytest.raises(UsageError) as first:
        opened()
    # While the first error is still held, and all that it refers to.
    with pytest.raises(UsageError) as second:
        opened()
    assert str(second.value) == str(first.value)
    if before is not None:
        assert file(folder).read_bytes() == before
    return str(caught.value)


def test_missing_folder_and_missing_file(tmp_path: Path):
    for folder in (tmp_path / "nowhere", tmp_path):
        said = refused(folder)
        assert f"no comparison in {folder}" in said
        assert str(file(folder)) in said
        assert "thalweg compare --out" in said
    assert list(tmp_path.iterdir()) == []


def test_comparison_that_ended_before_it_began(tmp_path: Path):
    Store.create(tmp_path, PLAN).close()
    with pytest.raises(UsageError, match=r"ended before t\.py:task was loaded.* --resume"):
        read_study(tmp_path)
    store = Store.open(tmp_path)
    store.begin(LOADED, SESSION)
    store.close()
    assert read_study(tmp_path).sessions == (SESSION,)


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 50, b"\0" * 512]
)
def test_file_that_is_no_database(tmp_path: Path, content: bytes):
    file(tmp_path).write_bytes(content)
    assert f"{file(tmp_path)} cannot be read" in refused(tmp_path)


def test_empty_file(tmp_path: Path):
    file(tmp_path).touch()
    assert f"{file(tmp_path)} is damaged: it is empty" in refused(tmp_path)


@pytest.mark.parametrize("version", [0, 4, 99])
def test_file_of_another_version(tmp_path: Path, version: int):
    filled(tmp_path).close()
    with closing(sqlite3.connect(file(tmp_path))) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    said = refused(tmp_path)
    assert f"{file(tmp_path)} has format {version}" in said
    assert "formats 1 to 3" in said


@pytest.mark.parametrize("version", [0, 1, 99])
def test_database_of_another_program(tmp_path: Path, version: int):
    with closing(sqlite3.connect(file(tmp_path))) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
        connection.execute(f"PRAGMA user_version = {version}")
    assert f"{file(tmp_path)} is a database of another program" in refused(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {"lock"} == {"results.sqlite"}


PAGE = 4096


@pytest.mark.parametrize("length", [60, 2 * PAGE, -PAGE])
def test_file_that_was_cut_off(tmp_path: Path, length: int):
    filled(tmp_path).close()
    file(tmp_path).write_bytes(file(tmp_path).read_bytes()[:length])
    assert str(file(tmp_path)) in refused(tmp_path)


@pytest.mark.parametrize("byte", [b"\xff", b"\0"])
def test_file_that_was_overwritten_after_its_head(tmp_path: Path, byte: bytes):
    filled(tmp_path).close()
    content = file(tmp_path).read_bytes()
    assert len(content) >= 3 * PAGE
    file(tmp_path).write_bytes(content[:PAGE] + byte * (len(content) - PAGE))
    assert str(file(tmp_path)) in refused(tmp_path)


def test_damaged_index_is_noticed(tmp_path: Path):
    # By it alone a run is known to be there already.
    filled(tmp_path).close()
    with closing(sqlite3.connect(file(tmp_path))) as c:
        [(page,)] = c.execute(
            "SELECT rootpage FROM sqlite_master WHERE name LIKE '%autoindex_runs%'"
        )
    content = file(tmp_path).read_bytes()
    index = content[(page - 1) * PAGE : page * PAGE]
    assert b"sgd" in index
    file(tmp_path).write_bytes(content.replace(index, index.replace(b"sgd", b"sge")))
    assert "is damaged: row 1 missing from index" in refused(tmp_path)


def test_no_flipped_bit_passes_unnoticed(tmp_path: Path):
    filled(tmp_path).close()
    content = file(tmp_path).read_bytes()
    generator = random.Random(6)
    # What is not empty, which is most of every page, and what is.
    places = [i for i, byte in enumerate(content) if byte]
    places = [*generator.sample(places, 250), *generator.sample(range(len(content)), 50)]
    noticed = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.randrange(8)
        file(tmp_path).write_bytes(flipped)
        try:
            study = read_study(tmp_path)
        except UsageError:
            noticed += 1
        else:
            assert study == WHOLE, place
    assert noticed > 150


def test_damaged_run_can_be_taken_out_and_is_made_again(tmp_path: Path):
    filled(tmp_path).close()
    content = file(tmp_path).read_bytes()
    assert content.count(b'"metric":[0.1,') == 1
    file(tmp_path).write_bytes(content.replace(b'"metric":[0.1,', b'"metric":[0.9,'))
    said = refused(tmp_path)
    assert "run 1 is not what was written" in said
    [statement] = [part for part in said.split("'") if part.startswith("DELETE")]
    with closing(sqlite3.connect(file(tmp_path))) as connection, connection:
        connection.execute(statement)
    study = read_study(tmp_path)
    assert study.results == RESULTS[1:]
    store = Store.open(tmp_path)
    store.begin(LOADED, SESSION)
    store.add(RESULTS[0])
    assert store.study().results == (*RESULTS[1:], replace(RESULTS[0], session=1))
    store.close()


def test_lost_log_leaves_an_earlier_state(tmp_path: Path):
    store = begun(tmp_path / "a")
    runs = [replace(ANOTHER, run=replace(ANOTHER.run, seed=seed)) for seed in range(150)]
    for result in runs:
        store.add(result)
    (tmp_path / "b").mkdir()
    shutil.copy(file(tmp_path / "a"), tmp_path / "b")
    store.close()
    kept = len(read_study(tmp_path / "b").results)
    assert 100 <= kept < 150
    store = Store.open(tmp_path / "b")
    store.begin(LOADED, SESSION)
    store.add(runs[kept])
    assert [r.run for r in store.study().results] == [r.run for r in runs[: kept + 1]]
    store.close()


# Folders that cannot be used:


def test_unused_folder_is_new_or_empty(tmp_path: Path):
    check_unused(tmp_path)
    check_unused(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_start_that_did_not_succeed_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UsageError, match=r"No space left on device.* Make room on the disk"):
            Store.create(tmp_path, PLAN)
    assert not file(tmp_path).exists()
    filled(tmp_path).close()
    assert read_study(tmp_path) == WHOLE


def test_folder_in_use_is_not_written_to(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(UsageError, match="is not empty, and nothing in it is overwritten") as e:
        Store.create(tmp_path, PLAN)
    assert "--resume" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_of_another_comparison_can_be_resumed_but_not_overwritten(tmp_path: Path):
    filled(tmp_path).close()
    with pytest.raises(UsageError, match=f"thalweg compare --resume {tmp_path}"):
        Store.create(tmp_path, PLAN)
    assert read_study(tmp_path) == WHOLE


def test_file_is_no_folder(tmp_path: Path):
    path = tmp_path / "out"
    path.write_text("words")
    with pytest.raises(UsageError, match="is a file: choose another with --out"):
        Store.create(path, PLAN)
    assert path.read_text() == "words"


def test_folder_below_a_file_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("words")
    with pytest.raises(UsageError, match=r"the output folder .* cannot be made"):
        Store.create(tmp_path / "file" / "out", PLAN)


def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own on a folder, for whoever may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "-o", "size=256k")


@pytest.mark.parametrize("closed", [True, False])
def test_read_only_file_system_is_read_and_not_gone_on_with(disk: Path, closed: bool):
    store = filled(disk / "study")
    if closed:
        store.close()
    else:
        # As a process leaves it that was killed.
        shutil.copytree(disk / "study", disk / "killed")
        store.close()
    folder = disk / ("study" if closed else "killed")
    (folder / "results.sqlite-shm").unlink(missing_ok=True)
    assert closed or (folder / "results.sqlite-wal").stat().st_size
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert read_study(folder) == WHOLE
    with pytest.raises(UsageError, match=r"Read-only file system.* Copy the folder"):
        Store.open(folder)
    with pytest.raises(UsageError, match="cannot be made"):
        Store.create(disk / "new", PLAN)


def test_read_only_file_is_read_and_not_gone_on_with(tmp_path: Path):
    filled(tmp_path).close()
    file(tmp_path).chmod(0o400)
    if os.access(file(tmp_path), os.W_OK):
        pytest.skip("this user may write to read-only files")
    assert read_study(tmp_path) == WHOLE
    with pytest.raises(UsageError, match="Make the file and its folder writable"):
        Store.open(tmp_path)


def test_full_disk_ends_it_and_what_was_kept_stays(disk: Path):
    store = filled(disk)
    (disk / "filler").write_bytes(b"0" * 120_000)
    kept = list(RESULTS)

    def until_full() -> None:
        for seed in range(1000):
            result = replace(ANOTHER, run=replace(ANOTHER.run, seed=seed))
            store.add(result)
            kept.append(result)

    with pytest.raises(UsageError, match=r"full\. Make room on the disk\. Earlier runs are kept"):
        until_full()
    assert store.study().results == tuple(kept)
    store.close()
    assert read_study(disk).results == tuple(kept)
    (disk / "filler").unlink()
    again = Store.open(disk)
    again.begin(LOADED, SESSION)
    until_there = replace(ANOTHER, run=replace(ANOTHER.run, seed=1001), session=1)
    again.add(until_there)
    assert again.study().results == (*kept, until_there)
    again.close()


def test_file_that_may_not_grow_ends_it_and_what_was_kept_stays(tmp_path: Path):
    # As a full disk does, where none can be had.
    store = filled(tmp_path)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(ANOTHER, reason="long " * 4000)
    with pytest.raises(UsageError, match=r"full\. Make room on the disk\. Earlier runs are kept"):
        store.add(large)
    assert store.study() == WHOLE
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.add(large)
    assert store.study().results == (*RESULTS, large)
    store.close()


# The documentation:

PAGE_OF_IT = Path(__file__).parents[3] / "docs/store.md"


def test_page_describes_every_column(tmp_path: Path):
    filled(tmp_path).close()
    page = PAGE_OF_IT.read_text(encoding="utf-8")
    with closing(sqlite3.connect(file(tmp_path))) as c:
        names = [n for (n,) in c.execute("SELECT name FROM sqlite_master WHERE sql > ''")]
        assert names == ["study", "tasks", "sessions", "runs", "epochs"]
        for name in names:
            [described] = re.findall(rf"^\| `{name}` \|[^|]*\|(.*)\|$", page, re.MULTILINE)
            columns = [column[1] for column in c.execute(f"PRAGMA table_info({name})")]
            assert re.findall(r"`(\w+)`", re.sub(r" \([^)]*\)", "", described)) == columns
        [version] = re.findall(r"is the format, now (\d+)", page)
        assert c.execute("PRAGMA user_version").fetchone() == (int(version),)


def test_checksum_is_what_the_page_says(tmp_path: Path):
    filled(tmp_path).close()
    with closing(sqlite3.connect(file(tmp_path))) as c:
        for table in ("study", "tasks", "sessions", "runs"):
            for *values, checksum in c.execute(f"SELECT * FROM {table}"):
                plain = [float(v) if isinstance(v, int) else v for v in values]
                assert zlib.crc32(json.dumps(plain).encode()) == checksum
