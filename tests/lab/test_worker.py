"""What a worker says, with the other end of its connection in the same process."""

import gc
import math
import re
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import TaskFacts
from thalweg.lab.worker import Ended, Message, Order, Progress, Ready, Unusable, serve, told
from thalweg.training import train

TASK = """
import json
import torch
from torch import nn
from thalweg import Data, Task

def data():
    x = torch.linspace(-1, 1, 16).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x))

def loss(outputs, targets):
    return nn.functional.mse_loss(outputs, targets)

def distance(outputs, targets):
    return (outputs - targets).abs().mean()

task = Task("line", data, lambda: nn.Linear(1, 1), loss, distance, "distance", False, 3, 4)
"""
PLAN = Plan("line.py", ("sgd", "adam"), "paper", 0.1, 2, 8, (0, 1), None)
FACTS = TaskFacts("line", "", "distance", False, 3, 4, None)


@dataclass
class Parent:
    """The other end: gives orders, then is gone."""

    orders: list[Order]
    heard: list[Message] = field(default_factory=list)
    deaf_after: int = 10**9

    def recv(self) -> Order:
        if not self.orders:
            raise EOFError
        return self.orders.pop(0)

    def send(self, message: Message) -> None:
        if len(self.heard) == self.deaf_after:
            raise BrokenPipeError
        self.heard.append(message)


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """`serve` is made for a process of its own."""
    handler, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "line.py"
    path.write_text(TASK)
    return path


def heard(file: Path, *runs: Run, plan: Plan = PLAN) -> list[Message]:
    parent = Parent([(plan, run) for run in runs])
    serve(parent, str(file))  # pyright: ignore
    return parent.heard


def broken(file: Path, function: str, body: str) -> None:
    """Put a line at the beginning of a function of the task."""
    text = file.read_text()
    assert text.count(f"def {function}(") == 1
    file.write_text(re.sub(rf"(def {function}\(.*\n)", rf"\1    {body}\n", text))


def test_runs_are_carried_out_one_after_the_other(file: Path):
    runs = [Run("adam", 1), Run("sgd:lr=0.5", 0)]
    ready, *rest = heard(file, *runs)
    assert ready == Ready(FACTS)
    assert [type(m) for m in rest] == 2 * [Progress, Progress, Ended]
    for run, lr, (first, second, ended) in zip(runs, (0.1, 0.5), (rest[:3], rest[3:]), strict=True):
        assert isinstance(ended, Ended)
        assert isinstance(first, Progress)
        assert isinstance(second, Progress)
        assert first.run == second.run == ended.result.run == run
        assert ended.result.status == "finished"
        assert ended.result.reason == ""
        assert ended.result.epochs == (first.epoch, second.epoch)
        assert [e.steps for e in ended.result.epochs] == [2, 4]
        assert ended.result.settings["lr"] == lr


def test_a_run_is_what_training_with_the_same_seed_is(file: Path):
    from thalweg import Optimizer, adam, tasks

    *_, ended = heard(file, Run("adam:beta1=0.5", 7), plan=replace(PLAN, convention="keras"))
    assert isinstance(ended, Ended)
    by_hand = train(
        tasks.load(str(file)),
        lambda p: Optimizer(p, adam(lr=0.1, beta1=0.5), convention="keras"),
        epochs=2,
        batch_size=8,
        seed=7,
    )
    found = [replace(e, seconds=0.0) for e in ended.result.epochs]
    assert found == [replace(e, seconds=0.0) for e in by_hand]


def test_every_setting_is_reported(file: Path):
    *_, ended = heard(file, Run("l2:weight_decay=0.01+aggmo", 0))
    assert isinstance(ended, Ended)
    settings = ended.result.settings
    assert settings["weight_decay"] == 0.01
    assert settings["betas"] == (0.0, 0.9, 0.99)
    assert settings["lr"] == 0.1


def test_divergence_is_a_result_with_the_epochs_before_it(file: Path):
    text = file.read_text().replace(".abs()", ".abs().mul(next(factors))")
    file.write_text(text + "factors = iter([1.0, torch.nan])\n")
    _, progress, ended = heard(file, Run("sgd", 0))
    assert isinstance(progress, Progress)
    assert isinstance(ended, Ended)
    assert ended.result.status == "diverged"
    assert ended.result.reason == "the metric (distance) was nan after epoch 2"
    assert ended.result.epochs == (progress.epoch,)
    assert not math.isnan(progress.epoch.metric)
    assert ended.result.settings["lr"] == 0.1


def line_of(file: Path, text: str) -> int:
    [number] = [i for i, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return number


def test_an_error_of_the_task_is_that_runs_result(file: Path):
    body = "if torch.initial_seed() == 1: raise ValueError('a\\\\n  b')"
    broken(file, "loss", body)
    first, second = (
        m.result
        for m in heard(file, Run("sgd", 1), Run("sgd", 0), plan=replace(PLAN, epochs=1))
        if isinstance(m, Ended)
    )
    assert first.status == "failed"
    assert first.reason == f"ValueError: a b (line.py, line {line_of(file, 'raise')})"
    assert first.epochs == ()
    assert second.status == "finished"


def test_a_file_that_a_task_does_not_find_is_that_runs_result(file: Path):
    broken(file, "loss", "open('/no/such/file')")
    *_, ended = heard(file, Run("sgd", 0))
    assert isinstance(ended, Ended)
    assert ended.result.status == "failed"
    assert "FileNotFoundError" in ended.result.reason
    assert "line.py, line" in ended.result.reason


def test_a_task_that_exits_is_that_runs_result(file: Path):
    broken(file, "loss", "raise SystemExit('enough')")
    *_, ended = heard(file, Run("sgd", 0))
    assert isinstance(ended, Ended)
    assert "SystemExit: enough" in ended.result.reason


def test_a_loss_over_shapes_that_do_not_match_fails(file: Path):
    text = file.read_text().replace(
        "mse_loss(outputs, targets)", "mse_loss(outputs, targets[:, 0])"
    )
    file.write_text(text)
    *_, ended = heard(file, Run("sgd", 0))
    assert isinstance(ended, Ended)
    assert ended.result.reason.startswith("UserWarning: Using a target size")
    assert f"(line.py, line {line_of(file, 'mse_loss')})" in ended.result.reason


def test_task_that_is_not_there(tmp_path: Path):
    [unusable] = heard(tmp_path / "none.py")
    assert isinstance(unusable, Unusable)
    assert "does not exist" in unusable.reason


def test_data_that_cannot_be_loaded(file: Path):
    broken(file, "data", "raise KeyError('x')")
    [unusable] = heard(file)
    place = f"(line.py, line {line_of(file, 'raise')})"
    assert unusable == Unusable(f"the data of task {file} cannot be loaded: KeyError: 'x' {place}")


@pytest.mark.parametrize("deaf_after", [0, 1, 2, 3])
def test_it_ends_when_nobody_listens(file: Path, deaf_after: int):
    parent = Parent([(PLAN, Run("sgd", seed)) for seed in (0, 1)], deaf_after=deaf_after)
    serve(parent, str(file))  # pyright: ignore
    assert len(parent.heard) == deaf_after


def test_it_keeps_to_one_thread_and_leaves_ctrl_c_to_the_parent(file: Path):
    torch.set_num_threads(2)
    heard(file)
    assert torch.get_num_threads() == 1
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert float(torch.full((1,), 1e-30) * 1e-10) == 0
    assert gc.isenabled()


# One line for an error:


def caught(file: Path, body: str) -> Exception:
    """What a function of the user's, compiled as if it stood in a file, raises."""
    file.write_text(f"def mine():\n    {body}\n")
    names: dict[str, object] = {}
    exec(compile(file.read_text(), file, "exec"), names)
    with pytest.raises(Exception) as error:  # noqa: PT011
        names["mine"]()  # pyright: ignore
    # Without the frame of this test.
    raised = error.value
    raised.__traceback__ = raised.__traceback__ and raised.__traceback__.tb_next
    return raised


def test_told_is_one_line_with_the_place_in_the_users_file(tmp_path: Path):
    error = caught(tmp_path / "mine.py", "raise RuntimeError('one\\n\\n   two\\tthree')")
    assert told(error) == "RuntimeError: one two three (mine.py, line 2)"


def test_told_skips_the_frames_of_torch(tmp_path: Path):
    body = "import torch; torch.nn.Linear(2, 2)(torch.ones(3))"
    said = told(caught(tmp_path / "mine.py", body))
    assert said.startswith("RuntimeError: ")
    assert said.endswith("(mine.py, line 2)")


def test_told_skips_our_frames(tmp_path: Path):
    body = "import thalweg; thalweg.adam(beta1=2)"
    assert told(caught(tmp_path / "mine.py", body)).endswith("(mine.py, line 2)")


def test_told_skips_the_frames_of_pythons_library(tmp_path: Path):
    said = told(caught(tmp_path / "mine.py", "import json; json.loads('')"))
    assert said.endswith("(mine.py, line 2)")


def test_told_without_a_place_or_a_message():
    assert told(ValueError("so")) == "ValueError: so"
    assert told(ValueError()).strip() == "ValueError:"
