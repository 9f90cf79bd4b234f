"""What is shown of steps with sparse gradients: a line for each cell, tables, and the growth."""

from collections.abc import Mapping, Sequence

from thalweg.bench.contestants import OURS
from thalweg.bench.rows import TORCH, WAYS, RowsCell, RowsPlan, growth
from thalweg.bench.table import (
    Grid,
    disturbed,
    facts,
    markdown_parts,
    ms,
    print_parts,
    quartiles,
    time,
)

__all__ = ["line", "markdown", "print_tables"]

LEGEND = (
    "Times are milliseconds of one step: the median of the rounds, ± half the distance of their "
    "quartiles. Ratio: our time to torch's with the same sparse gradients, its median and "
    "quartiles over the rounds; a tie if 1 is between these. Dense: our step of all rows, with "
    "such a gradient made dense."
)


def line(cell: RowsCell) -> str:
    """What came of a cell, in a line."""
    said = f"{_name(cell)}: "
    if cell.ratio is None:
        return said + cell.problem
    ours, theirs = (ms(cell.seconds[way].median) for way in (OURS, TORCH))
    return f"{said}{ours} ms, torch's {theirs} ms: {quartiles(cell.ratio)}, {cell.verdict}"


def print_tables(plan: RowsPlan, machine: Mapping[str, str], cells: Sequence[RowsCell]) -> None:
    """Print a table for each optimizer, and how its time grows."""
    print_parts(_parts(plan, machine, cells))


def markdown(plan: RowsPlan, machine: Mapping[str, str], cells: Sequence[RowsCell]) -> str:
    """The same as a part of a page."""
    return markdown_parts(_parts(plan, machine, cells))


def _name(cell: RowsCell) -> str:
    return f"{cell.optimizer}, {cell.touched:,} of {cell.rows:,} rows"


def _parts(
    plan: RowsPlan, machine: Mapping[str, str], cells: Sequence[RowsCell]
) -> list[str | Grid]:
    parts: list[str | Grid] = [facts(machine)]
    headings = ["rows", "touched", *WAYS, "ratio", ""]
    for optimizer in dict.fromkeys(c.optimizer for c in cells):
        group = [c for c in cells if c.optimizer == optimizer]
        entries = f"gradients with {plan.entries} for each touched row"
        title = f"{optimizer}: tables of rows of {plan.width} float32, {entries}"
        parts += [Grid(title, headings, [_row(c) for c in group])]
        parts += disturbed((_name(c), c.others) for c in group)
        parts += [f"{_name(c)}: nothing timed: {c.problem}." for c in group if c.problem]
    parts.append(LEGEND)
    for optimizer, found in growth(cells).items():
        for size, (times, grown) in found.items():
            what = {"rows": "rows in the table", "touched": "touched rows"}[size]
            *some, last = (f"{way} {factor:.3g}" for way, factor in grown.items())
            longer = f"{', '.join(some)} and {last} times as long"
            parts.append(f"{optimizer}: {times:g} times the {what} take {longer}.")
    done = [(c.optimizer, c.rows, c.touched) for c in cells]
    missing = [_name(RowsCell(*key)) for key in plan.cells() if key not in done]
    return parts + ([f"Not measured: {'; '.join(missing)}."] if missing else [])


def _row(cell: RowsCell) -> list[str]:
    times = [time(cell.seconds[way]) if way in cell.seconds else "-" for way in WAYS]
    ratio = "-" if cell.ratio is None else quartiles(cell.ratio)
    return [f"{cell.rows:,}", f"{cell.touched:,}", *times, ratio, cell.verdict]
