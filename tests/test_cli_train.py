"""`thalweg train` as a user meets it: every option, what it says of mistakes, and how runs end."""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import thalweg as tw
from thalweg.cli import main
from thalweg.tasks import load
from thalweg.training import Record
from thalweg.training.folder import Folder, read_records, read_run

# Small enough to train in a moment, in a file as a user would write it. PAUSE makes it slow.
TASK = """
import os
import time

import torch
from torch import nn
from thalweg import Data, Task

def data():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x), test=(x, 2 * x))

def model():
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))

def loss(outputs, targets):
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return nn.functional.mse_loss(outputs, targets)

def distance(outputs, targets):
    return (outputs - targets).abs().mean()

def augment(x, y, generator):
    return x + 0.01 * torch.randn(x.shape, generator=generator), y

def views(x):
    return x, x + 0.1

task = Task(name="line", data=data, model=model, loss=loss, metric=distance,
            metric_name="distance", higher_is_better=False, epochs=3, batch_size=16,
            augment=augment, views=views)
plain = Task(name="plain", data=data, model=lambda: nn.Linear(1, 1), loss=loss, metric=distance)
"""


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "line.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAUSE", raising=False)
    yield tmp_path
    # The command is alone in its process; here others follow.
    torch.set_flush_denormal(False)


@pytest.fixture
def thalweg(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Said]:
    """Runs a command in this process."""

    def run(line: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["thalweg", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


Thalweg = Callable[[str], Said]


def mistake(thalweg: Thalweg, line: str) -> str:
    """What is said of it: on standard error, with status 2."""
    said = thalweg(line)
    assert (said.status, said.out) == (2, "")
    # The box around some messages breaks their lines.
    return " ".join(said.err.replace("│", " ").split())


MISTAKES = [
    ("", ["which task?", "digits", "path.py:name"]),
    ("digit", ["unknown task 'digit'", "Did you mean digits"]),
    ("nofile.py:task", ["nofile.py does not exist"]),
    ("line.py:tsk", ["'tsk'", "Did you mean task"]),
    ("line.py more", ["unexpected extra argument", "more"]),
    ("line.py --optimizer adm", ["unknown optimizer 'adm'", "Did you mean adam"]),
    ("line.py --optimizer sgd+adam", ["2 rules", "exactly one"]),
    ("line.py --optimizer l2", ["has no optimizer", "l2+sgd"]),
    ("line.py --bta2 0.9", ["'bta2'", "Did you mean beta2"]),
    ("line.py --momentum 0.9", ["setting of AdamW", "'momentum'", "beta1"]),
    ("line.py --optimizer l2+adam --lrr 1", ["L2 + Adam", "'lrr'", "Did you mean lr"]),
    ("line.py --epoch 3", ["'epoch'", "Did you mean epochs"]),
    ("line.py --lr", ["--lr has no value", "--name value"]),
    ("line.py --lr -1", ["lr is -1", "[0, inf)"]),
    ("line.py --lr abc", ["lr is 'abc'", "a number or a schedule", "Known: constant"]),
    ("line.py --beta2 1.5", ["beta2 is 1.5", "[0, 1)"]),
    ("line.py --betas 0.9", ["betas is 0.9", "two numbers"]),
    ("line.py --schedule one-cyle", ["unknown schedule 'one-cyle'", "Did you mean one_cycle"]),
    ("line.py --schedule one-cycle:strt=1", ["'strt'", "Did you mean start"]),
    ("line.py --schedule one-cycle:start=abc", ["start of one_cycle is 'abc'", "from 0"]),
    ("line.py --schedule one-cycle:start", ["'start'", "setting=value"]),
    ("line.py --schedule cosine:steps=5", ["lr in phase 0", "5 steps", "are 12"]),
    ("line.py --schedule warmup:steps=99+cosine", ["steps is 12", "take 99", "shorter parts"]),
    ("line.py --schedule linear:end=-1", ["at step 1: lr is -0.08", "[0, inf)"]),
    ("line.py --lr cosine:start=1 --schedule one-cycle", ["cosine:start=1", "one of them out"]),
    ("line.py --weight-decay cosine:start=1,steps=5", ["weight_decay covers 5", "has 12"]),
    ("line.py --weight-decay linear:start=1,end=-1", ["at step 7: weight_decay is -0.16"]),
    ("line.py --decay l3", ["unknown decay 'l3'", "Did you mean l2"]),
    ("line.py --optimizer l2+adam --decay l2", ["decay='l2'", "no choice of it"]),
    ("line.py --epochs 0", ["epochs is 0.0", "above 0"]),
    ("line.py --epochs nan", ["epochs is nan", "above 0"]),
    ("line.py --epochs x", ["--epochs", "valid number"]),
    ("line.py --epochs 0.1", ["0.1 epochs", "less than a step", "4 steps"]),
    ("line.py --batch-size 0", ["'0'", "from 1", "full"]),
    ("line.py --batch-size many", ["'many'", "from 1", "full"]),
    ("line.py --accumulate 0", ["accumulate is 0", "from 1"]),
    ("line.py --clip-norm 0", ["clip_norm is 0.0", "above 0"]),
    ("line.py --ema 1", ["ema is 1.0", "between 0 and 1"]),
    ("line.py --swa -1", ["swa is -1.0", "from 0"]),
    ("line.py --swa 1 --ema 0.9", ["ema is 0.9 and swa is 1.0", "one of them out"]),
    ("line.py --precision float23", ["'float23'", "Did you mean float32"]),
    ("line.py --evaluate-every 0", ["evaluate_every is 0.0", "above 0"]),
    ("line.py --nonfinite stp", ["unknown nonfinite 'stp'", "Did you mean stop"]),
    ("line.py --seed -1", ["seed is -1", "from 0"]),
    ("line.py --convention kears", ["'kears'", "Did you mean keras"]),
    ("line.py --device gpu", ["device is 'gpu'", "cpu", "leave it out"]),
    ("line.py --save-every -1", ["save_every is -1.0", "from 0"]),
    ("line.py --force", ["--force is for --resume"]),
    ("line.py:plain --tta", ["tta is True", "plain has no views", "leave it out"]),
    ("line.py --out line.py", ["line.py', which is a file", "choose a folder"]),
    ("line.py --out .", ["not empty", "nothing in it is overwritten"]),
    ("--resume nowhere", ["no run in nowhere", "without resume"]),
    ("line.py --resume nowhere --lr 1", ["task", "lr", "cannot change", "--out"]),
    ("line.py --phases nofile.json", ["nofile.json cannot be read", "No such file"]),
]


@pytest.mark.parametrize(("line", "says"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistake_is_named_with_what_is_allowed(
    thalweg: Thalweg, folder: Path, line: str, says: list[str]
):
    said = mistake(thalweg, f"train {line}")
    for part in says:
        assert part in said
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".pyc") == ["line.py"]


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ("[{", ["cannot be read", "line 1 column 3"]),
        ("[]", ["must hold a list of phases"]),
        ('{"epochs": 1}', ["must hold a list of phases"]),
        ('[{"settings": {}}]', ["phase 0 in p.json", "object with epochs"]),
        ('[{"epochs": 1}, 3]', ["phase 1 in p.json is 3", "object with epochs"]),
        ('[{"epochs": "1"}]', ["epochs is '1'", "above 0"]),
        ('[{"epochs": 1, "freez": "all"}]', ["'freez'", "Did you mean freeze"]),
        ('[{"epochs": 1, "freeze": 3}]', ["freeze of phase 0 in p.json is 3", "list of layers"]),
        ('[{"epochs": 1, "freeze": ["bdy"]}]', ["'bdy'", "Did you mean body"]),
        ('[{"epochs": 1, "decay": 3}]', ["decay of phase 0 in p.json is 3", "decoupled"]),
        ('[{"epochs": 1, "decay": "l3"}]', ["unknown decay 'l3'", "Did you mean l2"]),
        ('[{"epochs": 1, "settings": [1]}]', ["settings of phase 0", '{"lr": 0.1}']),
        ('[{"epochs": 1, "settings": {"decay": "l2"}}]', ["without epochs, freeze, decay"]),
        ('[{"epochs": 1, "settings": {"lr": null}}]', ["lr is None", "a number, a schedule"]),
        ('[{"epochs": 1, "settings": {"lr": {"a": 1}}}]', ["lr is {'a': 1}", "a number"]),
        ('[{"epochs": 1, "settings": {"lr": "one-cyle"}}]', ["phase 0 in p.json", "one_cycle"]),
        ('[{"epochs": 1, "settings": {"lrr": 1}}]', ["'lrr'", "Did you mean lr"]),
        ('[{"epochs": 1, "settings": {"lr": [1, 1, 1]}}]', ["3 values", "2 layer groups: 0, 3"]),
        ('[{"epochs": 1}, {"epochs": 1, "settings": {"lr": -1}}]', ["at step 4: lr is -1"]),
    ],
)
def test_phases_that_are_none(thalweg: Thalweg, folder: Path, phases: str, says: list[str]):
    (folder / "p.json").write_text(phases)
    said = mistake(thalweg, "train line.py --phases p.json --out o")
    for part in says:
        assert part in said
    assert not (folder / "o").exists()


@pytest.mark.parametrize("other", ["--epochs 3", "--schedule one-cycle", "--decay l2"])
def test_phases_and_what_they_say(thalweg: Thalweg, folder: Path, other: str):
    (folder / "p.json").write_text('[{"epochs": 1}]')
    said = mistake(thalweg, f"train line.py --phases p.json {other}")
    assert f"{other.split()[0][2:]} is " in said
    assert "the phases say that: leave one of the two out" in said


def test_tensorboard_is_missing(thalweg: Thalweg, folder: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "thalweg.training.board.find_spec", lambda n: None if n == "tensorboard" else found(n)
    )
    said = mistake(thalweg, "train line.py --tensorboard --out o")
    assert 'pip install "thalweg[tensorboard]"' in said
    assert not (folder / "o").exists()


def test_a_folder_that_cannot_be_written(thalweg: Thalweg):
    # There even root makes no folder.
    said = mistake(thalweg, "train line.py --out /proc/thalweg-run")
    assert "could not be written to /proc/thalweg-run" in said
    assert "Choose another folder" in said


def orders(out: Path) -> dict[str, Any]:
    run = read_run(out)
    assert run["status"] == "finished"
    return run


def untimed(out: Path) -> list[Record]:
    return [replace(r, seconds=0.0) for r in read_records(out)]


def test_every_option_arrives(thalweg: Thalweg, folder: Path):
    board = importlib.util.find_spec("tensorboard") is not None
    said = thalweg(
        "train line.py:task --optimizer qhadam --lr 3e-3 --nu1 0.8 --weight-decay 0.1 "
        "--beta2 linear:start=0.9,end=0.99,steps=8 --schedule one-cycle:final_share=0.2 "
        "--decay decoupled --epochs 2 --batch-size 8 --accumulate 2 --clip-norm 0.5 --ema 0.9 "
        "--precision bfloat16 --evaluate-every 0.5 --tta --nonfinite skip --seed 7 "
        "--convention keras --device cpu --save-every 0 --out o" + " --tensorboard" * board
    )
    assert said.status == 0, said.err
    run = orders(folder / "o")
    (phase,) = run["phases"]
    assert (phase["epochs"], phase["steps"], phase["decay"]) == (2, 8, "decoupled")
    lr = phase["settings"]["lr"]["schedule"]
    assert (lr["schedule"], lr["lr"], lr["steps"], lr["final_share"]) == ("one_cycle", 3e-3, 8, 0.2)
    assert phase["settings"]["beta1"]["schedule"]["schedule"] == "one_cycle_momentum"
    assert run["recipe"] == {
        "batch_size": 8,
        "accumulate": 2,
        "seed": 7,
        "reshuffle": True,
        "clip_norm": 0.5,
        "precision": "bfloat16",
        "ema": 0.9,
        "swa": None,
        "evaluate_every": 0.5,
        "test": True,
        "tta": True,
        "nonfinite": "skip",
    }
    settings = run["optimizer"]["settings"]
    assert (run["optimizer"]["name"], settings["nu1"], settings["weight_decay"]) == (
        "QHAdam",
        0.8,
        0.1,
    )
    assert run["order"]["convention"] == "keras"
    assert "--nu1 0.8" in run["command"]
    records = read_records(folder / "o")
    assert [r.epoch for r in records] == [0.5, 1, 1.5, 2]
    last = records[-1]
    assert last.test == pytest.approx(last.metric)
    assert last.test_tta != last.test
    assert len(list((folder / "o").glob("events.out.tfevents.*"))) == board
    assert len(list((folder / "o/snapshots").iterdir())) == 2


def test_piped_output_is_plain_lines(thalweg: Thalweg, folder: Path):
    said = thalweg("train line.py --swa 1 --out o")
    assert said.status == 0
    lines = said.err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert "\x1b" not in said.out + said.err
    first, *_ = said.out.splitlines()
    assert first.startswith("distance ")
    assert "after 3 epochs" in first
    assert "on the test data: " in said.out
    assert said.out.splitlines()[-2:] == ["weights: o/model.pt", "page: o/report.html"]
    assert "<html" in (folder / "o/report.html").read_text()


def test_no_test_and_full_batches(thalweg: Thalweg, folder: Path):
    said = thalweg("train line.py --no-test --batch-size full --out o")
    assert said.status == 0
    assert "test data" not in said.out
    records = read_records(folder / "o")
    assert [r.steps for r in records] == [1, 2, 3]
    assert records[-1].test is None


def test_phases_of_a_file(thalweg: Thalweg, folder: Path):
    phases = [
        {"epochs": 1, "freeze": "body", "settings": {"lr": "one-cycle:lr=0.1"}},
        {"epochs": 0.5, "decay": "l2", "settings": {"lr": [1e-3, 1e-2], "beta1": 0.8}},
    ]
    (folder / "p.json").write_text(json.dumps(phases))
    said = thalweg("train line.py --phases p.json --out o")
    assert said.status == 0, said.err
    records = read_records(folder / "o")
    assert [(r.phase, r.steps) for r in records] == [(0, 4), (1, 6)]
    assert (records[-1].settings["lr"], records[-1].settings["beta1"]) == (1e-2, 0.8)
    before = (folder / "o/model.pt").read_bytes()
    (folder / "o/model.pt").unlink()
    assert thalweg("train --resume o").status == 0
    assert (folder / "o/model.pt").read_bytes() == before


def test_without_out_a_folder_is_made_for_each_run(thalweg: Thalweg, folder: Path):
    said = thalweg("train line.py --epochs 1")
    (made,) = (folder / "thalweg-runs").iterdir()
    assert made.name.startswith("line-")
    assert f"weights: thalweg-runs/{made.name}/model.pt" in said.out


@pytest.fixture
def finished(thalweg: Thalweg, folder: Path) -> Path:
    assert thalweg("train line.py --save-every 0 --out o").status == 0
    return folder / "o"


def test_a_run_is_not_overwritten(thalweg: Thalweg, finished: Path):
    before = (finished / "run.json").read_bytes()
    said = mistake(thalweg, "train line.py --out o")
    assert "holds a run already" in said
    assert f"thalweg train --resume {finished}" in said
    assert (finished / "run.json").read_bytes() == before


def test_a_finished_run_has_nothing_left_to_do(thalweg: Thalweg, finished: Path):
    before = (finished / "records.jsonl").read_bytes()
    said = thalweg("train --resume o")
    assert said.status == 0
    assert "after 3 epochs" in said.out
    assert (finished / "records.jsonl").read_bytes() == before


def test_a_run_resumes_as_it_was_ordered(thalweg: Thalweg, finished: Path):
    said = mistake(thalweg, "train --resume o --epochs 5 --seed 1 --beta2 0.9")
    for name in ("epochs", "seed", "beta2"):
        assert name in said.partition("cannot change")[0]


def test_a_run_of_a_program_goes_on_by_that_program(thalweg: Thalweg, folder: Path):
    assert list(tw.train(load("line.py"), tw.AdamW, epochs=1, out="o"))
    said = mistake(thalweg, "train --resume o")
    assert "was begun by a program: go on by that program, with resume=True" in said


def test_a_folder_in_use(thalweg: Thalweg, finished: Path):
    with Folder.open(finished):
        said = mistake(thalweg, "train --resume o")
    assert f"in use by a live run (process {os.getpid()}" in said
    assert thalweg("train --resume o").status == 0


def test_changed_code_is_refused_unless_forced(thalweg: Thalweg, finished: Path, folder: Path):
    (folder / "line.py").write_text(TASK.replace("0.01 *", "0.02 *"))
    said = mistake(thalweg, "train --resume o")
    assert "code: line.py was " in said
    assert "--force" in said
    assert len(read_run(finished)["history"]) == 1
    assert thalweg("train --resume o --force").status == 0
    start, again = read_run(finished)["history"]
    assert "forced" not in start
    assert again["forced"][0].startswith("code: line.py was ")


@pytest.mark.filterwarnings("default")
def test_a_damaged_snapshot_is_named_and_the_one_before_it_used(thalweg: Thalweg, finished: Path):
    model = (finished / "model.pt").read_bytes()
    earlier, newest = sorted((finished / "snapshots").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    said = thalweg("train --resume o")
    assert said.status == 0
    (line,) = (x for x in said.err.splitlines() if newest.name in x)
    assert line.startswith("thalweg: passed over")
    assert "truncated or altered" in line
    assert str(Path("o/snapshots") / earlier.name) in line
    assert "Warning" not in said.err
    assert read_run(finished)["history"][-1]["step"] == int(earlier.name[:8])
    assert (finished / "model.pt").read_bytes() == model


def test_a_diverged_run(thalweg: Thalweg, folder: Path):
    said = thalweg(
        "train line.py --optimizer sgd --lr 1e30 --evaluate-every 9 --save-every 0 --out o"
    )
    assert said.status == 1
    (line,) = (x for x in said.err.splitlines() if x.startswith("thalweg:"))
    assert line.startswith("thalweg: diverged: the training loss was ")
    assert " at step " in line
    *_, newest = sorted((folder / "o/snapshots").iterdir())
    assert line.count(f"o/snapshots/{newest.name} is intact: the run can go on from it.") == 1
    assert line.endswith("it.")
    run = read_run(folder / "o")
    assert run["status"] == "diverged"
    assert run["reason"] in line
    assert "diverged" in (folder / "o/report.html").read_text()


@pytest.mark.parametrize("part", ["data", "model", "loss", "augment"])
def test_what_a_task_does_wrong_is_told_by_its_place(thalweg: Thalweg, folder: Path, part: str):
    lines = TASK.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"def {part}("))
    (folder / "line.py").write_text("\n".join([*lines[: at + 1], "    1 / 0", *lines[at + 1 :]]))
    said = thalweg("train line.py --out o")
    assert said.status == 1
    told = f"thalweg: the run failed: ZeroDivisionError: division by zero (line.py, line {at + 2})"
    first, *more = said.err.splitlines()
    assert first == told
    begun = part in ("loss", "augment")
    assert more == (
        ["Once that is mended, go on with:", "  thalweg train --force --resume o"] * begun
    )
    assert (folder / "o/run.json").exists() == begun
    if begun:
        (folder / "line.py").write_text(TASK)
        assert thalweg("train --force --resume o").status == 0
        assert len(orders(folder / "o")["history"]) == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    thalweg: Thalweg, folder: Path, number: int, status: int
):
    order = "train line.py --epochs 40 --ema 0.9 --schedule one-cycle --accumulate 2"
    process = subprocess.Popen(
        [sys.executable, "-m", "thalweg", *order.split(), "--save-every", "0.1", "--out", "o"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PAUSE": "0.02"},
        # Where the tests run in the background, they ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not list((folder / "o").glob("snapshots/0*.pt")):
        assert process.poll() is None
        assert time.monotonic() < end, "nothing was kept"
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "")
    assert "Traceback" not in err
    assert err.endswith("Stopped; nothing is lost. Go on with:\n  thalweg train --resume o\n")
    run = read_run(folder / "o")
    assert (run["status"], run["reason"]) == (
        "stopped",
        f"stopped by {signal.Signals(number).name}",
    )
    assert not (folder / "o/model.pt").exists()
    assert thalweg("train --resume o").status == 0
    assert 0 < orders(folder / "o")["history"][-1]["step"] < 80
    assert thalweg(f"{order} --out whole").status == 0
    assert untimed(folder / "o") == untimed(folder / "whole")
    assert (folder / "o/model.pt").read_bytes() == (folder / "whole/model.pt").read_bytes()
