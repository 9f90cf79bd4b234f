"""Finding a task by its name or in a user's file, and every way in which that can go wrong."""

import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from thalweg.errors import UsageError
from thalweg.tasks import TASKS, Data, Task, load
from thalweg.training import train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-task.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

SMALL = """
from torch import nn, ones
from thalweg.tasks import Data, Task

def data():
    return Data((ones(4, 1), ones(4, 1)), (ones(2, 1), ones(2, 1)))

def model():
    return nn.Linear(1, 1)

task = Task("small", data, model, nn.functional.mse_loss, nn.functional.mse_loss)
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return path


def message(spec: object) -> str:
    with pytest.raises(UsageError) as caught:
        load(str(spec))
    return str(caught.value)


@pytest.mark.parametrize("name", TASKS)
def test_built_in_task_is_called_as_in_the_table(name: str):
    if name == "digits":
        pytest.importorskip("sklearn")
    task = load(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.about == TASKS[name]


def test_every_task_module_is_in_the_table():
    shared = {"task", "classification", "evaluation", "files", "__init__"}
    shared |= {"idx_images", "cifar10_batches", "photographs"}
    files = (ROOT / "src" / "thalweg" / "tasks").glob("*.py")
    assert {f.stem for f in files} - shared == {name.replace("-", "_") for name in TASKS}


def test_importing_the_table_imports_nothing_heavy():
    code = "import sys, thalweg.tasks; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_unknown_name():
    said = message("fashion_mnist")
    assert "'fashion_mnist'" in said
    assert "Did you mean fashion-mnist" in said
    assert "digits" in said
    assert "path/to/file.py:task" in said


@pytest.mark.parametrize("attribute", [":task", "", ":"])
def test_own_task(small: Path, attribute: str):
    assert load(f"{small}{attribute}").name == "small"


def test_own_task_under_another_name(small: Path):
    small.write_text(SMALL + "\nfrom dataclasses import replace\nwide = replace(task, name='w')\n")
    assert load(f"{small}:wide").name == "w"


def test_relative_path(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(small.parent)
    assert load("small.py:task").name == "small"


def test_edited_file_is_read_again(small: Path):
    load(str(small))
    small.write_text(SMALL.replace('"small"', '"smaller"'))
    assert load(str(small)).name == "smaller"


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch):
    # A task's folder stays on the path, as a script's does.
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in ("beside", "broken"):
        if name not in before:
            sys.modules.pop(name, None)


def test_sibling_is_found(small: Path):
    small.write_text("from beside import task\n")
    (small.parent / "beside.py").write_text(SMALL)
    assert load(str(small)).name == "small"


def test_file_with_the_name_of_a_module_does_not_replace_it(tmp_path: Path):
    import random

    (tmp_path / "random.py").write_text(SMALL)
    assert load(str(tmp_path / "random.py")).name == "small"
    assert sys.modules["random"] is random


def test_spawned_process_loads_an_own_task(small: Path):
    small.write_text("from beside import task\n")
    (small.parent / "beside.py").write_text(SMALL)
    here = load(str(small))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        # What comes back refers to functions by module and name, which both processes agree on.
        assert pool.submit(load, str(small)).result() == here


def test_file_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    said = message("nowhere.py:task")
    assert "task file nowhere.py does not exist" in said
    assert str(tmp_path / "nowhere.py") in said


def test_folder_instead_of_file(tmp_path: Path):
    (tmp_path / "folder.py").mkdir()
    assert "is not a file" in message(tmp_path / "folder.py")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import torch\n\nthis is no python\n", "small.py, line 3: SyntaxError: invalid syntax"),
        ("\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named 'no_such_"),
        ("def f():\n    return 1 / 0\n\nf()\n", "small.py, line 2: ZeroDivisionError: division"),
        ("import sys\nsys.exit('usage: small')\n", "small.py, line 2: SystemExit: usage: small"),
        ("import beside\n", "beside.py, line 2: NameError: name 'undefined' is not defined"),
        ("import torch\n\ntorch.ones(2) @ torch.ones(3)\n", "small.py, line 3: RuntimeError: "),
        ("import broken\n", "broken.py, line 1: SyntaxError: "),
        ("import json\n\njson.loads('{')\n", "small.py, line 3: JSONDecodeError: "),
    ],
)
def test_file_that_raises(small: Path, text: str, says: str):
    small.write_text(text)
    (small.parent / "beside.py").write_text("\nundefined\n")
    (small.parent / "broken.py").write_text("(\n")
    before = set(sys.modules)
    said = message(small)
    assert f"{small} cannot be imported" in said
    assert says in said
    assert not [m for m in set(sys.modules) - before if m.startswith("own_task")]


def test_file_that_is_not_text(small: Path):
    small.write_bytes(b"\x80\x81")
    assert "cannot be imported" in message(small)


def test_missing_attribute_offers_the_nearest(small: Path):
    said = message(f"{small}:tsk")
    assert "'tsk'" in said
    assert str(small) in said
    assert "Did you mean task?" in said


def test_missing_attribute_of_a_file_without_tasks(small: Path):
    small.write_text("x = 1\n")
    said = message(small)
    assert "has no 'task', nor any Task" in said
    assert "task = Task(...)" in said


def test_attribute_that_is_no_task(small: Path):
    said = message(f"{small}:model")
    assert f"model in {small} must be a thalweg.tasks.Task" in said
    assert "function" in said


def test_example_is_the_page():
    assert (ROOT / "examples" / "own_task.py").read_text() == BLOCKS[0]


def test_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("own_task.py").write_text(BLOCKS[0])
    for block in BLOCKS[1:]:
        exec(compile(block, "own-task.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 20
    epoch, metric, name = printed[-1].split(maxsplit=2)
    assert (epoch, name) == ("20", "RMSE in m")
    # Adam comes to 1.5 m at this learning rate; the noise is 1 m, the spread of the targets 15 m.
    assert 1 < float(metric) < 2


def test_example_gives_the_same_data_each_time_and_leaves_torchs_generator_alone():
    task = load(f"{ROOT / 'examples' / 'own_task.py'}:task")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first: Data = task.data()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train[0], task.data().train[0])
    assert task.higher_is_better is False


def test_example_reaches_its_target():
    task = load(f"{ROOT / 'examples' / 'own_task.py'}:task")
    metrics = [e.metric for e in train(task, lambda p: torch.optim.Adam(p, lr=0.01))]
    assert task.target is not None
    assert min(metrics) < task.target < metrics[0]
