"""What is stored comes back, whole runs only, and nobody's file is taken for a comparison."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.lab.report import write_report
from thalweg.lab.store import Store, check_unused
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.training import Record

PLAN = Plan("t.py:task", ("sgd:lr=0.1", "l2+adam"), "keras", 0.3, 2, "full", (0, 5), 0.9)
FACTS = TaskFacts("dôme", "α to ω", "score", False, 7, 32, None)
ENVIRONMENT = {"command": "thalweg compare 't.py:task'", "torch": "2.9"}
SETTINGS = {"lr": 0.1 + 0.2, "lookahead": True, "mode": "a", "limit": math.inf, "tiny": 5e-324}
RESULTS = (
    Result(
        Run("sgd:lr=0.1", 5),
        "finished",
        "",
        (Record(1, 9, 1 / 3, 2 / 3, 0.1, 1e-7), Record(2, 18, 1e300, -0.0, 5e-324, 1.5)),
        SETTINGS,
    ),
    Result(Run("l2+adam", 0), "diverged", "was nan at step 3", (), {"lr": 1e-3}),
    Result(Run("sgd:lr=0.1", 0), "failed", 'it\'s "so";\n--', (), {}),
)


def filled(folder: Path) -> Store:
    store = Store.create(folder, PLAN, FACTS, ENVIRONMENT)
    for result in RESULTS:
        store.add(result)
    return store


def test_study_comes_back_as_it_was(tmp_path: Path):
    store = filled(tmp_path / "new" / "folder")
    whole = Study(PLAN, FACTS, RESULTS, ENVIRONMENT)
    assert store.study() == whole
    store.close()
    again = Store.open(tmp_path / "new" / "folder")
    assert again.folder == tmp_path / "new" / "folder"
    assert again.study() == whole
    again.close()


def test_results_come_back_while_the_file_is_open_elsewhere(tmp_path: Path):
    writer = Store.create(tmp_path, PLAN, FACTS, {})
    reader = Store.open(tmp_path)
    writer.add(RESULTS[0])
    assert reader.study().results == RESULTS[:1]
    writer.add(RESULTS[1])
    assert reader.study().results == RESULTS[:2]
    reader.close()
    writer.close()


def test_results_survive_the_death_of_the_process(tmp_path: Path):
    code = (
        "import os, sys; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path; import test_store as t\n"
        "store = t.Store.create(Path(sys.argv[1]), t.PLAN, t.FACTS, {})\n"
        "store.add(t.RESULTS[0]); os._exit(9)"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "o", Path(__file__).parent]
    assert subprocess.run(arguments).returncode == 9
    store = Store.open(tmp_path / "o")
    assert store.study().results == RESULTS[:1]
    store.add(RESULTS[1])
    assert store.study().results == RESULTS[:2]
    store.close()


@pytest.mark.parametrize("broken", ["an epoch twice", "no epoch number"])
def test_run_is_kept_whole_or_not_at_all(tmp_path: Path, broken: str):
    store = filled(tmp_path)
    first = RESULTS[0].epochs[0]
    second = first if broken == "an epoch twice" else replace(first, epoch=None)  # pyright: ignore
    half = Result(Run("l2+adam", 5), "finished", "", (first, second), {})
    with pytest.raises(UsageError, match=r"l2\+adam, seed 5"):
        store.add(half)
    assert store.study().results == RESULTS
    plain = sqlite3.connect(tmp_path / "results.sqlite")
    assert plain.execute("SELECT count(*) FROM runs").fetchone() == (3,)
    assert plain.execute("SELECT count(*) FROM epochs").fetchone() == (2,)
    plain.close()
    whole = replace(half, epochs=(first,))
    store.add(whole)
    assert store.study().results == (*RESULTS, whole)
    store.close()


def test_run_cannot_be_kept_twice(tmp_path: Path):
    store = filled(tmp_path)
    with pytest.raises(UsageError, match="already: another process"):
        store.add(replace(RESULTS[0], status="failed", reason="again", epochs=()))
    assert store.study().results == RESULTS
    store.close()


def test_infinite_and_denormal_numbers_survive(tmp_path: Path):
    store = Store.create(tmp_path, PLAN, FACTS, {})
    epochs = (Record(1, 1, math.inf, -math.inf, 5e-324, 0.0),)
    result = replace(RESULTS[0], epochs=epochs, settings={"a": math.inf, "b": -math.inf})
    store.add(result)
    assert store.study().results == (result,)
    store.close()


def test_nan_in_a_curve_survives(tmp_path: Path):
    store = Store.create(tmp_path, PLAN, FACTS, {})
    epochs = (Record(1, 1, math.nan, math.nan, math.nan, 0.0),)
    store.add(replace(RESULTS[0], epochs=epochs))
    [epoch] = store.study().results[0].epochs
    assert math.isnan(epoch.train_loss)
    assert math.isnan(epoch.validation_loss)
    assert math.isnan(epoch.metric)
    write_report(store.study(), tmp_path / "report.html")
    store.close()


def test_nan_in_settings_survives(tmp_path: Path):
    store = Store.create(tmp_path, PLAN, FACTS, {})
    store.add(replace(RESULTS[0], settings={"a": math.nan}))
    value = store.study().results[0].settings["a"]
    assert isinstance(value, float)
    assert math.isnan(value)
    store.close()


def test_tuple_in_settings_survives(tmp_path: Path):
    store = Store.create(tmp_path, PLAN, FACTS, {})
    result = replace(RESULTS[0], settings={"gammas": (0.0, 0.9, 0.99)})
    store.add(result)
    assert store.study().results == (result,)
    store.close()


def test_plain_sqlite_reads_it(tmp_path: Path):
    filled(tmp_path).close()
    plain = sqlite3.connect(f"file:{tmp_path / 'results.sqlite'}?mode=ro", uri=True)
    study = dict(plain.execute("SELECT key, value FROM study"))
    assert json.loads(study["plan"])["optimizers"] == ["sgd:lr=0.1", "l2+adam"]
    assert json.loads(study["task"])["about"] == "α to ω"
    assert json.loads(study["environment"]) == ENVIRONMENT
    joined = plain.execute(
        "SELECT optimizer, seed, status, epoch, steps, metric FROM runs "
        "LEFT JOIN epochs ON epochs.run = runs.id ORDER BY runs.id, epoch"
    )
    assert list(joined) == [
        ("sgd:lr=0.1", 5, "finished", 1, 9, 0.1),
        ("sgd:lr=0.1", 5, "finished", 2, 18, 5e-324),
        ("l2+adam", 0, "diverged", None, None, None),
        ("sgd:lr=0.1", 0, "failed", None, None, None),
    ]
    plain.close()


# Files that are no comparison:


def refused(folder: Path) -> str:
    """Opening and reading must not get by without a `UsageError`."""
    with pytest.raises(UsageError) as caught:
        Store.open(folder).study()
    return str(caught.value)


def test_missing_folder_and_missing_file(tmp_path: Path):
    for folder in (tmp_path / "nowhere", tmp_path):
        said = refused(folder)
        assert f"no comparison in {folder}" in said
        assert str(folder / "results.sqlite") in said
        assert "thalweg compare --out" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 50, b"\0" * 512]
)
def test_file_that_is_no_database(tmp_path: Path, content: bytes):
    path = tmp_path / "results.sqlite"
    path.write_bytes(content)
    assert f"{path} cannot be read" in refused(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 2, 99])
def test_file_of_another_version(tmp_path: Path, version: int):
    filled(tmp_path).close()
    path = tmp_path / "results.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    said = refused(tmp_path)
    assert f"{path} has format {version}" in said
    assert "format 1" in said


@pytest.mark.parametrize("version", [0, 1, 99])
def test_database_of_another_program_is_recognized_and_not_altered(tmp_path: Path, version: int):
    path = tmp_path / "results.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    assert f"{path} is a database of another program" in refused(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


PAGE = 4096


@pytest.mark.parametrize("length", [60, 2 * PAGE])
def test_file_that_was_cut_off(tmp_path: Path, length: int):
    filled(tmp_path).close()
    path = tmp_path / "results.sqlite"
    path.write_bytes(path.read_bytes()[:length])
    assert f"{path} cannot be read" in refused(tmp_path)


def test_file_that_was_overwritten_after_its_head(tmp_path: Path):
    filled(tmp_path).close()
    path = tmp_path / "results.sqlite"
    content = path.read_bytes()
    assert len(content) >= 3 * PAGE
    path.write_bytes(content[:PAGE] + b"\xff" * (len(content) - PAGE))
    assert str(path) in refused(tmp_path)


# Folders that cannot be used:


def test_unused_folder_is_new_or_empty(tmp_path: Path):
    check_unused(tmp_path)
    check_unused(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_is_not_written_to(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(UsageError, match="is not empty, and nothing in it is overwritten") as e:
        Store.create(tmp_path, PLAN, FACTS, {})
    assert "--resume" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_of_another_comparison_can_be_resumed_but_not_overwritten(tmp_path: Path):
    filled(tmp_path).close()
    with pytest.raises(UsageError, match=f"thalweg compare --resume {tmp_path}"):
        Store.create(tmp_path, PLAN, FACTS, {})
    store = Store.open(tmp_path)
    assert len(store.study().results) == 3
    store.close()


def test_file_is_no_folder(tmp_path: Path):
    path = tmp_path / "out"
    path.write_text("words")
    with pytest.raises(UsageError, match="is a file: choose another with --out"):
        Store.create(path, PLAN, FACTS, {})
    assert path.read_text() == "words"


def test_folder_below_a_file_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("words")
    with pytest.raises(UsageError, match=r"the output folder .* cannot be made"):
        Store.create(tmp_path / "file" / "out", PLAN, FACTS, {})


@pytest.fixture
def read_only(tmp_path: Path):
    folder = tmp_path / "ro"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)


may_write_anywhere = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write to read-only folders"
)


@may_write_anywhere
def test_read_only_folder(read_only: Path):
    read_only.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be made"):
        Store.create(read_only / "out", PLAN, FACTS, {})
    with pytest.raises(UsageError, match="cannot be made"):
        Store.create(read_only, PLAN, FACTS, {})


def test_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # As above, for whoever runs the tests as root.
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(UsageError, match=r"cannot be made: .*Permission denied"):
        Store.create(tmp_path / "out", PLAN, FACTS, {})


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the sqlite3 command")
def test_sqlite_command_reads_it(tmp_path: Path):
    filled(tmp_path).close()
    query = "SELECT status FROM runs ORDER BY id"
    said = subprocess.run(
        ["sqlite3", tmp_path / "results.sqlite", query], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["finished", "diverged", "failed"]
