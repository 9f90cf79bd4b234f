"""What the folder of a run says of it, and which run may go on there."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import Data, Record, Task, UsageError
from thalweg.schedules import cosine
from thalweg.training import Phase, keeper, train
from thalweg.training.folder import Folder, read_records, read_run


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def task(rows: int = 24, width: int = 4, value: float = 0.0) -> Task:
    def data() -> Data:
        x = torch.linspace(0, 1, 3 * (rows + 4)).view(-1, 3) + value
        y = x.sum(dim=1, keepdim=True)
        return Data((x[:rows], y[:rows]), (x[rows:], y[rows:]))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))

    return Task("sums", data, model, nn.functional.mse_loss, distance)


def sgd(params: Any, lr: Any = 0.1) -> torch.optim.Optimizer:
    return tw.SGD(params, lr=lr)


def run(out: Path, task: Task | None = None, optimizer: Any = sgd, **options: Any) -> Any:
    return train(task or made, optimizer, **{"epochs": 3, "batch_size": 8, "out": out, **options})


made = task()


def begun(out: Path, count: int = 1, **options: Any) -> None:
    """A run of which so many records were taken."""
    records: Iterator[Record] = run(out, **options)
    for _ in range(count):
        next(records)
    records.close()


def test_all_that_decides_the_result_is_written_down_before_the_first_step(tmp_path: Path) -> None:
    phases = [Phase(1, freeze="body", lr=cosine(0.1)), Phase(1, decay="l2", momentum=(0.5, 0.25))]
    records = run(
        tmp_path / "run", phases=phases, epochs=None, ema=0.5, about={"command": "by hand"}
    )
    next(records)
    found = read_run(tmp_path / "run")
    assert found["status"] == "running"
    assert found["command"] == "by hand"
    assert (found["per_epoch"], found["parameters"]) == (3, 21)
    assert found["recipe"]["ema"] == 0.5
    assert found["optimizer"]["name"] == "SGD"
    assert found["optimizer"]["settings"]["lr"] == 0.1
    assert [p["steps"] for p in found["phases"]] == [3, 3]
    assert Phase.from_data(found["phases"][0]) == Phase(1, freeze="body", lr=cosine(0.1, steps=3))
    assert Phase.from_data(found["phases"][1]) == phases[1]
    assert found["task"]["name"] == "sums"
    assert [e["step"] for e in found["history"]] == [0]
    list(records)
    assert read_run(tmp_path / "run")["status"] == "finished"


def test_the_end_is_told_and_the_folder_is_free(tmp_path: Path) -> None:
    out = tmp_path / "run"
    begun(out)
    assert read_run(out)["status"] == "stopped"
    assert not (out / "model.pt").exists()
    with Folder.open(out):
        pass
    list(run(out, resume=True))
    found = read_run(out)
    assert found["status"] == "finished"
    assert [e["step"] for e in found["history"]] == [0, 3]
    assert found["history"][1]["forced"] == []
    assert [r.steps for r in read_records(out)] == [3, 6, 9]
    with Folder.open(out):
        pass


def test_a_finished_run_says_it_again_and_does_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    records = list(run(out, save_every=0.0))
    before = (out / "model.pt").read_bytes()
    assert list(run(out, resume=True)) == records
    assert (out / "model.pt").read_bytes() == before


def test_resume_begins_where_there_is_no_run_yet(tmp_path: Path) -> None:
    assert len(list(run(tmp_path / "run", resume=True))) == 3


def test_resume_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="resume is True, but out names no folder"):
        next(train(made, sgd, resume=True))


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"task": task(value=1.0)}, "data: train inputs was .*, is "),
    "model": ({"task": task(width=5)}, r"model: 0\.weight was 4x3 float32, is 5x3 float32"),
    "lr": ({"optimizer": lambda p: sgd(p, 0.2)}, r"optimizer: lr was 0\.1, is 0\.2"),
    "schedule": ({"optimizer": lambda p: sgd(p, cosine(0.1, steps=9))}, r"optimizer: lr was 0\.1"),
    "class": ({"optimizer": tw.Adam}, "optimizer: name was SGD, is Adam"),
    "phases": (
        {"phases": [Phase(2), Phase(1)], "epochs": None},
        "epochs of phase 0 was 3, is 2",
    ),
    "seed": ({"seed": 1}, "recipe: seed was 0, is 1"),
    "batch": ({"batch_size": 4}, "recipe: batch_size was 8, is 4"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_run_does_not_go_on_there(name: str, tmp_path: Path) -> None:
    out, (options, says) = tmp_path / "run", DIFFERENT[name]
    begun(out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "lock"}
    with pytest.raises(UsageError, match=says) as error:
        next(run(out, resume=True, **options))
    assert "--force" in str(error.value)
    assert {p: p.read_bytes() for p in before} == before
    # The folder is free, and the run itself can go on.
    assert len(list(run(out, resume=True))) == 3


@pytest.mark.parametrize("name", ["data", "lr", "seed"])
def test_force_goes_on_and_is_recorded(name: str, tmp_path: Path) -> None:
    out, (options, says) = tmp_path / "run", DIFFERENT[name]
    begun(out)
    assert [r.steps for r in run(out, resume=True, force=True, **options)] == [3, 6, 9]
    [_, entry] = read_run(out)["history"]
    [line] = entry["forced"]
    assert re.search(says, line)
    # What was forced is what the run is from now on.
    assert len(list(run(out, resume=True, **options))) == 3


def test_a_model_of_another_shape_cannot_be_forced(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with pytest.raises(UsageError, match=r"does not fit this run: (?s:.*)size mismatch"):
        next(run(tmp_path / "run", task(width=5), resume=True, force=True))
    assert len(list(run(tmp_path / "run", resume=True))) == 3


def test_another_environment_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path / "run")
    environment = keeper.environment
    monkeypatch.setattr(keeper, "environment", lambda: {**environment(), "threads": "64"})
    list(run(tmp_path / "run", resume=True))
    [_, entry] = read_run(tmp_path / "run")["history"]
    assert len(entry["noted"]) == 1
    assert "threads was" in entry["noted"][0]
    assert entry["forced"] == []


def test_an_error_ends_a_run_as_stopped(tmp_path: Path) -> None:
    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(run(tmp_path / "run", replace(made, augment=augment)))
    assert read_run(tmp_path / "run")["status"] == "stopped"
    with Folder.open(tmp_path / "run"):
        pass


def test_snapshots_are_made_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        return now

    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal now
        now += 1.0
        return x, y

    steps: list[int] = []
    save = keeper.Keeper.save

    def saved(self: Any) -> None:
        save(self)
        steps.append(self._run.steps)

    for module in ("keeper", "loop"):
        monkeypatch.setattr(f"thalweg.training.{module}.perf_counter", clock)
    monkeypatch.setattr(keeper.Keeper, "save", saved)
    list(run(tmp_path / "run", replace(made, augment=augment), save_every=4.0))
    assert steps == [4, 8, 9]


def test_records_are_written_as_they_come(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for count, record in enumerate(run(out), 1):
        lines = (out / "records.jsonl").read_text().splitlines()
        assert len(lines) == count
        assert json.loads(lines[-1])["steps"] == record.steps


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = list(run(tmp_path / "run"))
    weights = (tmp_path / "run" / "model.pt").read_bytes()

    def never(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        raise AssertionError("trained again")

    again = run(tmp_path / "run", replace(made, augment=never), resume=True, force=True)
    assert list(again) == first
    assert (tmp_path / "run" / "model.pt").read_bytes() == weights
