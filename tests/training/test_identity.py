"""Each thing that makes a run another run is told from it; what does not matter is not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg import Data, Task, tasks
from thalweg.training.differences import Identity, differences
from thalweg.training.identity import environment, identity

OWN = """
import functools
import torch
from torch import nn
from thalweg import Data, Task
from layers import Block

def data():
    x = torch.arange(24.0).reshape(8, 3)
    return Data((x, x[:, 0] > 9), (x, x[:, 0] > 9))

def distance(outputs, targets, p):
    return (outputs - targets).abs().pow(p).mean()

def model():
    return Block()

task = Task("own", data, model, functools.partial(distance, p=2), nn.functional.l1_loss)
"""
LAYERS = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)
"""


def pair(rows: int = 5) -> tuple[Tensor, Tensor]:
    return torch.arange(rows * 2.0).reshape(rows, 2), torch.arange(rows)


DATA = Data(pair(), pair(), pair())
DIGITS = tasks.load("digits")


def of(task: Task = DIGITS, model: nn.Module | None = None, data: Data = DATA) -> Identity:
    """An identity as it is after it was stored."""
    return json.loads(json.dumps(identity(task, model or nn.Linear(2, 3), data)))


def test_the_same_is_the_same() -> None:
    assert differences(of(), of()) == []


def test_another_task_is_told() -> None:
    assert differences(of(), of(replace(DIGITS, name="sums"))) == ["task: name was digits, is sums"]


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (nn.Linear(2, 4), "weight was 3x2 float32, is 4x2 float32 (and 2 more)"),
        (nn.Linear(2, 3, bias=False), "bias was 3 float32, is not there any more"),
        (nn.Linear(2, 3).double(), "weight was 3x2 float32, is 3x2 float64 (and 1 more)"),
    ],
)
def test_the_first_parameter_that_differs_is_told(model: nn.Module, line: str) -> None:
    assert differences(of(), of(model=model)) == [f"model: {line}"]


def test_buffers_are_part_of_a_model() -> None:
    model = nn.Linear(2, 3)
    model.register_buffer("scale", torch.tensor(1.0), persistent=False)
    assert differences(of(), of(model=model)) == ["model: scale was not there, is scalar float32"]


def changed(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.view(-1)[-1] += 1
    return copy


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("place", [0, 1])
def test_one_number_of_the_data_is_enough(part: str, place: int) -> None:
    tensors = list(pair())
    tensors[place] = changed(tensors[place])
    (line,) = differences(of(), of(data=replace(DATA, **{part: tuple(tensors)})))
    assert line.startswith(f"data: {part} {('inputs', 'targets')[place]} was 5")


def test_the_shape_of_data_counts_and_their_layout_does_not() -> None:
    x, y = pair()
    strided = tuple(torch.stack((t, t), dim=-1)[..., 0] for t in (x, y))
    assert not any(t.is_contiguous() for t in strided)
    assert differences(of(), of(data=replace(DATA, train=strided))) == []
    assert differences(of(), of(data=replace(DATA, train=(x.reshape(5, 1, 2), y)))) != []
    assert differences(of(), of(data=replace(DATA, train=(x.view(torch.int32), y)))) != []
    assert "test" in differences(of(), of(data=replace(DATA, test=None)))[0]


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float64, torch.complex64]
)
def test_data_of_every_type_can_be_told_apart(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype)
    a, b = (of(data=Data((x, x), (x, x))) for x in (zeros, ones))
    assert len(differences(a, b)) == 1


def own(folder: Path) -> Task:
    folder.mkdir(exist_ok=True)
    for name, text in (("own.py", OWN), ("layers.py", LAYERS)):
        if not (folder / name).exists():
            (folder / name).write_text(text)
    return tasks.load(str(folder / "own.py"))


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets the module beside the task's file, as a new process would."""
    import sys

    path, modules = sys.path[:], set(sys.modules)

    def forget() -> None:
        sys.path[:] = path
        for name in {*sys.modules} - modules:
            del sys.modules[name]

    monkeypatch.setattr(sys, "path", sys.path[:])
    return forget


def test_a_change_in_the_code_is_told_by_its_file_wherever_that_is(
    tmp_path: Path, forgotten: Callable[[], None]
) -> None:
    def now(folder: Path) -> dict[str, Any]:
        task = own(folder)
        found = of(task, task.model())
        forgotten()
        return found

    first = now(tmp_path / "a")
    assert first["code"].keys() == {"own.py", "layers.py"}
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("__pycache__"))
    assert differences(first, now(tmp_path / "b")) == []
    for name in ("own.py", "layers.py"):
        file = tmp_path / "b" / name
        whole = file.read_text()
        file.write_text(whole + "\n# Another line.\n")
        (line,) = differences(first, now(tmp_path / "b"))
        assert line.startswith(f"code: {name} was {first['code'][name]}, is ")
        file.write_text(whole)


@pytest.mark.parametrize("name", ["data", "model", "loss", "metric", "augment", "views", "layers"])
def test_each_function_of_a_task_counts(name: str) -> None:
    def mine() -> None: ...

    class Task:
        def __init__(self, **functions: object) -> None:
            self.name = "any"
            self.__dict__.update(functions)

    installed = {"loss": nn.functional.mse_loss, "metric": nn.MSELoss(), "views": pytest.approx}
    empty: Any = Task(**installed, model=partial(dict), data=shutil.copy)
    assert of(empty)["code"] == {}
    with_mine: Any = Task(**{name: partial(partial(mine), 1)})
    assert of(with_mine)["code"].keys() == {"test_identity.py"}


def test_what_has_no_file_is_no_hindrance() -> None:
    scope: dict[str, Any] = {}
    exec("def loss(a, b): return a", scope)
    assert of(replace(DIGITS, loss=scope["loss"]))["code"] == of()["code"]


def test_the_environment_names_what_equal_bits_need() -> None:
    now = environment()
    other = {**now, "threads": "99"}
    threads = torch.get_num_threads()
    assert differences({"environment": now}, {"environment": other}) == [
        f"environment: threads was {threads}, is 99"
    ]
    assert {"thalweg", "torch", "python", "threads", "processor"} == now.keys()


def test_an_installed_task_is_told_by_the_version_of_its_package(
    tmp_path: Path, forgotten: Callable[[], None]
) -> None:
    task = own(tmp_path / "site-packages")
    assert of(task, task.model())["code"] == {}
    forgotten()
