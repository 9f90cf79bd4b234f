"""What is shown of cells."""

from dataclasses import replace

import pytest

from thalweg.bench.cell import TRIAD, Cell, Plan
from thalweg.bench.contestants import OURS
from thalweg.bench.measurement import Spread
from thalweg.bench.table import line, markdown, print_tables
from thalweg.bench.traffic import Streams

MACHINE = {"processor": "Abacus", "cores": "3"}


def cell(optimizer: str, ratio: Spread | None, shapes: str = "mlp") -> Cell:
    ms = 1e-3
    seconds = {
        "foreach": Spread(0.9 * ms, 1 * ms, 1.1 * ms),
        OURS: Spread(0.2 * ms, 0.25 * ms, 0.3 * ms),
        TRIAD: Spread(0.1 * ms, 0.1 * ms, 0.1 * ms),
    }
    if ratio is None:
        del seconds["foreach"]
    return Cell(
        optimizer,
        shapes,
        99_710,
        4,
        Streams(4, 3, 28),
        rounds=9,
        seconds=seconds,
        references={"copy_": Spread(1e-5, 1e-5, 1e-5)},
        growth={OURS: 12.4},
        overhead=Spread(1e-6, 7.5e-6, 9e-6),
        ratio=ratio,
    )


CELLS = [
    cell("sgd", Spread(0.2, 0.25, 0.3)),
    cell("adam", Spread(0.9, 1, 1.1)),
    cell("adamw", Spread(1.9, 2, 2.1)),
    replace(cell("qhm", None), problems={"fused": "RuntimeError: [no]"}),
]
PLAN = Plan(("sgd", "adam", "adamw", "qhm", "nadam"), ("mlp",))


def rows(page: str) -> list[list[str]]:
    return [
        [x.strip() for x in row.strip("|").split("|")] for row in page.splitlines() if "|" in row
    ]


def test_row_has_everything():
    heads, ruler, sgd, adam, adamw, qhm = rows(markdown(PLAN, MACHINE, CELLS))
    assert ruler == ["---", *["---:"] * 10]
    assert dict(zip(heads, sgd, strict=True)) == {
        "optimizer": "sgd",
        "for-loop": "-",
        "foreach": "1.00 ±10%",
        "fused": "-",
        "thalweg": "0.250 ±20%",
        "ratio": "0.250 (0.200–0.300)",
        "": "faster",
        "GB/s": "11.2",
        "of triad": "40%",
        "not kernel": "7.5",
        "extra MiB": "12",
    }
    assert [row[heads.index("")] for row in (adam, adamw, qhm)] == ["tie", "slower", ""]
    assert qhm[1:4] == ["-", "-", "failed"]
    assert qhm[heads.index("ratio")] == "-"


def test_losses_ties_failures_and_what_is_missing_are_told():
    page = markdown(PLAN, MACHINE, CELLS)
    # The cube root of 0.25 * 1 * 2.
    assert "mlp: geometric mean of 3 ratios 0.794; faster 1, tie 1, slower 1." in page
    assert "Not measured: nadam on mlp." in page
    assert "qhm: fused failed: RuntimeError: [no]." in page
    assert "processor: Abacus; cores: 3." in page
    assert "copy_ 79.8 GB/s" in page
    assert "All shapes" not in page


def test_disturbed_cells_are_told():
    quiet = markdown(PLAN, MACHINE, [replace(c, others=0.02) for c in CELLS])
    assert "Disturbed" not in quiet
    assert "Disturbed" not in markdown(PLAN, MACHINE, CELLS)
    page = markdown(PLAN, MACHINE, [replace(CELLS[0], others=0.25), *CELLS[1:]])
    assert "other processes took so much of the processors' time: 25% in sgd." in page


def test_all_shapes_are_summed_up():
    plan = Plan(("sgd",), ("mlp", "large"))
    cells = [cell("sgd", Spread(0.5, 0.5, 0.5)), cell("sgd", Spread(2, 2, 2), "large")]
    page = markdown(plan, MACHINE, cells)
    assert "All shapes: geometric mean of 2 ratios 1.000; faster 1, tie 0, slower 1." in page
    assert page.index("**mlp") < page.index("**large: one tensor, 1 tensor, 33,554,432")
    assert "Not measured" not in page


def test_compiled_has_a_column_only_if_it_was_asked_for():
    plan = replace(PLAN, compiled=True)
    failed = replace(CELLS[0], problems={"compiled": "RuntimeError: no compiler"})
    heads, _, row = rows(markdown(plan, MACHINE, [failed]))
    assert row[heads.index("compiled")] == "failed"
    assert "compiled" not in rows(markdown(PLAN, MACHINE, CELLS))[0]


def test_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str]):
    print_tables(PLAN, MACHINE, CELLS)
    said = capsys.readouterr().out
    table = [row for row in said.splitlines() if row.startswith("│")]
    assert len(table) == len(CELLS)
    for row, shown in zip(table, rows(markdown(PLAN, MACHINE, CELLS))[2:], strict=True):
        assert [x.strip() for x in row.strip("│").split("│")] == shown
    assert "RuntimeError: [no]" in said
    assert "\x1b" not in said


def test_lines():
    assert line(CELLS[0]) == (
        "sgd on mlp: 0.250 ms, torch's foreach 1.00 ms: 0.250 (0.200–0.300), faster"
    )
    assert line(CELLS[3]) == "qhm on mlp: 0.250 ms, and nothing of torch's beside it"
    left_out = Cell("adam", "large", 1, 4, Streams(4, 3, 28), problems={"": "it needs more"})
    assert line(left_out) == "adam on large: it needs more"
    assert "adam: nothing timed: it needs more." in markdown(
        PLAN, MACHINE, [replace(left_out, shapes="mlp")]
    )


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0.0123456, "0.0123"), (0.999, "0.999"), (1.0, "1.00"), (45.67, "45.7"), (1234.5, "1234")],
)
def test_times_have_three_digits_that_count(milliseconds: float, shown: str):
    s = milliseconds / 1000
    some = replace(CELLS[3], seconds={OURS: Spread(s, s, s), TRIAD: Spread(s, s, s)})
    assert line(some).startswith(f"qhm on mlp: {shown} ms")
