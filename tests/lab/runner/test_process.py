"""Real workers of real programs: how they begin from a script, and how they end with it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# No main guard; its task and its rule are known nowhere but in it.
SCRIPT = """
from pathlib import Path

print("begun")
import torch
from torch import nn

import thalweg

HERE = Path({folder!r})

def data():
    print("loading")
    x = torch.linspace(-1, 1, 16).unsqueeze(1)
    return thalweg.Data(train=(x, 2 * x), validation=(x, 2 * x), test=(x, 2 * x))

class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x):
        return self.line(x)

@thalweg.rule("Own", paper="")
def own(g, *, lr=thalweg.hyper(0.1, "[0, inf)", "rate")):
    return lr * g

task = thalweg.Task("mine", data, Line, nn.functional.mse_loss, lambda o, t: (o - t).abs().mean(),
                    "distance", False, 1, 8)
study = thalweg.compare(task, [own, "sgd"], seeds=1, jobs=1, out=HERE / "o", quiet=True)
for found in study.results:
    print(found.run.optimizer, found.status, found.reason)
"""
# A task that never lets go: neither of the interpreter nor of its process.
HANGING = """
import os, re
from pathlib import Path
from thalweg import Task
from thalweg.lab.runner.pool import Pool

def data():
    Path({path!r}).write_text(str(os.getpid()))
    re.match("(a+)+b", "a" * 99)

with Pool({{"mine": Task("mine", data, data, data, data)}}, 1) as pool:
    pool.loaded()
"""


@pytest.mark.parametrize("kind", ["file", "typed"])
def test_a_script_needs_no_main_guard(tmp_path: Path, kind: str):
    script = SCRIPT.format(folder=str(tmp_path))
    if kind == "typed":
        # Of a rule without a file there is no source to be told by when a study is gone on with.
        script = script.replace("[own,", '["adam",')
    file = tmp_path / "script.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, str(file) if kind == "file" else "-"],
        input=None if kind == "file" else script,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        [f"{'Own' if kind == 'file' else 'adam'} finished ", "begun", "sgd finished "]
    )
    # What a task prints is kept apart from what the program does.
    assert done.stderr.splitlines() == ["loading"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_with_its_parent_whatever_it_does(tmp_path: Path, how: signal.Signals):
    path = tmp_path / "pid"
    script = HANGING.format(path=str(path))
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    try:
        pid = int(awaited(path))
        parent.send_signal(how)
        parent.communicate(timeout=20)
        assert parent.returncode == -how
        assert gone(pid)
    finally:
        parent.kill()


def awaited(path: Path) -> str:
    for _ in range(600):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
            # It may wait for whoever takes its place as a parent to take note.
            if re.search(r"State:\s+Z", Path(f"/proc/{pid}/status").read_text()):
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False
