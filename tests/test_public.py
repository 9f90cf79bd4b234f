"""The names that `import thalweg` offers."""

import pickle
import subprocess
import sys
from importlib.metadata import version
from inspect import isclass

import pytest
import torch

import thalweg
from thalweg import rules
from thalweg.errors import UsageError, unknown
from thalweg.rules import Rule


def after(statement: str) -> set[str]:
    """The modules that are loaded after a statement in a new process."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {
    *("torch", "numpy", "llvmlite", "scipy", "pandas", "rich", "typer", "plotly", "jinja2"),
    *("sklearn", "psutil", "cloudpickle"),
}


@pytest.mark.parametrize(
    "statement",
    [
        "import thalweg",
        "import thalweg; dir(thalweg); thalweg.__all__; thalweg.__version__; thalweg.UsageError",
        "import thalweg; thalweg.adam; thalweg.chain(thalweg.l2(0.1), thalweg.adam())",
    ],
)
def test_import_is_fast(statement: str):
    loaded = after(statement)
    assert "thalweg.rules" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_training_does_not_need_the_lab():
    statement = "import thalweg; thalweg.Adam, thalweg.train, thalweg.Task, thalweg.Optimizer"
    loaded = after(statement)
    assert {"torch", "thalweg.optim", "thalweg.training"} <= loaded
    lab = {"rich", "typer", "plotly", "jinja2", "sklearn", "pooch", "filelock", "thalweg.lab"}
    lab |= {"pandas", "pyarrow", "psutil", "cloudpickle"}
    assert loaded.isdisjoint(lab)


def test_comparing_loads_what_draws_and_tabulates_when_that_is_needed():
    loaded = after("import thalweg; thalweg.compare, thalweg.Study")
    assert "thalweg.lab.running" in loaded
    assert loaded.isdisjoint({"pandas", "pyarrow", "plotly", "matplotlib", "rich", "typer"})


def test_every_public_name_is_there():
    assert len(set(thalweg.__all__)) == len(thalweg.__all__)
    for name in thalweg.__all__:
        assert getattr(thalweg, name) is not None, name
        assert not name.startswith("_")


def test_star_import_gets_every_public_name():
    names: dict[str, object] = {}
    exec("from thalweg import *", names)
    assert set(thalweg.__all__) <= names.keys()


def test_every_rule_is_there_with_its_class():
    for name, rule in (rules.OPTIMIZERS | rules.STAGES).items():
        assert getattr(thalweg, name) is rule
        assert isinstance(rule, Rule)
    for rule in rules.OPTIMIZERS.values():
        found = getattr(thalweg, rule.title)
        assert isclass(found)
        assert issubclass(found, torch.optim.Optimizer)
        assert found.__name__ == rule.title


def test_names_are_the_same_objects_wherever_they_are_taken_from():
    from thalweg import errors, optim, tasks, training
    from thalweg.lab import running, study

    assert thalweg.UsageError is errors.UsageError
    assert thalweg.Adam is optim.Adam
    assert thalweg.Optimizer is optim.Optimizer
    assert thalweg.Task is tasks.Task
    assert thalweg.Data is tasks.Data
    assert thalweg.train is training.train
    assert thalweg.Record is training.Record
    assert thalweg.compare is running.compare
    assert thalweg.Study is study.Study
    assert pickle.loads(pickle.dumps(thalweg.Adam)) is thalweg.Adam


def test_dir_lists_every_public_name():
    code = "import thalweg; print(*sorted(set(thalweg.__all__) - set(dir(thalweg))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("name", "near"), [("momentun", "momentum"), ("Optimiser", "Optimizer"), ("trian", "train")]
)
def test_misspelled_name_is_answered_with_the_nearest(name: str, near: str):
    with pytest.raises(AttributeError) as caught:
        getattr(thalweg, name)
    assert f"unknown name in thalweg '{name}'" in str(caught.value)
    assert near in str(caught.value).partition("Did you mean ")[2].partition("?")[0]
    assert not hasattr(thalweg, name)
    with pytest.raises(ImportError):
        exec(f"from thalweg import {name}")


def test_misspelled_class_is_answered_with_a_class():
    with pytest.raises(AttributeError, match="Did you mean Adam"):
        thalweg.Adm  # noqa: B018  # pyright: ignore


def test_unknown_is_an_attribute_error_and_not_a_usage_error():
    with pytest.raises(AttributeError) as caught:
        thalweg.nothing_like_it  # noqa: B018  # pyright: ignore
    assert not isinstance(caught.value, UsageError)
    expected = str(unknown("name in thalweg", "nothing_like_it", thalweg.__all__))
    assert str(caught.value) == expected


def test_version_is_the_packages():
    assert thalweg.__version__ == version("thalweg")
    assert all(part.isdigit() for part in thalweg.__version__.split(".")[:2])
