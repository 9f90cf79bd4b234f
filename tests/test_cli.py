"""The command as a user meets it, bad input first."""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from html import unescape
from pathlib import Path

import pytest

from thalweg.cli import main
from thalweg.rules import CONVENTIONS, OPTIMIZERS

# Small enough to train in a moment, in a file as a user would write it.
TASK = """
import torch
from torch import nn
from thalweg import Data, Task

def data():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x))

def distance(outputs, targets):
    return (outputs - targets).abs().mean()

task = Task(name="line", data=data, model=lambda: nn.Linear(1, 1), loss=nn.functional.mse_loss,
            metric=distance, metric_name="distance", higher_is_better=False, epochs=3,
            batch_size=16)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "line.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    return tmp_path


def thalweg(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thalweg", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def mistake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str) -> str:
    """What the command says of a mistake; it ends with status 2 and without a traceback."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["thalweg", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("compare --optimizers adm", ["unknown optimizer 'adm'", "Did you mean adam"]),
        ("compare --optimizers sgd,momentun", ["'momentun'", "Did you mean momentum"]),
        ("compare digit", ["unknown task 'digit'", "Did you mean digits", "path/to/file.py:task"]),
        ("compare digits fashon-mnist", ["'fashon-mnist'", "Did you mean fashion-mnist"]),
        ("compare --epoch 3", ["No such option: --epoch", "--epochs"]),
        ("comapre", ["No such command 'comapre'", "compare"]),
        ("list optimisers", ["'optimisers'", "Did you mean optimizers"]),
        ("explain adamv", ["'adamv'", "Did you mean", "adamw"]),
        ("explain adam --convention kears", ["'kears'", "Did you mean keras"]),
        ("compare --optimizers adam:beta3=0.9", ["setting of adam 'beta3'", "beta2"]),
        ("compare --lr -1", ["lr is -1", "[0, inf)"]),
        ("compare --optimizers adam:beta1=1.0", ["beta1 is 1.0", "[0, 1)"]),
        ("compare --optimizers adam:eps=-1", ["eps is -1", "[0, inf)"]),
        ("compare --optimizers qhm:nu=2", ["nu is 2", "[0, 1]"]),
        ("compare --optimizers adam:lr=abc", ["lr is 'abc'", "[0, inf)"]),
        ("compare --optimizers adam:lr", ["'lr'", "setting=value"]),
        ("compare --optimizers sgd+adam", ["2 rules", "exactly one"]),
        ("compare --optimizers l2", ["has no optimizer", "l2+sgd"]),
        ("compare --optimizers sgd:lr=1..0.1", ["from 1 to 0.1", "write lr=0.1..1"]),
        ("compare --optimizers sgd:lr=1..1 --trials 4", ["a single value", "lr=1"]),
        ("compare --optimizers sgd:lr=-1..1 --trials 4", ["lr is -1", "[0, inf)"]),
        ("compare --schedule one-cycel", ["'one-cycel'", "Did you mean one_cycle"]),
        ("compare --optimizers sgd --decay l3", ["unknown decay 'l3'", "l2"]),
        ("compare --optimizers adamw --decay l2", ["a weight decay of its own", "adam for adamw"]),
        ("compare --convention kears", ["'kears'", "Did you mean keras"]),
        ("compare --trials 0", ["trials is 0", "at least 1"]),
        ("compare --trials x", ["--trials", "integer"]),
        ("compare --epochs 0", ["epochs is 0", "at least 1"]),
        ("compare --epochs x", ["epochs is 'x'", "whole numbers"]),
        ("compare --seeds 0", ["seeds is 0", "at least 1"]),
        ("compare --jobs 0", ["jobs is 0", "at least 1"]),
        ("compare --threads 0", ["threads is 0", "at least 1"]),
        ("compare --run-timeout 0", ["run_timeout is 0", "above 0 s"]),
        ("compare --memory -1", ["memory is -1", "above 0 GiB"]),
        ("compare --device gpu", ["device is 'gpu'", "cpu"]),
        ("compare --target nan", ["target is nan", "finite"]),
        ("compare digits mnist --target 0.9", ["0.9", "each of the 2 tasks", "leave it out"]),
        ("compare --batch-size 0", ["'0'", "from 1", "full"]),
        ("compare --batch-size many", ["'many'", "from 1", "full"]),
        ("compare nofile.py:task", ["nofile.py does not exist"]),
        ("compare --resume nowhere", ["no comparison in nowhere", "--out"]),
        ("compare --extend nowhere --trials 4", ["no comparison in nowhere", "--out"]),
        ("compare --resume a --out b", ["--out and --resume each name the folder"]),
        ("compare --force", ["--force is for --resume and --extend"]),
        ("compare --out line.py", ["line.py is a file"]),
        ("report nowhere", ["no comparison in nowhere"]),
        ("export nowhere --csv", ["no comparison in nowhere"]),
        ("export nowhere", ["in which form", "--csv, --json or --parquet"]),
        ("warmup --optimizers adm", ["unknown optimizer 'adm'", "Did you mean adam"]),
        ("warmup --optimizers sgd,", ["unknown optimizer ''", "Known: adadelta"]),
        ("warmup --dtypes float32,flaot64", ["unknown dtype 'flaot64'", "Did you mean float64"]),
        ("warmup --dtype float32", ["No such option: --dtype", "--dtypes"]),
        ("warmup digits", ["unexpected extra argument", "digits"]),
        ("bench step --optimizers adm", ["unknown optimizer 'adm'", "Did you mean adam"]),
        ("bench step --shapes mpl", ["unknown set of shapes 'mpl'", "Did you mean mlp"]),
        ("bench step --dtype float23", ["unknown dtype 'float23'", "Did you mean float32"]),
        ("bench step --rounds 0", ["rounds is 0", "at least 1"]),
        ("bench step --threads 0", ["threads is 0", "at least 1"]),
        ("bench step --seconds -1", ["seconds is -1", "from 0"]),
        ("bench step --json no/a.json", ["no/a.json cannot be written", "folder that exists"]),
        ("bench step --markdown no/a.md", ["no/a.md cannot be written"]),
        ("bench step --markdown line.py", ["line.py has no place", "<!-- measured -->"]),
        ("bench stp", ["No such command 'stp'", "step"]),
    ],
)
def test_mistake_is_named_with_what_is_allowed(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    says: list[str],
):
    # The box around some messages breaks their lines.
    said = " ".join(mistake(capsys, monkeypatch, line).replace("│", " ").split())
    for part in says:
        assert part in said
    assert sorted(p.name for p in folder.iterdir()) == ["line.py"]


def test_missing_data_set(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("THALWEG_DATA", str(folder))
    said = mistake(capsys, monkeypatch, "compare digits fashion-mnist --jobs 1")
    assert str(folder / "FashionMNIST/raw/train-images-idx3-ubyte.gz") in said
    assert "THALWEG_DATA" in said
    assert "github.com/zalandoresearch" in said
    assert not (folder / "thalweg-runs").exists()


def test_altered_data_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file = folder / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"truncated")
    monkeypatch.setenv("THALWEG_DATA", str(folder))
    said = mistake(capsys, monkeypatch, "compare fashion-mnist --jobs 1")
    expected = "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    assert expected in said
    assert sha256(b"truncated").hexdigest() in said
    assert "truncated or altered" in said
    assert not (folder / "thalweg-runs").exists()


def carried_out(line: str, status: int = 0) -> None:
    """Run the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["thalweg", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == status


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of one's own and, in `o`, a comparison on it."""
    there = tmp_path_factory.mktemp("made")
    (there / "line.py").write_text(TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        carried_out(
            "compare line.py --optimizers sgd:lr=0.01..1,adam:lr=0.1 --trials 2 --seeds 2 --out o "
            "--jobs 1"
        )
    return there


@pytest.fixture
def study(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    there = tmp_path / "copy"
    shutil.copytree(made, there)
    monkeypatch.chdir(there)
    return there / "o"


def stored(folder: Path) -> list[tuple[str, int, int, str]]:
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
        return connection.execute(
            "SELECT optimizer, trial, seed, status FROM runs ORDER BY optimizer, seed, trial"
        ).fetchall()


def test_comparison_of_an_own_task(study: Path, capsys: pytest.CaptureFixture[str]):
    rows = stored(study)
    tuning = [row[:3] for row in rows if row[2] == 0]
    assert tuning == [(o, t, 0) for o in ("adam:lr=0.1", "sgd:lr=0.01..1") for t in (0, 1)]
    assert [(o, s) for o, _, s, _ in rows if s > 0] == [
        (o, s) for o in ("adam:lr=0.1", "sgd:lr=0.01..1") for s in (1, 2)
    ]
    assert {status for *_, status in rows} == {"finished"}
    # The report is as it was, and the terminal says the same as the page.
    page = study / "report.html"
    page.unlink()
    carried_out("report o")
    said = capsys.readouterr().out
    verdict = said.splitlines()[0]
    assert " on line (3 epochs, 2 trials each, 2 seeds): " in verdict
    assert "Best to expect by number of trials (distance on the validation data): 1: " in said
    assert said.endswith("Report: o/report.html\n")
    text = unescape(page.read_text(encoding="utf-8"))
    assert verdict.partition(" on line")[0] in text
    assert "sgd:lr=0.01..1" in text


def test_a_folder_that_is_used_is_left_as_it_is(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = (study / "report.html").read_bytes()
    said = mistake(capsys, monkeypatch, "compare line.py --out o")
    assert "nothing in it is overwritten" in said
    assert "--resume o" in said
    assert (study / "report.html").read_bytes() == before


def test_extending_and_exporting(study: Path, capsys: pytest.CaptureFixture[str]):
    before = stored(study)
    carried_out("compare --extend o --optimizers +nag:lr=0.1 --seeds 3 --jobs 1")
    said = capsys.readouterr()
    after = stored(study)
    assert [row for row in after if row in before] == before
    assert len(after) == len({row[:3] for row in after}) == len(said.err.splitlines()) + len(before)
    assert {(o, s) for o, _, s, _ in after if s > 0} == {
        (o, s) for o in ("adam:lr=0.1", "nag:lr=0.1", "sgd:lr=0.01..1") for s in (1, 2, 3)
    }
    assert "2 trials each, 3 seeds" in said.out
    carried_out("export o --csv --json --parquet --out tables")
    names = [
        f"{table}.{form}" for form in ("csv", "json", "parquet") for table in ("runs", "curves")
    ]
    assert capsys.readouterr().out.split() == [f"tables/{name}" for name in names]
    assert len(json.loads(Path("tables/runs.json").read_text())) == len(after)
    # A finished comparison needs no process to be gone on with.
    carried_out("compare --resume o")
    assert stored(study) == after


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--extend o --trials 1", "trials is 1, but the study has 2 already"),
        ("--extend o --seeds 1", "seeds is 1, but the study has 2 already"),
        ("--extend o --epochs 5", "epochs cannot differ from what the study was planned with"),
        ("--resume o --trials 8", "to have more optimizers, trials or seeds, extend it"),
        ("digits --resume o --lr 0.1", "tasks, lr cannot differ"),
    ],
)
def test_what_was_planned_stays(
    study: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    says: str,
):
    before = stored(study)
    assert says in mistake(capsys, monkeypatch, f"compare {line}")
    assert stored(study) == before


def test_changed_code_of_the_task_is_not_mixed_in_silently(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = stored(study)
    text = TASK.replace("abs().mean()", "abs().max()")
    Path("line.py").write_text(text)
    said = mistake(capsys, monkeypatch, "compare --extend o --seeds 3 --jobs 1")
    assert "has changed since" in said
    assert "line.py" in said
    assert "--force" in said
    assert stored(study) == before
    carried_out("compare --extend o --seeds 3 --jobs 1 --force")
    assert len(stored(study)) == len(before) + 2
    assert "changed in line.py" in " ".join(unescape((study / "report.html").read_text()).split())


def spoiled(study: Path, how: str) -> None:
    file = study / "results.sqlite"
    if how == "newer":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 1000")
    elif how == "foreign":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA application_id = 1")
    else:
        content = file.read_bytes()
        file.write_bytes({"cut": content[:5000], "no database": b"word " * 5000}[how])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("newer", "1000"),
        ("foreign", "another program"),
        ("cut", "damaged"),
        ("no database", ""),
    ],
)
def test_a_store_that_cannot_be_used_is_left_as_it_is(
    study: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    says: str,
):
    spoiled(study, how)
    before = {p.name: p.read_bytes() for p in study.iterdir() if p.name != "lock"}
    for line in (
        "compare --resume o",
        "compare --extend o --seeds 3",
        "report o",
        "export o --csv",
    ):
        said = mistake(capsys, monkeypatch, line)
        assert "results.sqlite" in said
        assert says in said
    assert {p.name: p.read_bytes() for p in study.iterdir() if p.name != "lock"} == before


def test_a_store_that_another_process_has_can_be_read_only(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from thalweg.lab.records.store import Store

    store = Store.open(study)
    try:
        for line in ("compare --resume o", "compare --extend o --seeds 3"):
            said = mistake(capsys, monkeypatch, line)
            assert "is in use" in said
            assert str(os.getpid()) in said
        carried_out("report o")
        assert "Report: o/report.html" in capsys.readouterr().out
        carried_out("export o --csv")
    finally:
        store.close()
    assert len((study / "runs.csv").read_text().splitlines()) == 1 + len(stored(study))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anything")
def test_a_folder_that_cannot_be_written_can_be_read(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    study.chmod(0o500)
    try:
        said = mistake(capsys, monkeypatch, "compare --extend o --seeds 3")
        assert "cannot be written" in said
        said = mistake(capsys, monkeypatch, "report o")
        assert "thalweg report --out" in said
        carried_out("report o --out page.html")
        assert Path("page.html").exists()
    finally:
        study.chmod(0o700)


def test_a_full_disk_ends_it_and_keeps_what_was_finished(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from thalweg.lab.records import store

    connected = store._connected
    before = stored(study)

    def small(path: Path) -> sqlite3.Connection:
        connection = connected(path)
        # What SQLite says when the disk is full, it says of a file that may not grow.
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(store, "_connected", small)
        said = mistake(capsys, monkeypatch, "compare --extend o --seeds 20 --jobs 1")
    assert "full" in said
    assert "Traceback" not in said
    kept = stored(study)
    assert [row for row in kept if row in before] == before
    assert len(before) < len(kept) < 44
    carried_out("compare --resume o --jobs 1")
    # Two optimizers, each with two trials and twenty seeds.
    assert len(stored(study)) == 44


# Each is a task, and wrong for one seed of three, or for all.
FAULTS = {
    "raises": ("loss", "raise RuntimeError('no loss today')", "RuntimeError: no loss today"),
    "nan": ("loss", "return (outputs * float('nan')).mean()", "the training loss was nan"),
    "shapes": ("loss", "return (outputs - targets.repeat(1, 3) @ targets).sum()", "Error: "),
    "broadcast": (
        "loss",
        "return nn.functional.mse_loss(outputs, targets.squeeze(1))",
        "UserWarning: Using a target size",
    ),
    "metric": ("metric", "return float('nan')", "the metric (distance) was nan"),
}


def test_faulty_runs_are_results_and_the_others_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    text = TASK
    for name, (what, body, _) in FAULTS.items():
        text += f"""
def {name}(outputs, targets):
    if torch.initial_seed() == 1:
        {body}
    return {"nn.functional.mse_loss" if what == "loss" else "distance"}(outputs, targets)

task_{name} = replace(task, name="{name}", {what}={name})
"""
    text += """
task_hopeless = replace(task, name="hopeless", metric=lambda o, t: float("nan"))
task_missing = replace(task, name="missing", metric=lambda o, t: None)
task_constant = replace(task, name="constant", metric=lambda o, t: 0.5)
"""
    (folder / "line.py").write_text(f"from dataclasses import replace\n{text}")
    tasks = [*FAULTS, "hopeless", "missing", "constant"]
    specs = " ".join(f"line.py:task_{name}" for name in tasks)
    carried_out(f"compare {specs} --optimizers sgd:lr=0.1,sgd:lr=1e30 --out o --jobs 1")
    said = " ".join(re.sub("[│┃]", " ", capsys.readouterr().out).split())
    with closing(sqlite3.connect(folder / "o/results.sqlite")) as connection:
        rows = connection.execute(
            "SELECT task, optimizer, seed, status, reason FROM runs"
        ).fetchall()
    ended = {(task.removeprefix("line.py:task_"), o, seed): rest for task, o, seed, *rest in rows}
    assert len(ended) == len(tasks) * 2 * 3
    for name, (_, _, says) in FAULTS.items():
        status, reason = ended[name, "sgd:lr=0.1", 1]
        assert status == ("diverged" if "nan" in says else "failed"), name
        assert says in reason
        assert says in said
        assert {ended[name, "sgd:lr=0.1", seed][0] for seed in (2, 3)} == {"finished"}
    for name in ("raises", "constant"):
        # All runs of one of the optimizers diverge.
        assert {ended[name, "sgd:lr=1e30", seed][0] for seed in (2, 3)} == {"diverged"}
    assert {ended["hopeless", "sgd:lr=0.1", seed][0] for seed in (1, 2, 3)} == {"diverged"}
    assert {ended["missing", "sgd:lr=0.1", seed][0] for seed in (1, 2, 3)} == {"failed"}
    assert "No run on hopeless finished" in said
    assert (
        "the metric (distance) was None" in said or "None" in ended["missing", "sgd:lr=0.1", 1][1]
    )
    assert {ended["constant", "sgd:lr=0.1", seed][0] for seed in (1, 2, 3)} == {"finished"}
    assert (folder / "o/report.html").exists()


def test_a_constant_metric_and_a_single_seed_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    constant = "task_constant = replace(task, name='constant', metric=lambda o, t: 0.5)\n"
    (folder / "line.py").write_text(f"from dataclasses import replace\n{TASK}{constant}")
    carried_out("compare line.py line.py:task_constant --optimizers sgd,nag --seeds 1 --jobs 1")
    said = capsys.readouterr().out
    assert "nothing tells optimizers apart" in said
    line = next(line for line in said.splitlines() if " on line (" in line)
    assert "One seed gives no interval" in line
    assert "95% interval" not in line


def test_all_runs_fail(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "line.py").write_text(
        TASK.replace("nn.Linear(1, 1)", "Broken()")
        + """
class Broken(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, x):
        return x / 0 + 1 // 0
"""
    )
    carried_out("compare line.py --optimizers sgd --seeds 1 --jobs 1", status=1)
    said = " ".join(re.sub("[│┃]", " ", capsys.readouterr().out).split())
    assert "No run on line finished" in said
    assert "ZeroDivisionError" in said
    assert "line.py, line" in said


def test_data_that_cannot_be_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (folder / "line.py").write_text(TASK.replace("def data():", "def data():\n    1 / 0"))
    said = mistake(capsys, monkeypatch, "compare line.py --optimizers sgd --seeds 1 --jobs 1")
    assert "cannot be loaded: ZeroDivisionError" in said


SLOW = TASK.replace(
    "def distance",
    """import time
def slow(outputs, targets):
    time.sleep(0.04)
    return nn.functional.mse_loss(outputs, targets)

def distance""",
).replace("loss=nn.functional.mse_loss", "loss=slow")


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "thalweg", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background, they ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended_runs(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        return sqlite3.connect(path).execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "line.py").write_text(SLOW)
    process = started(
        "compare", "line.py", "--optimizers", "sgd,adam", "--seeds", "4", "--out", "o"
    )
    results = folder / "o/results.sqlite"
    wait_until(lambda: ended_runs(results) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "thalweg compare --resume o" in said
    kept = ended_runs(results)
    assert f"{kept} finished runs are kept" in said
    assert 2 <= kept < 8
    carried_out("compare --resume o --jobs 2")
    assert ended_runs(results) == 8
    assert capsys.readouterr().err.count("seed") == 8 - kept
    assert (folder / "o/report.html").exists()


def test_batch_sizes_of_all_and_some(folder: Path):
    for size, steps in (("full", 3), ("48", 6)):
        carried_out(
            f"compare line.py --optimizers sgd --seeds 1 --batch-size {size} --out b{size} --jobs 1"
        )
        with closing(sqlite3.connect(folder / f"b{size}/results.sqlite")) as connection:
            assert connection.execute("SELECT steps FROM runs").fetchall() == [(steps,)]


def test_step_times(folder: Path):
    ended = thalweg(
        "bench", "step", "--optimizers", "sgd, qhm,sgd", "--shapes", "mlp", "--rounds", "3",
        "--threads", "1", "--json", "o.json", "--markdown", "o.md",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stderr.splitlines()
    assert re.fullmatch(r"\[1/2\] sgd on mlp: [\d.]+ ms, torch's .*, (faster|tie|slower)", first)
    assert re.fullmatch(r"\[2/2\] qhm on mlp: [\d.]+ ms, and nothing of .*", second)
    assert "geometric mean of 1 ratios" in ended.stdout
    content = json.loads((folder / "o.json").read_text())
    assert [c["optimizer"] for c in content["cells"]] == ["sgd", "qhm"]
    assert [c["rounds"] for c in content["cells"]] == [3, 3]
    assert content["machine"]["torch"].endswith("threads: 1")
    assert content["missing"] == []
    page = (folder / "o.md").read_text(encoding="utf-8")
    for name in ("sgd", "qhm"):
        assert re.search(rf"^│ {name} ", ended.stdout, re.MULTILINE)
        assert re.search(rf"^\| {name} \|", page, re.MULTILINE)


def test_ctrl_c_keeps_step_times_and_says_what_is_missing(folder: Path):
    process = started(
        "bench", "step", "--shapes", "mlp", "--seconds", "0.1", "--json", "o.json",
        "--markdown", "o.md",
    )  # fmt: skip
    wait_until((folder / "o.json").exists)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped. What has been measured follows." in said
    assert "Traceback" not in said
    content = json.loads((folder / "o.json").read_text())
    kept = [c["optimizer"] for c in content["cells"]]
    assert 1 <= len(kept) < len(OPTIMIZERS)
    assert kept[0] == "sgd"
    missing = [optimizer for _, optimizer in content["missing"]]
    assert not {*kept} & {*missing}
    assert len(kept) + len(missing) == len(OPTIMIZERS)
    for text in (" ".join(out.split()), (folder / "o.md").read_text(encoding="utf-8")):
        assert f"Not measured: {missing[0]} on mlp" in text


def test_lists_and_explanations(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def said(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["thalweg", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    assert [line.split()[0] for line in said("list optimizers").splitlines()] == [*OPTIMIZERS]
    assert "fashion-mnist" in said("list tasks")
    assert "decay" in said("list stages")
    for name, rule in OPTIMIZERS.items():
        text = said(f"explain {name}")
        assert rule.paper in text
        assert "θ ← θ − " in text
        for hyper in rule.hypers:
            assert hyper in text
        assert "\\theta &\\leftarrow \\theta - " in said(f"explain {name} --latex")
    for convention in CONVENTIONS:
        assert f"Formula ({convention}):" in said(f"explain adam --convention {convention}")
    differing = said("explain adam --convention keras")
    assert "    paper  θ ← θ − lr m̂ / (√v̂ + ε)\n" in differing
    assert "    eps      1e-08 → 1e-07\n" in differing
    assert "schedule = true" in said("explain nadam")
    assert "μ_product" in said("explain nadam --convention torch")


def test_help_is_fast_and_needs_no_torch():
    code = "import sys; sys.argv = ['thalweg', '--help']\nfrom thalweg.cli import main\n"
    code += "try: main()\nfinally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False"


WARM = """
from llvmlite.binding import targets
class Refusing(targets.TargetMachine):
    def emit_object(self, module):
        raise AssertionError("compiled")
targets.TargetMachine = Refusing
import torch, thalweg
for name, options in {
    "SGD": {"momentum": 0.5, "nesterov": True, "weight_decay": 0.3, "maximize": True},
    "Adam": {"amsgrad": True, "weight_decay": 1e-4, "lr": 0.5},
    "AdamW": {},
    "RMSprop": {"centered": True, "momentum": 0.1},
    "QHAdam": {"nu1": 0.5},
}.items():
    p = torch.zeros(3, 4, dtype=torch.bfloat16).requires_grad_()
    p.grad = torch.full_like(p, 0.5)
    getattr(thalweg, name)([p], backend="fused", **options).step()
    assert (p != 0).all()
p.grad = torch.full_like(p, 0.5)
try:
    thalweg.Optimizer([p], thalweg.chain(thalweg.noise, thalweg.adam)).step()
except AssertionError as error:
    print(error)
"""


def test_after_a_warmup_nothing_is_compiled(tmp_path: Path):
    cache = str(tmp_path / "cache")
    arguments = ("warmup", "--dtypes", "bfloat16")
    first = thalweg(*arguments, THALWEG_CACHE=cache)
    assert first.returncode == 0, first.stderr
    said = re.fullmatch(
        r"(\d+) kernels are in (.+): (\d+) compiled in [\d.]+ s, 0 were there already.\n",
        first.stdout,
    )
    assert said is not None, first.stdout
    count, folder, compiled = said.groups()
    files = {file: file.stat().st_mtime_ns for file in Path(folder).iterdir()}
    assert str(folder).startswith(cache)
    assert int(count) == int(compiled) == len(files) > 50
    used = subprocess.run(
        [sys.executable, "-c", WARM],
        env={**os.environ, "THALWEG_CACHE": cache},
        capture_output=True,
        text=True,
        timeout=120,
    )
    # The last is no built-in optimizer, so it alone was not there.
    assert (used.returncode, used.stdout) == (0, "compiled\n"), used.stderr
    again = thalweg(*arguments, THALWEG_CACHE=cache)
    assert f"{count} kernels" in again.stdout
    assert " 0 compiled in " in again.stdout
    assert f"{count} were there already" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in Path(folder).iterdir()} == files


@pytest.mark.parametrize("optimizers", ["sgd", "momentum, aggmo"])
def test_a_warmup_of_some_leaves_the_others(tmp_path: Path, optimizers: str):
    cache = str(tmp_path / "cache")
    arguments = ("warmup", "--optimizers", optimizers, "--dtypes", "float64")
    ended = thalweg(*arguments, THALWEG_CACHE=cache)
    assert ended.returncode == 0, ended.stderr
    assert 3 <= int(ended.stdout.split()[0]) < 30


def test_a_warmup_without_a_folder_to_write_to_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    ended = thalweg("warmup", THALWEG_CACHE=str(tmp_path / "file"))
    assert ended.returncode == 2
    assert f"cannot be kept in {tmp_path / 'file'}" in ended.stderr
    assert "set THALWEG_CACHE" in ended.stderr
    assert "Traceback" not in ended.stderr
    (tmp_path / "file").unlink()
    ended = thalweg("warmup", "--optimizers", "sgd", THALWEG_CACHE="~nobody-of-this-name")
    assert ended.returncode == 2
    assert "no folder to keep kernels in" in ended.stderr
