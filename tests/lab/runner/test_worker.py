"""What a worker says, with the other end of its connection in the same process."""

import gc
import math
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import pytest
import torch

from thalweg import rules
from thalweg.lab.plan import Order, Run
from thalweg.lab.runner.worker import (
    Ended,
    Load,
    Loaded,
    Message,
    Progress,
    Unusable,
    packed,
    serve,
    told,
)
from thalweg.lab.study import Result, TaskFacts
from thalweg.tasks import Task, load
from thalweg.training import train

TASK = """
import json
import torch
from torch import nn
from thalweg import Data, Task

def data():
    x = torch.linspace(-1, 1, 16).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x), test=(x, 3 * x))

def loss(outputs, targets):
    return nn.functional.mse_loss(outputs, targets)

def distance(outputs, targets):
    return (outputs - targets).abs().mean()

task = Task("line", data, lambda: nn.Linear(1, 1), loss, distance, "distance", False, 3, 4)
"""


@dataclass
class Parent:
    """The other end: gives orders, then is gone."""

    orders: list[bytes]
    heard: list[Message] = field(default_factory=list)
    deaf_after: int = 10**9

    def recv_bytes(self) -> bytes:
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
    dtype = torch.get_default_dtype()
    with warnings.catch_warnings():
        yield
    signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_flush_denormal(False)
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "line.py"
    path.write_text(TASK)
    return path


def order(file: Path, rule: rules.Rule = rules.sgd, seed: int = 0, **changes: object) -> Order:
    run = Run(str(file), rule.name, 0, seed)
    there = Order(run, rule(lr=0.1), "paper", None, {}, 2, 8, True, False)
    return replace(there, **changes)  # pyright: ignore


def heard(file: Path | Task, *orders: Order, threads: int = 1) -> list[Message]:
    asked = Load(str(file)) if isinstance(file, Path) else Load(file.name, file)
    parent = Parent([packed(asked), *map(packed, orders)])
    serve(parent, threads)  # pyright: ignore
    return parent.heard


def results(messages: list[Message]) -> list[Result]:
    return [m.result for m in messages if isinstance(m, Ended)]


def broken(file: Path, function: str, body: str) -> None:
    """Put a line at the beginning of a function of the task."""
    text = file.read_text()
    assert text.count(f"def {function}(") == 1
    file.write_text(re.sub(rf"(def {function}\(.*\n)", rf"\1    {body}\n", text))


def line_of(file: Path, text: str) -> int:
    [number] = [i for i, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return number


# Runs:


def test_runs_are_carried_out_one_after_the_other(file: Path):
    orders = [order(file, rules.adam, 1), order(file, rules.momentum, extra={"decay": "l2"})]
    loaded, *rest = heard(file, *orders)
    assert isinstance(loaded, Loaded)
    assert loaded.spec == str(file)
    assert loaded.task == TaskFacts("line", "", "distance", False, 3, 4, None, True, 2)
    assert loaded.identity["task"] == {"name": "line"}
    assert [type(m) for m in rest] == 2 * [Progress, Progress, Ended]
    for there, (first, second, ended) in zip(orders, (rest[:3], rest[3:]), strict=True):
        assert isinstance(ended, Ended)
        assert isinstance(first, Progress)
        assert isinstance(second, Progress)
        result = ended.result
        assert first.run == second.run == result.run == there.run
        assert (result.status, result.reason) == ("finished", "")
        assert result.epochs == (first.epoch, second.epoch)
        assert [e.steps for e in result.epochs] == [2, 4]
        assert result.settings["lr"] == 0.1
        assert result.memory is not None
        assert 2**20 < result.memory < 2**40
    adam, momentum = results(rest)
    assert adam.settings["beta1"] == 0.9
    assert momentum.settings["decay"] == "l2"
    # Two moments or a velocity, and the count of steps, which is one number for each of the two
    # parameters; each has four bytes.
    assert (adam.state_bytes, momentum.state_bytes) == (12, 8)


def test_a_run_is_what_training_with_the_same_seed_is(file: Path):
    from thalweg import Optimizer, Phase, adam
    from thalweg.schedules.spelling import parsed

    rule = adam(lr=0.1, beta1=0.5)
    asked = order(file, seed=7, convention="keras", rule=rule, schedule="cosine", test=True)
    [result] = results(heard(file, asked))
    by_hand = train(
        load(str(file)),
        lambda p: Optimizer(p, rule, convention="keras"),
        Phase(2, lr=parsed("cosine", 0.1)),
        batch_size=8,
        seed=7,
        test=True,
    )
    found = [replace(e, seconds=0.0) for e in result.epochs]
    assert found == [replace(e, seconds=0.0) for e in by_hand]
    assert found[-1].test is not None


def test_the_test_data_are_left_alone_unless_a_run_judges(file: Path):
    quiet, judging = results(heard(file, order(file), order(file, test=True)))
    assert quiet.epochs[-1].test is None
    assert judging.epochs[-1].test is not None


def test_divergence_is_a_result_with_the_epochs_before_it(file: Path):
    text = file.read_text().replace(".abs()", ".abs().mul(next(factors))")
    file.write_text(text + "factors = iter([1.0, torch.nan])\n")
    _, progress, ended = heard(file, order(file))
    assert isinstance(progress, Progress)
    assert isinstance(ended, Ended)
    assert ended.result.status == "diverged"
    assert ended.result.reason == "the metric (distance) was nan after epoch 2"
    assert ended.result.epochs == (progress.epoch,)
    assert not math.isnan(progress.epoch.metric)
    assert ended.result.settings["lr"] == 0.1


# What a task does wrong:


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("None", "gave None instead of one number: does it lack its return?"),
        ("outputs", "gave a Tensor of shape (16, 1) instead of one number"),
        ("'high'", "gave 'high' instead of one number: give a number"),
        ("[1.0]", "gave [1.0] instead of one number"),
    ],
)
def test_a_metric_that_is_no_number_is_told(file: Path, value: str, says: str):
    broken(file, "distance", f"return {value}")
    [result] = results(heard(file, order(file)))
    assert result.status == "failed"
    assert result.reason.startswith(f"the metric (distance) {says}")


@pytest.mark.parametrize("value", ["1", "True", "torch.tensor([0.5])", "0.5"])
def test_a_constant_metric_is_a_number_like_others(file: Path, value: str):
    broken(file, "distance", f"return {value}")
    [result] = results(heard(file, order(file)))
    assert [e.metric for e in result.epochs] in ([1.0, 1.0], [0.5, 0.5])


def test_an_error_of_the_task_is_that_runs_result(file: Path):
    broken(file, "loss", "if torch.initial_seed() == 1: raise ValueError('a\\\\n  b')")
    first, second = results(heard(file, order(file, seed=1), order(file)))
    assert first.status == "failed"
    assert first.reason == f"ValueError: a b (line.py, line {line_of(file, 'raise')})"
    assert first.epochs == ()
    assert second.status == "finished"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("open('/no/such/file')", "FileNotFoundError"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
        ("torch.empty(10**15)", "out of memory: RuntimeError: "),
        ("raise MemoryError", "out of memory: MemoryError"),
        ("input()", "EOFError"),
        ("return None", "AttributeError: 'NoneType'"),
        ("raise ValueError(10_000 * 'x')", f"ValueError: {600 * 'x'} ... (line.py"),
    ],
)
def test_whatever_a_task_does_is_that_runs_result(
    file: Path, body: str, says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", StringIO())
    broken(file, "loss", body)
    [result] = results(heard(file, order(file)))
    assert result.status == "failed"
    assert result.reason.startswith(says)


def test_a_task_may_print_and_put_something_else_in_place_of_stdout(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdout", StringIO())
    broken(file, "loss", "import sys; print('lost'); sys.stdout = None")
    assert [r.status for r in results(heard(file, order(file), order(file)))] == 2 * ["finished"]


def test_a_loss_over_shapes_that_do_not_match_fails(file: Path):
    text = file.read_text().replace(
        "mse_loss(outputs, targets)", "mse_loss(outputs, targets[:, 0])"
    )
    file.write_text(text)
    [result] = results(heard(file, order(file)))
    assert result.reason.startswith("UserWarning: Using a target size")
    assert f"(line.py, line {line_of(file, 'mse_loss')})" in result.reason


# Loading:


def test_task_that_is_not_there(tmp_path: Path):
    [unusable] = heard(tmp_path / "none.py")
    assert isinstance(unusable, Unusable)
    assert "does not exist" in unusable.reason


def test_data_that_cannot_be_loaded(file: Path):
    broken(file, "data", "raise KeyError('x')")
    place = f"(line.py, line {line_of(file, 'raise')})"
    assert heard(file) == [Unusable(f"task {file} cannot be loaded: KeyError: 'x' {place}")]


def test_a_task_that_is_given_is_not_looked_for(file: Path):
    there = load(str(file))
    del sys.modules[f"own_task_{file.stem}"]
    file.unlink()
    loaded, _, _, ended = heard(there, order(Path("line")))
    assert isinstance(loaded, Loaded)
    assert isinstance(ended, Ended)
    assert loaded.spec == "line"
    assert ended.result.status == "finished"


def test_a_task_may_be_of_a_class_that_is_made_in_another_way(file: Path):
    text = file.read_text().replace("task = Task(", "FIELDS = (")
    init = "    def __init__(self):\n        super().__init__(*FIELDS)\n"
    file.write_text(f"{text}class Own(Task):\n{init}task = Own()\n")
    assert [r.status for r in results(heard(file, order(file)))] == ["finished"]


def test_what_cannot_be_read_is_told_and_the_worker_goes_on(file: Path):
    parent = Parent([b"\x80nothing", packed(Load(str(file)))])
    serve(parent)  # pyright: ignore
    unusable, loaded = parent.heard
    assert isinstance(unusable, Unusable)
    assert "cannot be read: " in unusable.reason
    assert isinstance(loaded, Loaded)


@pytest.mark.parametrize("deaf_after", [0, 1, 2, 3, 4])
def test_it_ends_when_nobody_listens(file: Path, deaf_after: int):
    orders = [packed(Load(str(file))), packed(order(file)), packed(order(file))]
    parent = Parent(orders, deaf_after=deaf_after)
    serve(parent)  # pyright: ignore
    assert len(parent.heard) == deaf_after


def test_a_task_begins_with_the_process_as_it_should_be(file: Path):
    broken(file, "data", "torch.set_default_dtype(torch.float64); torch.set_num_threads(1)")
    heard(file)
    assert torch.get_default_dtype() is torch.float64
    file.write_text(TASK)
    heard(file, threads=2)
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_num_threads() == 2
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


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ("raise RuntimeError('one\\n\\n   two\\tthree')", "RuntimeError: one two three"),
        ("import torch; torch.nn.Linear(2, 2)(torch.ones(3))", "RuntimeError: "),
        ("import thalweg; thalweg.adam(beta1=2)", "UsageError: beta1 is 2"),
        ("import json; json.loads('')", "JSONDecodeError: "),
    ],
)
def test_told_is_one_line_with_the_place_in_the_users_file(tmp_path: Path, body: str, begins: str):
    said = told(caught(tmp_path / "mine.py", body.replace("\n", "\\n").replace("\t", "\\t")))
    assert said.startswith(begins)
    assert said.endswith(" (mine.py, line 2)")
    assert "\n" not in said


def test_told_without_a_place_or_a_message():
    assert told(ValueError("so")) == "ValueError: so"
    assert told(ValueError()).strip() == "ValueError:"
