"""Steps with sparse gradients are timed, and what is shown of them follows from the times."""

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg.bench import memory, rows, rows_table
from thalweg.bench.contestants import OURS
from thalweg.bench.machine import cores
from thalweg.bench.measurement import Spread
from thalweg.bench.rows import DENSE, TORCH, WAYS, RowsCell, RowsPlan, growth, measured
from thalweg.cli import main
from thalweg.errors import UsageError

TINY = RowsPlan(tables=(20, 40), touched=(2, 8), width=3, rounds=3)
MACHINE = {"processor": "Abacus", "cores": "3"}


@pytest.mark.parametrize("optimizer", rows.OPTIMIZERS)
def test_everyone_is_timed(optimizer: str):
    cells = list(measured(replace(TINY, optimizers=(optimizer,))))
    keys = [(c.optimizer, c.rows, c.touched) for c in cells]
    assert keys == [(optimizer, n, k) for n in (20, 40) for k in (2, 8)]
    for cell in cells:
        assert tuple(cell.seconds) == WAYS
        assert all(0 < s.lower <= s.median <= s.upper < 1 for s in cell.seconds.values())
        assert cell.ratio is not None
        assert cell.problem == ""
        assert cell.others is None or cell.others < 1.5 * os.cpu_count() / cores()


@pytest.mark.parametrize("optimizer", rows.OPTIMIZERS)
def test_everyone_takes_the_same_steps(optimizer: str, monkeypatch: pytest.MonkeyPatch):
    moved: list[Callable[[], torch.Tensor]] = []
    right = rows._step

    def watched(kind: Any, theta: torch.Tensor, grads: Any) -> Callable[[], None]:
        step = right(kind, theta, grads)
        if grads[0].is_sparse:
            p = inspect.getclosurevars(step).nonlocals["p"]
            moved.append(lambda: (p != theta).any(1))
        return step

    monkeypatch.setattr(rows, "LR", 1e-2)
    monkeypatch.setattr(rows, "_step", watched)
    assert len(list(measured(RowsPlan((optimizer,), (90,), (5,), 4, rounds=1)))) == 1
    theirs, ours = (found() for found in moved)
    assert 5 < theirs.sum() < 90
    assert torch.equal(theirs, ours)


def test_gradients_are_those_of_an_embedding():
    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        g = rows._gradient((9, 4), 3, 2)
    assert not g.is_coalesced()
    assert g.shape == (9, 4)
    found, counts = g._indices().unique(return_counts=True)
    assert len(found) == 3
    assert counts.tolist() == [2, 2, 2]


def test_too_large_for_the_machine_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    cell, *_ = measured(TINY)
    assert cell.seconds == {}
    assert "GiB of memory" in cell.problem
    assert rows_table.line(cell) == f"sgd, 2 of 20 rows: {cell.problem}"
    assert growth([cell]) == {}
    page = rows_table.markdown(TINY, MACHINE, [cell])
    assert f"sgd, 2 of 20 rows: nothing timed: {cell.problem}." in page


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimizers": ("adamw",)}, "unknown optimizer with sparse gradients 'adamw'"),
        ({"tables": (0, 9)}, "tables is '0,9'"),
        ({"touched": ()}, "touched is ''"),
        ({"width": 0}, "width is '0'"),
        ({"entries": 0}, "entries is '0'"),
        ({"rounds": 0}, "rounds is '0'"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"tables": (100, 10), "touched": (20,)}, "touched is up to 20, .* has 10 rows"),
    ],
)
def test_plan_that_cannot_be_carried_out(wrong: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=says):
        RowsPlan(**wrong)


def made_up(n: int, touched: int, others: float | None = None) -> RowsCell:
    """Torch's time grows with both sizes, ours with what is touched, that of all with the rows."""
    times = {TORCH: n * touched, OURS: touched, DENSE: n}
    return RowsCell(
        "sgd",
        n,
        touched,
        {way: Spread(0.9e-6 * t, 1e-6 * t, 1.1e-6 * t) for way, t in times.items()},
        Spread(0.5, 0.75, 0.9),
        others,
    )


CELLS = [made_up(n, touched) for n in (10, 40, 100) for touched in (2, 3)]


def test_growth_is_from_the_smallest_to_the_largest():
    assert growth(CELLS) == {
        "sgd": {
            "rows": (10, pytest.approx({TORCH: 10, OURS: 1, DENSE: 10})),
            "touched": (1.5, pytest.approx({TORCH: 1.5, OURS: 1.5, DENSE: 1})),
        }
    }
    # The mean is geometric: 4 and 1 are twice.
    uneven = replace(CELLS[4], seconds={**CELLS[4].seconds, OURS: CELLS[0].seconds[OURS]})
    four = replace(CELLS[5], seconds={**CELLS[5].seconds, OURS: Spread(1, 12e-6, 1)})
    found = growth([*CELLS[:4], uneven, four])["sgd"]["rows"][1]
    assert found[OURS] == pytest.approx(2)
    assert set(growth(CELLS[:2])["sgd"]) == {"touched"}
    assert growth(CELLS[:1]) == {}


def test_page_says_what_was_measured_and_what_follows():
    plan = RowsPlan(("sgd", "adam"), (10, 40, 100), (2, 3), 7)
    page = rows_table.markdown(plan, MACHINE, [*CELLS[:-1], made_up(100, 3, others=0.25)])
    assert page.startswith("processor: Abacus; cores: 3.")
    assert "**sgd: tables of rows of 7 float32, gradients with 2 for each touched row**" in page
    assert "| rows | touched | torch | thalweg | thalweg dense | ratio |  |\n" in page
    row = "| 10 | 2 | 0.0200 ±10% | 0.00200 ±10% | 0.0100 ±10% | 0.750 (0.500–0.900) | faster |"
    assert row in page
    taken = "torch 10, thalweg 1 and thalweg dense 10 times as long."
    assert f"sgd: 10 times the rows in the table take {taken}" in page
    taken = "torch 1.5, thalweg 1.5 and thalweg dense 1 times as long."
    assert f"sgd: 1.5 times the touched rows take {taken}" in page
    assert "25% in sgd, 3 of 100 rows." in page
    assert "Not measured: adam, 2 of 10 rows; adam, 3 of 10 rows; adam, 2 of 40 rows" in page
    assert rows_table.line(CELLS[0]) == (
        "sgd, 2 of 10 rows: 0.00200 ms, torch's 0.0200 ms: 0.750 (0.500–0.900), faster"
    )


# The command


def said(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["thalweg", "bench", "sparse", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, shown.out, shown.err


SMALL = "--optimizers sgd,adagrad --tables 20,40 --touched 2 --width 3 --rounds 2"


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text(
        "<!-- measured -->\nsteps\n<!-- end -->\n<!-- measured: sparse -->\n<!-- end -->\nrest\n"
    )
    code, out, err = said(f"{SMALL} --json o.json --markdown page.md", capsys, monkeypatch)
    assert code == 0
    assert err.count("faster") + err.count("tie") + err.count("slower") == 4
    assert err.splitlines()[3].startswith("[4/4] adagrad, 2 of 40 rows: ")
    assert "sgd: 2 times the rows in the table take torch " in " ".join(out.split())
    content = json.loads(Path("o.json").read_text())
    assert [c["rows"] for c in content["cells"]] == [20, 40, 20, 40]
    assert content["plan"]["tables"] == [20, 40]
    assert content["growth"]["adagrad"]["rows"][0] == 2
    assert "processor" in content["machine"]
    page = Path("page.md").read_text(encoding="utf-8")
    assert page.startswith("<!-- measured -->\nsteps\n<!-- end -->\n<!-- measured: sparse -->\n")
    assert page.endswith("times as long.\n<!-- end -->\nrest\n")
    assert "**adagrad: tables of rows of 3 float32, " in page


def test_stopped_command_shows_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def stopping(plan: RowsPlan) -> Any:
        yield CELLS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "measured", stopping)
    code, out, err = said(f"{SMALL} --json {tmp_path}/o.json", capsys, monkeypatch)
    assert code == 130
    assert "Stopped. What has been measured follows." in err
    assert "Not measured: sgd, 2 of 20 rows; sgd, 2 of 40 rows; " in " ".join(out.split())
    assert len(json.loads((tmp_path / "o.json").read_text())["cells"]) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--tables 10,x", "tables is '10,x', but must be whole numbers, separated by commas"),
        ("--threads 0", "threads is 0"),
        ("--optimizers adm", "Did you mean adam"),
        ("--markdown no/o.md", "no/o.md cannot be written"),
        ("--json no/o.json", "no/o.json cannot be written"),
    ],
)
def test_mistakes(
    line: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    code, _, err = said(line, capsys, monkeypatch)
    assert code == 2
    assert says in err
