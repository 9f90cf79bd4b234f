"""Tables of a study for other programs hold what the study does."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas
import pytest

from lab import studies
from thalweg.errors import UsageError
from thalweg.lab.records.export import FORMS, curves, frame, runs, write
from thalweg.lab.study import Study

FACTS = [
    *(
        "task",
        "optimizer",
        "trial",
        "seed",
        "role",
        "chosen",
        "status",
        "reason",
        "epochs",
        "steps",
    ),
    *("train_loss", "validation_loss", "metric", "test", "seconds", "state_bytes", "memory"),
    "session",
]


@pytest.fixture(scope="module")
def study() -> Study:
    """A search in which large learning rates diverge, and a run that did not even begin."""
    of = studies.study(("adam", "aggmo", "noise+sgd"), trials=4, seeds=2, diverges=3)
    assert {r.status for r in of.results} == {"finished", "diverged"}
    first, *others = of.results
    unbegun = replace(first, status="failed", reason='a, b\n"c" é', epochs=(), settings={})
    return replace(of, results=(unbegun, *others))


def test_a_row_is_what_the_run_was_and_came_to(study: Study) -> None:
    rows = list(runs(study))
    assert len(rows) == len(study.results)
    for row, result in zip(rows, study.results, strict=True):
        assert list(row) == [*FACTS, "lr", "beta1", "beta2", "eps", "eps_hat", "betas", *NOISE]
        run = result.run
        assert [row[n] for n in FACTS[:4]] == [run.task, run.optimizer, run.trial, run.seed]
        assert row["role"] == ("tuning" if run.seed == 0 else "judging")
        assert row["chosen"] == (study.chosen(run.task, run.optimizer) == run.trial)
        assert (row["status"], row["reason"]) == (result.status, result.reason)
        if result.epochs:
            last = result.epochs[-1]
            for name in ("steps", "train_loss", "validation_loss", "metric", "test", "seconds"):
                assert row[name] == getattr(last, name)
            assert row["epochs"] == last.epoch
        else:
            assert row["epochs"] == 0
            assert row["metric"] is None
        for name in ("lr", "beta1"):
            assert row[name] == result.settings.get(name)


# Noise has a seed of its own, which must not stand in the place of the run's.
NOISE = ["eta", "gamma", "seed_setting"]


def test_a_setting_does_not_hide_a_column(study: Study) -> None:
    noisy = [(row, r) for row, r in zip(runs(study), study.results, strict=True)
             if r.run.optimizer == "noise+sgd" and r.settings]  # fmt: skip
    assert noisy
    for row, result in noisy:
        assert row["seed"] == result.run.seed
        assert row["seed_setting"] == result.settings["seed"]


def test_values_of_one_column_are_of_one_kind(study: Study) -> None:
    tuples = [row["betas"] for row in runs(study) if row["optimizer"] == "aggmo"]
    assert {"0.0/0.9/0.99"} == {t for t in tuples if t is not None}
    mixed = replace(
        study,
        results=tuple(
            replace(r, settings={"x": value})
            for r, value in zip(study.results, (True, 0.5, "word"), strict=False)
        ),
    )
    assert [row["x"] for row in runs(mixed)] == ["true", "0.5", "word"]
    assert list(frame(mixed)["x"]) == ["true", "0.5", "word"]


def test_a_row_per_epoch(study: Study) -> None:
    rows = list(curves(study))
    assert len(rows) == sum(len(r.epochs) for r in study.results)
    second = next(r for r in study.results if r.status == "finished")
    own = [
        row for row in rows
        if (row["optimizer"], row["trial"], row["seed"])
        == (second.run.optimizer, second.run.trial, second.run.seed)
    ]  # fmt: skip
    names = ("epoch", "steps", "train_loss", "validation_loss", "metric", "seconds")
    assert [[row[n] for n in names] for row in own] == [
        [getattr(e, n) for n in names] for e in second.epochs
    ]
    assert list(rows[0]) == [*FACTS[:4], *names]


def test_frame_has_the_rows(study: Study) -> None:
    table = study.frame()
    assert len(table) == len(study.results)
    finished = table[table["status"] == "finished"]
    best = finished[finished["chosen"] & (finished["role"] == "judging")]
    means = best.groupby("optimizer")["test"].mean()
    for optimizer, mean in means.items():
        tests = [r.epochs[-1].test for r in study.judging("blobs", str(optimizer))]
        assert mean == pytest.approx(sum(tests) / len(tests))  # pyright: ignore


READ: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "csv": lambda path: list(csv.DictReader(StringIO(path.read_bytes().decode(), newline=""))),
    "json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    "parquet": lambda path: pandas.read_parquet(path).to_dict("records"),
}


def same(read: Any, written: Any) -> bool:
    if written is None:
        return read is None or read == "" or (isinstance(read, float) and math.isnan(read))
    return read == written or read == str(written)


@pytest.mark.parametrize("form", FORMS)
def test_files_hold_every_digit(study: Study, tmp_path: Path, form: str) -> None:
    files = write(study, tmp_path / "new/folder", [form])
    assert [f.name for f in files] == [f"runs.{form}", f"curves.{form}"]
    for file, rows in zip(files, (runs(study), curves(study)), strict=True):
        expected = list(rows)
        found = READ[form](file)
        assert len(found) == len(expected)
        for read, row in zip(found, expected, strict=True):
            assert list(read) == list(row)
            assert all(same(read[name], value) for name, value in row.items()), (read, row)


@pytest.mark.parametrize("form", FORMS)
def test_a_study_without_results_has_tables_with_columns(
    study: Study, tmp_path: Path, form: str
) -> None:
    files = write(replace(study, results=()), tmp_path, [form])
    for file in files:
        assert READ[form](file) == []
    if form == "csv":
        assert files[0].read_text().strip().split(",") == FACTS


def test_what_is_not_finite_is_empty(study: Study, tmp_path: Path) -> None:
    first = next(r for r in study.results if r.epochs)
    broken = replace(
        first, epochs=(replace(first.epochs[0], train_loss=math.nan, metric=math.inf),)
    )
    [file, _] = write(replace(study, results=(broken,)), tmp_path, ["json"])
    [row] = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert row["train_loss"] is None
    assert row["metric"] is None


def test_files_are_replaced_and_nothing_else_is_left(study: Study, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("old")
    write(study, tmp_path, ["csv"])
    assert (tmp_path / "runs.csv").read_text().startswith("task,optimizer")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.csv", "runs.csv"]


def test_mistakes_are_told(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown form 'cvs'.*Did you mean csv"):
        write(study, tmp_path, ["cvs"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"could not be written to .*file.*--out"):
        write(study, tmp_path / "file", ["csv"])
