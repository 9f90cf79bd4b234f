"""Cells of the table, measured on tensors small enough for a moment."""

import os
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch

from thalweg.bench import cell as module
from thalweg.bench import memory
from thalweg.bench.cell import TRIAD, Cell, Plan, measured
from thalweg.bench.contestants import OURS, TORCHS, Contestant
from thalweg.bench.machine import cores
from thalweg.bench.measurement import Spread
from thalweg.bench.shapes import SETS, ShapeSet
from thalweg.bench.traffic import Streams
from thalweg.errors import UsageError


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch):
    sets = {**SETS, "tiny": ShapeSet("two tensors", [(3, 4), (5,)])}
    monkeypatch.setattr(module, "SETS", MappingProxyType(sets))


def one(optimizer: str, **options: Any) -> Cell:
    (cell,) = measured(Plan((optimizer,), ("tiny",), rounds=5, **options))
    return cell


def test_everyone_is_timed():
    cell = one("adam")
    assert cell.problems == {}
    assert set(cell.seconds) == {"for-loop", "foreach", "fused", OURS, TRIAD}
    assert cell.first.keys() == cell.growth.keys() == cell.seconds.keys() - {TRIAD}
    assert all(0 < s.lower <= s.median <= s.upper < 1 for s in cell.seconds.values())
    assert (cell.rounds, cell.elements, cell.itemsize) == (5, 17, 4)
    assert cell.streams == Streams(4, 3, 28)
    assert cell.rival is not None
    medians = {way: cell.seconds[way].median for way in TORCHS if way in cell.seconds}
    assert cell.rival == min(medians, key=medians.__getitem__)
    assert cell.ratio is not None
    assert cell.overhead is not None
    assert cell.others is None or cell.others < 1.5 * os.cpu_count() / cores()
    assert cell.overhead.lower > 0
    assert set(cell.reference_rates()) == {"torch.add", "copy_"}


def test_what_torch_lacks_has_a_time_and_no_ratio():
    cell = one("qhadam", dtype="float64")
    assert set(cell.seconds) == {OURS, TRIAD}
    assert cell.gigabytes_per_second is not None
    assert (cell.rival, cell.ratio, cell.verdict) == (None, None, "")
    assert cell.itemsize == 8


def test_cells_come_one_by_one_in_the_order_of_the_plan():
    plan = Plan(("sgd", "qhm"), ("tiny", "mlp"), rounds=1)
    assert plan.cells() == [("tiny", "sgd"), ("tiny", "qhm"), ("mlp", "sgd"), ("mlp", "qhm")]
    cells = measured(plan)
    assert (next(cells).optimizer, next(cells).optimizer) == ("sgd", "qhm")


def with_maker(monkeypatch: pytest.MonkeyPatch, way: str, make: Callable[..., Contestant]) -> None:
    original = module.contestants

    def some(*args: Any, **options: Any) -> dict[str, Callable[[], Contestant]]:
        found = original(*args, **options)
        return {**found, way: lambda: make(found[way])}

    monkeypatch.setattr(module, "contestants", some)


@pytest.mark.parametrize("way", ["fused", OURS])
def test_one_that_fails_is_told_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch, way: str):
    def fails(_: Any) -> Contestant:
        raise RuntimeError("no compiler\nand a long story")

    with_maker(monkeypatch, way, fails)
    cell = one("adam")
    assert cell.problems == {way: "RuntimeError: no compiler"}
    assert set(cell.seconds) == {"for-loop", "foreach", "fused", OURS, TRIAD} - {way}
    assert (cell.ratio is None) == (way == OURS)


def test_strange_numbers_are_no_result(monkeypatch: pytest.MonkeyPatch):
    def broken(make: Callable[[], Contestant]) -> Contestant:
        made = make()
        p = made.optimizer.param_groups[0]["params"][0]
        with torch.no_grad():
            p.fill_(torch.inf)
        return made

    with_maker(monkeypatch, "foreach", broken)
    cell = one("sgd")
    assert "foreach" not in cell.seconds
    assert "left the range" in cell.problems["foreach"]
    assert cell.rival in ("for-loop", "fused")


def test_cell_too_large_for_the_machine_is_left_out(monkeypatch: pytest.MonkeyPatch):
    # What a step of Adam reads, for three of torch's, ours and the triad.
    least = 17 * 4 * 4 * 5
    monkeypatch.setattr(memory, "available", lambda: least)
    cell = one("adam")
    assert cell.seconds == {}
    assert "GiB of memory" in cell.problems[""]
    monkeypatch.setattr(memory, "available", lambda: 2 * least)
    assert one("adam").problems == {}


def made_up(ratio: Spread | None, ours: float = 2.0) -> Cell:
    seconds = {"foreach": Spread(4, 5, 6), "fused": Spread(3, 4, 9), OURS: Spread(1, ours, 3)}
    seconds[TRIAD] = Spread(1, 1.5, 2)
    references = {"torch.add": Spread(1, 3, 4), "copy_": Spread(1, 1, 1)}
    return Cell(
        "adam",
        "tiny",
        10**9,
        4,
        Streams(4, 3, 28),
        seconds=seconds,
        references=references,
        ratio=ratio,
    )


def test_rates_are_bytes_by_medians():
    cell = made_up(None)
    assert cell.gigabytes_per_second == pytest.approx(28 / 2)
    assert cell.share == pytest.approx(0.75)
    assert cell.reference_rates() == pytest.approx({"torch.add": 4.0, "copy_": 8.0})
    assert cell.rival == "fused"


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Spread(0.5, 0.6, 0.99), "faster"),
        (Spread(0.5, 0.6, 1.01), "tie"),
        (Spread(0.9, 1.2, 1.3), "tie"),
        (Spread(1.01, 1.2, 1.3), "slower"),
        (None, ""),
    ],
)
def test_verdict_needs_three_quarters_of_the_rounds(ratio: Spread | None, verdict: str):
    assert made_up(ratio).verdict == verdict


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimizers": ("adm",)}, "unknown optimizer 'adm'. Did you mean adam"),
        ({"shapes": ("smal",)}, "unknown set of shapes 'smal'. Did you mean small"),
        ({"dtype": "float23"}, "unknown dtype 'float23'. Did you mean float32"),
        ({"rounds": 0}, "rounds is 0"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_plan_that_cannot_be_carried_out(wrong: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=says.replace(".", r"\.")):
        Plan(**{"optimizers": ("adam",), "shapes": ("mlp",), **wrong})
