"""What TensorBoard gets to see of a run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thalweg.errors import UsageError
from thalweg.training import board
from thalweg.training.board import Board
from thalweg.training.records import Progress, Record


def run(folder: Path, *begun_at: int) -> Path:
    history = [{"step": step} for step in begun_at]
    (folder / "run.json").write_text(json.dumps({"format": 1, "history": history}))
    return folder


def progress(steps: int) -> Progress:
    return Progress(steps, 40, steps / 10, 4, steps / 8, steps, 1.0, {"lr": 1 / steps})


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By name what TensorBoard shows, by step."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read: Any = events.EventAccumulator(str(folder))
    read.Reload()
    return {n: {e.step: e.value for e in read.Scalars(n)} for n in read.Tags()["scalars"]}


def test_losses_metric_and_settings_by_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Board(run(tmp_path, 0)) as shown:
        shown.watch(progress(4))
        shown(Record(1.0, 10, 0.25, 0.5, 0.75, 1.0, 0, {"lr": 0.5, "beta1": 0.875}))
        shown(Record(2.0, 20, 0.125, 0.5, 0.0, 1.0, 0, {}, test=0.5, test_tta=0.625))
    assert scalars(tmp_path) == {
        "loss/batch": {4: 0.5},
        "settings/lr": {4: 0.25, 10: 0.5},
        "settings/beta1": {10: 0.875},
        "loss/training": {10: 0.25, 20: 0.125},
        "loss/validation": {10: 0.5, 20: 0.5},
        "metric/validation": {10: 0.75, 20: 0.0},
        "metric/test": {20: 0.5},
        "metric/test with augmentation": {20: 0.625},
    }


def test_a_resumed_run_takes_back_what_it_does_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Board(run(tmp_path, 0)) as shown:
        for steps in (4, 8, 16):
            shown.watch(progress(steps))
    with Board(run(tmp_path, 0, 8)) as shown:
        shown.watch(progress(32))
    assert list(scalars(tmp_path)["loss/batch"]) == [4, 8, 32]


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "find_spec", lambda name: None if name == "tensorboard" else 1)
    with pytest.raises(UsageError, match=r'pip install "thalweg\[tensorboard\]"'):
        Board(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_not_imported_unless_it_is_used() -> None:
    code = (
        "import sys, thalweg.training, thalweg.training.board; print('tensorboard' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
