"""The documentation holds: its commands and code run, its links lead somewhere, its formulas are
the rules' own, and who follows the walk-through gets an optimizer."""

import importlib.util
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from cifar10_files import empty, fill
from thalweg import rules
from thalweg.cli import main
from thalweg.rules import OPTIMIZERS, STAGES
from thalweg.training.folder import read_records

ROOT = Path(__file__).parents[1]
FRONT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = (
    *FRONT,
    *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")),
)

TASK = """
import torch
from torch import nn
from thalweg import Data, Task

def data():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x))

task = Task("line", data, lambda: nn.Linear(1, 1), nn.functional.mse_loss, nn.functional.mse_loss,
            higher_is_better=False)
"""


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the content of every fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command; a quoted argument may go on over lines."""
    pending = ""
    for line in block.splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:
            continue
        pending = ""
        if words:
            yield words
    assert not pending, f"an unclosed quote: {pending}"


def python(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def shortened(arguments: list[str]) -> list[str]:
    """The same comparison in a moment: a small task, one epoch, one seed, one process."""
    extends = "--extend" in arguments
    if "--trials" in arguments:
        at = arguments.index("--trials") + 1
        assert int(arguments[at]) > 0
        arguments = [*arguments[:at], "3" if extends else "2", *arguments[at + 1 :]]
    if extends or "--resume" in arguments:
        return [*arguments, "--jobs", "1"]
    values = dict(pairwise(arguments))
    for option in ("--epochs", "--seeds"):
        if option in values:
            assert all(int(n) > 0 for n in values[option].split(","))
            at = arguments.index(option)
            arguments = [*arguments[:at], *arguments[at + 2 :]]
    # The command without any option is run on its own task.
    task = ["my_project/task.py"] if arguments[1:2] and arguments[1].startswith("--") else []
    return ["compare", *task, *arguments[1:], "--epochs", "1", "--seeds", "1", "--jobs", "1"]


def thalweg(arguments: list[str], carried_out: Callable[[list[str]], str], folder: Path) -> str:
    """What the command prints."""
    if arguments[0] == "compare":
        arguments = shortened(arguments)
    said = carried_out(arguments)
    if arguments[0] == "compare":
        report = said.rpartition("Report: ")[2].strip()
        assert "<html" in (folder / report).read_text(encoding="utf-8")
    return said


def here(arguments: list[str], status: int = 0) -> str:
    """What a command prints that is carried out in this process, with small data for large."""
    with (
        mock.patch.object(sys, "argv", ["thalweg", *arguments]),
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as errors,
        pytest.raises(SystemExit) as ended,
    ):
        main()
    torch.set_flush_denormal(False)
    assert (ended.value.code or 0) == status, errors.getvalue()
    return out.getvalue() or errors.getvalue()


def run(words: list[str], folder: Path) -> None:
    """Carry a command of a page out, or see that it would be carried out."""
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE)
        case ["pip", "install", package]:
            what, _, extra = package.rstrip("]").partition("[")
            assert what in (".", "thalweg")
            assert re.search(rf"^{extra} = \[", text("pyproject.toml"), re.MULTILINE)
        case ["thalweg", "compare", "fashion-mnist", *_]:
            # All is in order but the data: those are not read before the plan has been checked.
            with mock.patch.dict(os.environ, THALWEG_DATA=str(folder)):
                said = here(words[1:], status=2)
            assert "train-images-idx3-ubyte.gz does not exist" in said
        case ["thalweg", "bench", *arguments]:
            # A moment for each measurement.
            short = {"--seconds": "0.01", "--rounds": "2"}
            values = [short.get(a, b) for a, b in pairwise(["", *arguments])]
            assert values != arguments
            assert here(["bench", *values])
        case ["thalweg", *arguments]:
            assert thalweg(arguments, here, folder)
        case ["sqlite3", file, query]:
            with closing(sqlite3.connect(folder / file)) as connection:
                assert connection.execute(query).fetchall()
        case _:
            pytest.fail(f"this test does not know how to run {words}")


def add_task(folder: Path) -> None:
    own = folder / "my_project" / "task.py"
    own.parent.mkdir()
    own.write_text(TASK)


def stand_ins() -> dict[str, Any]:
    """What a reader has and a page does not define."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    gradients = [{"w": np.full((2, 3), 0.5), "b": np.ones(2)}] * 3
    return {"model": model, "gradients": gradients}


CIFAR10 = "docs/train-cifar10.md"
RUNNABLE = [
    page
    for page in PAGES
    # Run by the walk-through, by the tests of tasks, and by a test of its own.
    if page not in ("CONTRIBUTING.md", "docs/own-task.md", CIFAR10)
    and {"sh", "python"} & {language for language, _ in blocks(page)}
]


def test_pages_with_code_are_found() -> None:
    assert {"README.md", "docs/comparing.md", "docs/stages.md"} <= {*RUNNABLE}
    known = {"sh", "python", "math", "markdown"}
    assert {language for page in PAGES for language, _ in blocks(page)} <= known


@pytest.mark.parametrize("page", RUNNABLE)
def test_page_runs(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    add_task(tmp_path)
    fill(empty(tmp_path / "data", monkeypatch), monkeypatch)
    names = stand_ins()
    for language, block in blocks(page):
        if language == "sh":
            for words in commands(block):
                run(words, tmp_path)
            capsys.readouterr()
        elif language == "python":
            exec(compile(block, page, "exec"), names)
            # Comments at the end of a block are what it prints.
            ending = re.search(r"((?:^# .*\n)+)\Z", block, re.MULTILINE)
            expected = re.sub(r"^# ", "", ending[1], flags=re.MULTILINE) if ending else ""
            assert capsys.readouterr().out == expected
        if optimizer := names.pop("optimizer", None):
            before = names["model"].weight.clone()
            if names["model"].weight.grad is None:
                names["model"](torch.ones(1, 3)).sum().backward()
            optimizer.step()
            assert not torch.equal(names["model"].weight, before)
    if page == "docs/comparing.md":
        assert [epoch for epoch, _ in names["curve"]] == [1]


def test_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(empty(tmp_path / "data", monkeypatch), monkeypatch)
    (_, lines), (_, command), (_, resume), (_, loading) = blocks(CIFAR10)
    assert len(lines.splitlines()) == 10
    names: dict[str, Any] = {}
    exec(compile(lines, CIFAR10, "exec"), names)
    *epochs, last = capsys.readouterr().out.splitlines()
    for i, line in enumerate(epochs, 1):
        assert re.fullmatch(rf"epoch {i}: \d+\.00% of the validation images", line)
    assert len(epochs) == 10
    assert re.fullmatch(r"test images: [\d.]+%, with augmentation [\d.]+%", last)
    for block in (command, resume):
        for words in commands(block):
            run(words, tmp_path)
        ours, theirs = (
            [replace(r, seconds=0.0) for r in read_records(tmp_path / "runs" / name)]
            for name in ("cifar10", "again")
        )
        assert ours == theirs
    exec(compile(loading, CIFAR10, "exec"), names)
    state = torch.load("runs/cifar10/model.pt", weights_only=True)
    for name, x in names["network"].state_dict().items():
        assert torch.equal(x, state[name])
    assert (tmp_path / "runs/again/report.html").exists()


def test_what_the_readme_says_of_adadelta() -> None:
    rates = {c: rules.adadelta.settings(c).hypers["lr"] for c in ("torch", "keras")}
    assert rates == {"torch": 1, "keras": 0.001}
    assert "torch\nmultiplies its steps by 1 and Keras by 0.001" in text("README.md")


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def targets(page: str) -> list[str]:
    """Where the links and pictures of a page lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in targets(page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        name = os.path.relpath(file, ROOT)
        assert file.is_file(), target
        if anchor:
            assert anchor in anchors(name), target


@pytest.fixture
def formulas() -> ModuleType:
    spec = importlib.util.spec_from_file_location("formulas", ROOT / "docs/formulas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def status(
    formulas: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Any]:
    """A copy of the pages, and a function that runs the script on it."""
    copy = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", copy)
    monkeypatch.setattr(formulas, "DOCS", copy)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["formulas.py", *arguments])
        return formulas.main()

    return copy, run


def test_formulas_are_the_rules(
    formulas: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["formulas.py", "--check"])
    assert formulas.main() == 0, capsys.readouterr().err


STALE = {
    "formula": ("stages.md", r"\sqrt{\hat{v}} + \epsilon", r"\sqrt{\hat{v} + \epsilon}"),
    "formulas": ("optimizers/adam.md", r"m + (1 - \beta_{1})", r"m + (1 - \beta_{2})"),
    "settings": ("optimizers/adagrad.md", "| **`1e-10`** |", "| `1e-10` |"),
    "use": ("optimizers/nadam.md", "each weight: 2", "each weight: 3"),
    "index": ("optimizers/README.md", "eqs. 3-4", "eqs. 3-5"),
}


@pytest.mark.parametrize("kind", STALE)
def test_altered_section_is_found_and_put_right(
    kind: str, status: Any, formulas: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, run = status
    assert set(STALE) == set(formulas.KINDS)
    name, right, wrong = STALE[kind]
    page = docs / name
    before = page.read_text()
    assert right in before
    page.write_text(before.replace(right, wrong, 1))
    assert run("--check") == 1
    assert f"docs/{name} is stale" in capsys.readouterr().err
    assert right not in page.read_text() or before.count(right) > 1
    assert run() == 0
    assert page.read_text() == before
    assert run("--check") == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("<!-- generated: poem adam -->\n<!-- end -->", "unknown section 'poem'"),
        ("<!-- generated: formulas adm -->\n<!-- end -->", "Did you mean adam"),
        ("<!-- generated: formulas adam -->\n", "does not end"),
    ],
)
def test_section_that_cannot_be_written(
    wrong: str, says: str, status: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, run = status
    (docs / "own-task.md").write_text(wrong)
    assert run("--check") == 1
    said = capsys.readouterr().err
    assert said.startswith("docs/own-task.md: ")
    assert says in said


def test_missing_page_is_found(status: Any, capsys: pytest.CaptureFixture[str]) -> None:
    docs, run = status
    (docs / "optimizers/nadam.md").unlink()
    assert run("--check") == 1
    assert "docs/optimizers/nadam.md is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_a_page(name: str) -> None:
    page = text(f"docs/optimizers/{name}.md")
    assert page.startswith(f"# {OPTIMIZERS[name].title}\n")
    for kind in ("use", "formulas", "settings"):
        assert page.count(f"<!-- generated: {kind} {name} -->\n") == 1
    assert "\n## Where libraries differ\n\n- " in page


def test_every_page_has_an_optimizer() -> None:
    found = {p.stem for p in (ROOT / "docs/optimizers").glob("*.md")}
    assert found == {*OPTIMIZERS, "README"}


def test_every_stage_is_explained() -> None:
    page = text("docs/stages.md")
    assert set(STAGES) <= anchors("docs/stages.md")
    for name, stage in STAGES.items():
        assert not stage.hypers or f"<!-- generated: settings {name} -->" in page


@pytest.mark.parametrize("page", PAGES)
def test_no_formula_is_written_by_hand(page: str) -> None:
    by_hand = re.sub(r"<!-- generated: .*?<!-- end -->", "", text(page), flags=re.DOTALL)
    assert "```math" not in by_hand
    assert "$$" not in by_hand


NEW = "lion"
# The files, besides those of rules and backends, that have tests for every optimizer.
CHECKED_IN = ("test_optim.py", "test_cli.py", "test_docs.py")


def walk_through() -> dict[str, list[str]]:
    """The blocks of the walk-through, by language."""
    found: dict[str, list[str]] = {}
    part = text("CONTRIBUTING.md").partition("\n## Adding a rule\n")[2]
    for language, block in blocks("CONTRIBUTING.md"):
        if block in part:
            found.setdefault(language, []).append(block)
    return found


def changed(file: Path, old: str, new: str) -> None:
    before = file.read_text(encoding="utf-8")
    assert before.count(old) == 1, f"{old!r} is {before.count(old)} times in {file.name}"
    file.write_text(before.replace(old, new), encoding="utf-8")


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """A copy of the project in which the walk-through has been followed to the letter."""
    assert NEW not in rules.OPTIMIZERS
    copy = tmp_path / "copy"
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("src", "tests", "docs", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for name in ("pyproject.toml", "Makefile", *FRONT):
        shutil.copy(ROOT / name, copy / name)
    function, row = walk_through()["python"]
    (page,) = walk_through()["markdown"]

    family = copy / "src/thalweg/rules/moments.py"
    imported, _, function = function.partition("\n\n\n")
    module = imported.partition(" import ")[0]
    line = next(x for x in family.read_text().splitlines() if x.startswith(f"{module} import "))
    changed(family, line, imported.rstrip())
    names = re.search(r"__all__ = \[(.*?)\]", family.read_text(), re.DOTALL)
    assert names is not None
    listed = sorted([*re.findall(r'"\w+"', names[1]), f'"{NEW}"'])
    changed(family, names[0], f"__all__ = [{', '.join(listed)}]")
    family.write_text(f"{family.read_text()}\n\n{function}")

    changed(copy / "tests/cases.py", "_CHAINS = [\n", f"_CHAINS = [\n{row}")
    (copy / f"docs/optimizers/{NEW}.md").write_text(page)
    add_task(copy)
    return copy


def test_walk_through(followed: Path) -> None:
    where = {"PYTHONPATH": str(followed / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    (block,) = walk_through()["sh"]
    said: dict[str, str] = {}

    def there(arguments: list[str]) -> str:
        ended = python("-m", "thalweg", *arguments, folder=followed, **where)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    for command, *arguments in commands(block):
        tool = Path(command).name
        if tool == "thalweg":
            said[arguments[0]] = thalweg(arguments, there, followed)
            continue
        if tool == "pytest":
            # With it, the tests that look at all rules at once, and a list of what passed.
            every = "has_a_row or names_of_the_rules or lists_and_explanations"
            assert arguments == ["-k", NEW]
            arguments = ["-m", "pytest", "-rp", "-p", "no:cacheprovider", "-k", f"{NEW} or {every}"]
            arguments += [f"tests/{n}" for n in ("rules", "backends", *CHECKED_IN)]
        ended = python(*arguments, folder=followed, **where)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        said[tool] = ended.stdout
    for test in (
        "test_worked_steps.py::test_steps_are_those_worked_by_hand[lion-decay]",
        "test_mutations.py::test_every_mutant_is_caught[lion-decay]",
        "test_formula.py::test_carried_out_line_by_line_it_is_the_rule[lion-decay]",
        "test_eager.py::test_it_agrees_with_the_reference[lion-decay-contiguous-torch.float32]",
        "test_fused.py::test_it_agrees_with_the_reference[lion-decay-torch.float32]",
        "test_optim.py::test_classes_torch_lacks_take_the_rules_settings[Lion]",
        "test_docs.py::test_every_optimizer_has_a_page[lion]",
        "test_cli.py::test_lists_and_explanations",
    ):
        assert re.search(rf"^PASSED tests/(\w+/)?{re.escape(test)}$", said["pytest"], re.MULTILINE)
    assert "c ← β₁ m + (1 − β₁) g" in said["explain"]
    assert "θ ← θ − lr sign(c)" in said["explain"]
    assert "lion+decay" in said["compare"]
    assert "rewrote docs/optimizers/lion.md" in said["python"]
    assert python("docs/formulas.py", "--check", folder=followed, **where).returncode == 0
    changed = ("src/thalweg/rules/moments.py", "tests/cases.py", "tests/rules/test_rule.py")
    for ruff in (("check",), ("format", "--check")):
        ended = python("-m", "ruff", *ruff, "--no-cache", *changed, folder=followed)
        assert ended.returncode == 0, ended.stdout
