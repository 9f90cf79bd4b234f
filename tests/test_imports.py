"""Imports go one way, and importing the package is quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg

SOURCE = Path(thalweg.__file__).parent

# What each part may import of the package besides itself.
MAY = {
    "errors": set(),
    "rules": {"errors"},
    "schedules": {"errors"},
    "backends": {"errors", "rules"},
    "batches": {"errors", "rules", "backends"},
    "checkpoints": {"errors"},
    "compilable": {"errors", "optimizer"},
    "compiled": {"errors", "rules", "backends"},
    "following": {"errors", "rules", "backends", "batches", "compiled"},
    "optimizer": {
        *("errors", "rules", "backends", "batches", "scheduling"),
        *("checkpoints", "compilable", "compiled", "following"),
    },
    "optim": {
        *("errors", "rules", "backends", "batches"),
        *("compiled", "optimizer", "scheduling"),
    },
    "groups": {"errors"},
    "tasks": {"errors"},
    "pages": {"errors"},
    "scheduling": {"errors"},
    "training": {
        *("errors", "rules", "optimizer", "optim", "tasks"),
        *("schedules", "scheduling", "pages"),
    },
    "lab": {
        *("errors", "rules", "backends", "optim", "tasks", "training", "pages"),
        "schedules",
    },
    "warmup": {"errors", "rules", "backends", "optim"},
    "bench": {"errors", "rules", "backends", "batches", "optim"},
    "cli": {
        *("errors", "rules", "backends", "optim", "schedules", "tasks", "training"),
        *("lab", "bench", "warmup"),
    },
    "__main__": {"cli"},
}
RENAMED = {"train": "training"}
# The mathematics is free of what runs it; only the reference is NumPy's.
NOT_IN_RULES = {"torch", "numba", "llvmlite", "triton", "scipy"}
NUMPY_IN_RULES = {"rules/reference.py"}


def imported(tree: ast.AST) -> set[str]:
    """Every module that a source imports, wherever in it: `from a import b` is a and a.b."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def wrong(path: str, source: str) -> list[str]:
    """The imports of a file, given by its path in the package, that go the wrong way."""
    part = path.split("/")[0].removesuffix(".py")
    part = RENAMED.get(part, part)
    allowed = MAY[part] | {part}
    problems: list[str] = []
    for module in sorted(imported(ast.parse(source))):
        top, _, rest = module.partition(".")
        if module.startswith("."):
            problems.append(f"{path}: relative import {module}")
        if top == "thalweg" and rest:
            other = rest.split(".")[0]
            if RENAMED.get(other, other) in MAY and RENAMED.get(other, other) not in allowed:
                problems.append(f"{path}: {module}")
        if part == "rules" and top in NOT_IN_RULES:
            problems.append(f"{path}: {module}")
        if part == "rules" and top == "numpy" and path not in NUMPY_IN_RULES:
            problems.append(f"{path}: {module}")
    return problems


def files() -> dict[str, str]:
    found = {p.relative_to(SOURCE).as_posix(): p for p in SOURCE.rglob("*.py")}
    return {name: p.read_text() for name, p in found.items() if name != "__init__.py"}


def test_every_file_imports_the_right_way() -> None:
    sources = files()
    assert {"rules/rule.py", "backends/eager.py", "optim.py"} <= sources.keys()
    assert [problem for path, source in sources.items() for problem in wrong(path, source)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rules/adam.py", "from thalweg.backends import eager"),
        ("rules/adam.py", "from thalweg import optim"),
        ("rules/adam.py", "import thalweg.optim"),
        ("rules/adam.py", "def f():\n    import torch"),
        ("rules/adam.py", "if True:\n    from torch.nn import functional"),
        ("rules/adam.py", "import numpy as np"),
        ("rules/adam.py", "from .rule import Rule"),
        ("errors.py", "from thalweg.rules import adam"),
        ("backends/eager.py", "from thalweg.optim import Adam"),
        ("optim.py", "from thalweg.train import train"),
        ("tasks/digits.py", "from thalweg.rules import adam"),
        ("tasks/digits.py", "from thalweg.training import train"),
        ("training/loop.py", "from thalweg.lab import plan"),
        ("train.py", "from thalweg.lab import plan"),
        ("lab/plan.py", "from thalweg import cli"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(wrong(path, source)) >= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rules/reference.py", "import numpy as np\nfrom thalweg.errors import UsageError"),
        ("rules/__init__.py", "from thalweg.rules import adam"),
        ("backends/eager.py", "import torch\nfrom thalweg.rules import philox"),
        ("tasks/digits.py", "from thalweg.tasks.task import Task\nimport torch"),
        ("training/loop.py", "from thalweg.tasks import Task\nfrom thalweg import optim"),
        ("cli.py", "from thalweg.lab import plan\nfrom thalweg import rules, __version__"),
    ],
)
def test_a_right_import_is_not_found(path: str, source: str) -> None:
    assert wrong(path, source) == []


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import thalweg", "import thalweg.rules", "from thalweg import adam; adam(lr=0.1)"],
)
def test_nothing_heavy_is_imported_before_it_is_used(statement: str) -> None:
    loaded = modules_after(statement)
    assert "thalweg" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "llvmlite", "scipy", "pandas", "plotly", "sklearn"})


def test_torch_is_imported_when_it_is_used_and_nothing_is_compiled_with_numba() -> None:
    loaded = modules_after("from thalweg import Adam")
    assert "torch" in loaded
    assert "numba" not in loaded


def test_an_optimizer_made_of_a_rule_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch, thalweg; p = torch.ones(1, requires_grad=True); p.grad = p.detach(); "
        "thalweg.Optimizer([p], thalweg.adam).step(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
