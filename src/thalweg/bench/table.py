"""What is shown of a measurement: a line for each cell, and tables when all are done."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import geometric_mean

from rich.console import Console
from rich.table import Table

from thalweg.bench.cell import Cell, Plan
from thalweg.bench.contestants import COMPILED, OURS, TORCHS
from thalweg.bench.measurement import Spread
from thalweg.bench.shapes import SETS

__all__ = ["line", "markdown", "print_tables"]

LEGEND = (
    "Times are milliseconds of one step: the median of the rounds, ± half the distance of their "
    "quartiles. Ratio: our time to that of the fastest of torch's, its median and quartiles over "
    "the rounds; a tie if 1 is between these. GB/s: what our step reads and writes. Of triad: the "
    "time of a kernel with as many streams and next to no arithmetic, as a share of ours. Not "
    "kernel: microseconds of our step outside its kernels. Extra MiB: memory that our step takes "
    "and gives back."
)

_DISTURBING = 0.03


def line(cell: Cell) -> str:
    """What came of a cell, in a line."""
    said = f"{cell.optimizer} on {cell.shapes}: "
    if cell.ratio is not None and cell.rival is not None:
        times = f"{_ms(cell.seconds[OURS].median)} ms, torch's {cell.rival} "
        return f"{said}{times}{_ms(cell.seconds[cell.rival].median)} ms: {_verdict(cell)}"
    if OURS in cell.seconds:
        return f"{said}{_ms(cell.seconds[OURS].median)} ms, and nothing of torch's beside it"
    return said + "; ".join(cell.problems.values())


def print_tables(plan: Plan, machine: Mapping[str, str], cells: Sequence[Cell]) -> None:
    """Print a table for each set of shapes, and the summary."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        # What a program or a person reads from a file must not be cut to a terminal's width.
        console = Console(markup=False, highlight=False, width=200)
    console.print(_machine(machine))
    for shapes, group in _groups(plan, cells):
        table = Table(title=_title(plan, shapes), title_justify="left")
        for i, heading in enumerate(_headings(plan)):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for cell in group:
            table.add_row(*_row(plan, cell))
        console.print()
        console.print(table)
        for note in _notes(group):
            console.print(note)
    console.print()
    for said in (LEGEND, *_summary(plan, cells)):
        console.print(said)


def markdown(plan: Plan, machine: Mapping[str, str], cells: Sequence[Cell]) -> str:
    """The same as a part of a page."""
    parts = [_machine(machine)]
    for shapes, group in _groups(plan, cells):
        headings = _headings(plan)
        rows = [headings, ["---", *["---:"] * (len(headings) - 1)]]
        rows += [_row(plan, cell) for cell in group]
        parts.append(f"**{_title(plan, shapes)}**")
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        parts += _notes(group)
    return "\n\n".join([*parts, LEGEND, *_summary(plan, cells)]) + "\n"


def _machine(machine: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in machine.items()) + "."


def _groups(plan: Plan, cells: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for shapes in plan.shapes:
        group = [c for c in cells if c.shapes == shapes]
        if group:
            yield shapes, group


def _title(plan: Plan, shapes: str) -> str:
    chosen = SETS[shapes]
    count = "1 tensor" if len(chosen.shapes) == 1 else f"{len(chosen.shapes)} tensors"
    return f"{shapes}: {chosen.about}, {count}, {chosen.elements:,} elements of {plan.dtype}"


def _headings(plan: Plan) -> list[str]:
    ways = [way for way in TORCHS if plan.compiled or way != COMPILED]
    measures = ["ratio", "", "GB/s", "of triad", "not kernel", "extra MiB"]
    return ["optimizer", *ways, OURS, *measures]


def _row(plan: Plan, cell: Cell) -> list[str]:
    ways = [way for way in (*TORCHS, OURS) if plan.compiled or way != COMPILED]
    growth = cell.growth.get(OURS)
    return [
        cell.optimizer,
        *(_time(cell, way) for way in ways),
        "-" if cell.ratio is None else _ratio(cell.ratio),
        cell.verdict,
        "-" if cell.gigabytes_per_second is None else f"{cell.gigabytes_per_second:.1f}",
        "-" if cell.share is None else f"{cell.share:.0%}",
        "-" if cell.overhead is None else f"{cell.overhead.median * 1e6:.1f}",
        "-" if growth is None else f"{growth:.0f}",
    ]


def _time(cell: Cell, way: str) -> str:
    spread = cell.seconds.get(way)
    if spread is None:
        return "failed" if way in cell.problems or "" in cell.problems else "-"
    half = (spread.upper - spread.lower) / 2 / spread.median
    return f"{_ms(spread.median)} ±{half:.0%}"


def _ms(seconds: float) -> str:
    """Milliseconds with three digits that count."""
    value = seconds * 1000
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _ratio(ratio: Spread) -> str:
    return f"{ratio.median:.3f} ({ratio.lower:.3f}–{ratio.upper:.3f})"


def _verdict(cell: Cell) -> str:
    assert cell.ratio is not None
    return f"{_ratio(cell.ratio)}, {cell.verdict}"


def _notes(group: Sequence[Cell]) -> list[str]:
    """What the table has no column for."""
    notes: list[str] = []
    rates: dict[str, list[float]] = {}
    for cell in group:
        for name, found in cell.reference_rates().items():
            rates.setdefault(name, []).append(found)
    if rates:
        best = ", ".join(f"{name} {max(found):.1f} GB/s" for name, found in rates.items())
        notes.append(f"On arrays of this size, at best: {best}.")
    disturbed = [c for c in group if c.others is not None and c.others > _DISTURBING]
    if disturbed:
        shares = ", ".join(f"{c.others:.0%} in {c.optimizer}" for c in disturbed)
        notes.append(f"Disturbed: other processes took so much of the processors' time: {shares}.")
    for cell in group:
        for way, why in cell.problems.items():
            notes.append(
                f"{cell.optimizer}: {way or 'nothing'} {'failed' if way else 'timed'}: {why}."
            )
    return notes


def _summary(plan: Plan, cells: Sequence[Cell]) -> list[str]:
    said: list[str] = []
    groups = [*_groups(plan, cells)]
    for name, group in [*groups, ("All shapes", list(cells))] if len(groups) > 1 else groups:
        ratios = [c.ratio.median for c in group if c.ratio is not None]
        if ratios:
            verdicts = [c.verdict for c in group]
            counts = ", ".join(f"{v} {verdicts.count(v)}" for v in ("faster", "tie", "slower"))
            mean = f"geometric mean of {len(ratios)} ratios {geometric_mean(ratios):.3f}"
            said.append(f"{name}: {mean}; {counts}.")
    done = [(c.shapes, c.optimizer) for c in cells]
    missing = [f"{o} on {s}" for s, o in plan.cells() if (s, o) not in done]
    if missing:
        said.append(f"Not measured: {', '.join(missing)}.")
    return said
