"""A comparison that is killed again and again comes to the same end as one that is left alone."""

import importlib.util
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lab.studies import outcomes
from thalweg.lab.records.store import Store
from thalweg.lab.runner.worker import Loaded

STUDY = (
    *("digits", "--optimizers", "sgd,adam", "--trials", "4", "--seeds", "3", "--epochs", "10"),
)


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    """The benchmark of the same name, which does this at length."""
    path = Path(__file__).parents[3] / "benchmarks/kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_killed_study_comes_to_the_same_end(kills: ModuleType, tmp_path: Path):
    alone = kills.Comparison(tmp_path / "alone", STUDY, 1)
    alone.start()
    jitter = random.Random()

    def moment(comparison: Any) -> None:
        told, end = len(comparison.told()), time.monotonic() + 300
        while len(comparison.told()) <= told and not comparison.ended():
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(jitter.uniform(0, 0.1))

    killed = kills.Comparison(tmp_path / "killed", STUDY, 2)
    targets = ["a worker", "the parent", "a worker", "all"]
    assert kills.until_whole(killed, targets, moment) == targets
    alone.finish()
    assert kills.figures(killed.folder) == kills.figures(alone.folder)


def stored(folder: Path) -> None:
    """Three runs, of which nothing was trained."""
    study = outcomes({"sgd": [0.1, 0.2, 0.3]})
    store = Store.create(folder, study.plan)
    store.begin({spec: Loaded(spec, facts, {}) for spec, facts in study.tasks.items()}, {})
    for result in study.results:
        store.add(result)
    store.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM runs WHERE id = 1", "lost or altered"),
        ("UPDATE runs SET metric = 0.5 WHERE id = 1", "lost or altered"),
        ("UPDATE runs SET id = 9 WHERE id = 2", "lost or altered"),
        ("SELECT 1", "4 runs were told of, 3 stored"),
    ],
)
def test_loss_is_noticed(kills: ModuleType, tmp_path: Path, statement: str, said: str):
    comparison = kills.Comparison(tmp_path / "study", STUDY, 1)
    log = tmp_path / "study.log"
    stored(tmp_path / "study")
    log.write_text("[1/9] sgd, seed 0: 0.1\n[2/9] sgd, seed 1: 0.2\n")
    comparison.check()
    log.write_text("".join(f"[{i}/9] nag, seed {i}: 0\n" for i in range(4 * (said[0] == "4"))))
    with closing(sqlite3.connect(tmp_path / "study/results.sqlite")) as c, c:
        c.execute(statement)
    with pytest.raises(AssertionError, match=said):
        comparison.check()


def test_run_made_twice_is_noticed(kills: ModuleType, tmp_path: Path):
    comparison = kills.Comparison(tmp_path / "study", STUDY, 1)
    stored(tmp_path / "study")
    (tmp_path / "study.log").write_text("[1/9] sgd, seed 0: 0.1\n")
    comparison.check()
    (tmp_path / "study.log").write_text("[2/9] sgd, seed 0: 0.1\n")
    with pytest.raises(AssertionError, match="run twice"):
        comparison.check()
