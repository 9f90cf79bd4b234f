"""The command as a user meets it, bad input first."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
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
        ("compare --epochs 0", ["epochs is 0", "at least 1"]),
        ("compare --epochs x", ["--epochs", "integer"]),
        ("compare --seeds 0", ["seeds is 0", "at least 1"]),
        ("compare --jobs 0", ["jobs is 0", "at least 1"]),
        ("compare --batch-size 0", ["'0'", "from 1", "full"]),
        ("compare --batch-size many", ["'many'", "from 1", "full"]),
        ("compare nofile.py:task", ["nofile.py does not exist"]),
        ("compare --resume nowhere", ["no comparison in nowhere", "--out"]),
        ("compare --resume there --epochs 5 --lr 0.1", ["--epochs, --lr cannot change"]),
        ("compare --out line.py", ["line.py is a file"]),
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


def test_missing_data_set(folder: Path):
    ended = thalweg("compare", "fashion-mnist", THALWEG_DATA=str(folder))
    assert ended.returncode == 2
    assert str(folder / "FashionMNIST/raw/train-images-idx3-ubyte.gz") in ended.stderr
    assert "THALWEG_DATA" in ended.stderr
    assert "github.com/zalandoresearch" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (folder / "thalweg-runs").exists()


def test_altered_data_file(folder: Path):
    file = folder / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"truncated")
    ended = thalweg("compare", "fashion-mnist", THALWEG_DATA=str(folder))
    assert ended.returncode == 2
    expected = "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    assert expected in ended.stderr
    assert sha256(b"truncated").hexdigest() in ended.stderr
    assert "truncated or altered" in ended.stderr
    assert not (folder / "thalweg-runs").exists()


def test_comparison_of_an_own_task(folder: Path):
    ended = thalweg(
        "compare",
        "line.py",
        "--optimizers",
        "sgd:lr=0.1,adam:lr=0.1",
        "--out",
        "out",
        "--jobs",
        "2",
    )
    assert ended.returncode == 0, ended.stderr
    assert "best on line after 3 epochs" in " ".join(ended.stdout.split())
    assert "distance" in ended.stdout
    page = (folder / "out/report.html").read_text()
    assert "sgd:lr=0.1" in page
    rows = sqlite3.connect(folder / "out/results.sqlite").execute(
        "SELECT optimizer, seed, status FROM runs ORDER BY optimizer, seed"
    )
    assert list(rows) == [
        (o, s, "finished") for o in ("adam:lr=0.1", "sgd:lr=0.1") for s in (0, 1, 2)
    ]
    again = thalweg("compare", "line.py", "--out", "out")
    assert again.returncode == 2
    assert "nothing in it is overwritten" in again.stderr
    assert "--resume out" in again.stderr
    assert (folder / "out/report.html").read_text() == page


FAULTS = {
    "raises": (
        "loss",
        "raise RuntimeError('no loss today')",
        "failed: RuntimeError: no loss today",
    ),
    "nan": (
        "loss",
        "return (outputs * float('nan')).mean()",
        "diverged: the training loss was nan",
    ),
    "shapes": ("loss", "return (outputs - targets.repeat(1, 3) @ targets).sum()", "failed: "),
    "broadcast": (
        "loss",
        "return nn.functional.mse_loss(outputs, targets.squeeze(1))",
        "failed: UserWarning: Using a target size",
    ),
    "metric": ("metric", "return float('nan')", "diverged: the metric (distance) was nan"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_run_is_recorded_and_the_others_go_on(folder: Path, fault: str):
    what, body, says = FAULTS[fault]
    replaced = {"loss": "nn.functional.mse_loss", "metric": "distance"}[what]
    text = TASK.replace(f"{what}={replaced}", f"{what}=faulty")
    text = text.replace(
        "task = Task",
        f"""
def faulty(outputs, targets):
    if torch.initial_seed() == 1:
        {body}
    return {replaced}(outputs, targets)

task = Task""",
    )
    (folder / "line.py").write_text(text)
    ended = thalweg(
        "compare", "line.py", "--optimizers", "sgd", "--seeds", "3", "--out", "o", "--jobs", "1"
    )
    assert ended.returncode == 0, ended.stderr
    assert says in " ".join(ended.stdout.split())
    page = " ".join((folder / "o/report.html").read_text().replace("&#39;", "'").split())
    assert says.partition(": ")[2] in page
    rows = dict(
        sqlite3.connect(folder / "o/results.sqlite").execute("SELECT seed, status FROM runs")
    )
    assert rows == {0: "finished", 1: says.partition(":")[0], 2: "finished"}


def test_diverging_optimizer_is_recorded(folder: Path):
    ended = thalweg("compare", "line.py", "--optimizers", "sgd:lr=1e30,adam", "--out", "o")
    assert ended.returncode == 0, ended.stderr
    rows = sqlite3.connect(folder / "o/results.sqlite").execute(
        "SELECT DISTINCT optimizer, status FROM runs ORDER BY optimizer"
    )
    assert list(rows) == [("adam", "finished"), ("sgd:lr=1e30", "diverged")]
    assert "diverged: the training loss was" in " ".join(ended.stdout.split())


def test_all_runs_fail(folder: Path):
    (folder / "line.py").write_text(TASK.replace("nn.Linear(1, 1)", "1 / 0"))
    ended = thalweg("compare", "line.py", "--optimizers", "sgd", "--seeds", "1")
    assert ended.returncode == 1
    assert "No run finished" in ended.stdout
    assert "ZeroDivisionError" in ended.stdout
    assert "line.py, line" in " ".join(ended.stdout.split())


def test_data_that_cannot_be_loaded(folder: Path):
    (folder / "line.py").write_text(TASK.replace("def data():", "def data():\n    1 / 0"))
    ended = thalweg("compare", "line.py", "--optimizers", "sgd", "--seeds", "1")
    assert ended.returncode == 2
    assert "cannot be loaded: ZeroDivisionError" in ended.stderr
    assert "Traceback" not in ended.stderr


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


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(folder: Path):
    (folder / "line.py").write_text(SLOW)
    process = started(
        "compare", "line.py", "--optimizers", "sgd,adam", "--seeds", "9", "--out", "o"
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
    assert 2 <= kept < 18
    resumed = thalweg("compare", "--resume", "o")
    assert resumed.returncode == 0, resumed.stderr
    assert ended_runs(results) == 18
    assert resumed.stderr.count("seed") == 18 - kept
    assert (folder / "o/report.html").exists()


def workers(pid: int) -> list[int]:
    """The worker processes of a command."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            command = (status.parent / "cmdline").read_bytes()
            if f"PPid:\t{pid}\n" in status.read_text() and b"spawn_main" in command:
                found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds processes in /proc")
def test_killed_worker_is_replaced_and_its_run_begun_again(folder: Path):
    (folder / "line.py").write_text(SLOW)
    process = started(
        "compare", "line.py", "--optimizers", "sgd", "--seeds", "3", "--out", "o", "--jobs", "1"
    )
    results = folder / "o/results.sqlite"
    wait_until(lambda: ended_runs(results) >= 1)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    rows = sqlite3.connect(results).execute("SELECT seed, status FROM runs ORDER BY seed")
    assert list(rows) == [(0, "finished"), (1, "finished"), (2, "finished")]


def test_run_that_kills_its_worker_twice_has_failed(folder: Path):
    deadly = TASK.replace(
        "def distance",
        "import os\ndef deadly(o, t):\n    os.kill(os.getpid(), 9)\n\ndef distance",
    ).replace("loss=nn.functional.mse_loss", "loss=deadly")
    (folder / "line.py").write_text(deadly)
    ended = thalweg("compare", "line.py", "--optimizers", "sgd", "--seeds", "1", "--jobs", "1")
    assert ended.returncode == 1
    assert "killed 2 times (signal 9)" in " ".join(ended.stdout.split())


def test_batch_sizes_of_all_one_and_some(folder: Path):
    for size, steps in (("full", 3), ("1", 192), ("48", 6)):
        ended = thalweg(
            "compare", "line.py", "--optimizers", "sgd", "--seeds", "1", "--batch-size", size,
            "--out", f"b{size}", "--jobs", "1",
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        counted = sqlite3.connect(folder / f"b{size}/results.sqlite").execute(
            "SELECT max(steps) FROM epochs"
        )
        assert counted.fetchone() == (steps,)


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
