"""What is shown of a measurement: a line for each cell, and tables when all are done."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from rich.console import Console
from rich.table import Table

from thalweg.bench.cell import Cell, Plan
from thalweg.bench.contestants import COMPILED, OURS, TORCHS
from thalweg.bench.measurement import Spread
from thalweg.bench.shapes import SETS

__all__ = [
    "Grid",
    "disturbed",
    "facts",
    "line",
    "markdown",
    "markdown_parts",
    "ms",
    "print_parts",
    "print_tables",
    "quartiles",
    "time",
]

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
        times = f"{ms(cell.seconds[OURS].median)} ms, torch's {cell.rival} "
        return f"{said}{times}{ms(cell.seconds[cell.rival].median)} ms: {_verdict(cell)}"
    if OURS in cell.seconds:
        return f"{said}{ms(cell.seconds[OURS].median)} ms, and nothing of torch's beside it"
    return said + "; ".join(cell.problems.values())


def print_tables(plan: Plan, machine: Mapping[str, str], cells: Sequence[Cell]) -> None:
    """Print a table for each set of shapes, and the summary."""
    print_parts(_parts(plan, machine, cells))


def markdown(plan: Plan, machine: Mapping[str, str], cells: Sequence[Cell]) -> str:
    """The same as a part of a page."""
    return markdown_parts(_parts(plan, machine, cells))


@dataclass(frozen=True)
class Grid:
    """A table: its title, its headings, and the rows below them."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_parts(parts: Sequence[str | Grid]) -> None:
    """Print paragraphs and tables."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        # What a program or a person reads from a file must not be cut to a terminal's width.
        console = Console(markup=False, highlight=False, width=200)
    for part in parts:
        if isinstance(part, str):
            console.print(part)
            continue
        table = Table(title=part.title, title_justify="left")
        for i, heading in enumerate(part.headings):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for row in part.rows:
            table.add_row(*row)
        console.print()
        console.print(table)


def markdown_parts(parts: Sequence[str | Grid]) -> str:
    """Paragraphs and tables as a part of a page."""
    said: list[str] = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
            continue
        rows = [part.headings, ["---", *["---:"] * (len(part.headings) - 1)], *part.rows]
        said += [f"**{part.title}**", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join(said) + "\n"


def _parts(plan: Plan, machine: Mapping[str, str], cells: Sequence[Cell]) -> list[str | Grid]:
    parts: list[str | Grid] = [facts(machine)]
    for shapes, group in _groups(plan, cells):
        rows = [_row(plan, cell) for cell in group]
        parts += [Grid(_title(plan, shapes), _headings(plan), rows), *_notes(group)]
    return [*parts, LEGEND, *_summary(plan, cells)]


def facts(machine: Mapping[str, str]) -> str:
    """What was measured on, in a line."""
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
        "-" if cell.ratio is None else quartiles(cell.ratio),
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
    return time(spread)


def time(spread: Spread) -> str:
    """Milliseconds: the median, ± half the distance of the quartiles."""
    half = (spread.upper - spread.lower) / 2 / spread.median
    return f"{ms(spread.median)} ±{half:.0%}"


def ms(seconds: float) -> str:
    """Milliseconds with three digits that count."""
    value = seconds * 1000
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def quartiles(ratio: Spread) -> str:
    """A ratio's median, and its quartiles in brackets."""
    return f"{ratio.median:.3f} ({ratio.lower:.3f}–{ratio.upper:.3f})"


def _verdict(cell: Cell) -> str:
    assert cell.ratio is not None
    return f"{quartiles(cell.ratio)}, {cell.verdict}"


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
    notes += disturbed((c.optimizer, c.others) for c in group)
    for cell in group:
        for way, why in cell.problems.items():
            notes.append(
                f"{cell.optimizer}: {way or 'nothing'} {'failed' if way else 'timed'}: {why}."
            )
    return notes


def disturbed(cells: Iterable[tuple[str, float | None]]) -> list[str]:
    """That other processes took a share of the time of cells that counts, if they did."""
    shares = [f"{o:.0%} in {name}" for name, o in cells if o is not None and o > _DISTURBING]
    if not shares:
        return []
    took = "other processes took so much of the processors' time"
    return [f"Disturbed: {took}: {', '.join(shares)}."]


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
