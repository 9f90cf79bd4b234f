"""What is kept of a measurement in files."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from thalweg.bench.cell import Cell, Plan
from thalweg.errors import UsageError

__all__ = ["MEASURED", "as_json", "check_place", "check_writable", "insert", "written"]

MEASURED = "measured"
"""What a page calls the place that it has for the tables of steps."""


def check_writable(path: Path) -> None:
    """See that a file can be written, without changing it.

    Raises:
        UsageError: it cannot.
    """
    there = path.exists()
    try:
        with path.open("a"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): name a file in a folder that exists."
        ) from error


def as_json(plan: Plan, machine: dict[str, str], cells: Sequence[Cell]) -> str:
    """Everything there is: the plan, the machine, each cell's measurements and what follows."""
    done = [(c.shapes, c.optimizer) for c in cells]
    ratios = [c.ratio.median for c in cells if c.ratio is not None]
    return written(
        machine,
        plan=asdict(plan),
        geometric_mean=geometric_mean(ratios) if ratios else None,
        missing=[cell for cell in plan.cells() if cell not in done],
        cells=[_described(c) for c in cells],
    )


def written(machine: dict[str, str], **content: Any) -> str:
    """Everything there is of a measurement, and how and when it was made."""
    made = {
        "command": shlex.join(["thalweg", *sys.argv[1:]]),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
    }
    return json.dumps({**made, **content}, indent=1) + "\n"


def _described(cell: Cell) -> dict[str, Any]:
    return {
        **asdict(cell),
        "rival": cell.rival,
        "verdict": cell.verdict,
        "gigabytes_per_second": cell.gigabytes_per_second,
        "reference_gigabytes_per_second": cell.reference_rates(),
        "share": cell.share,
    }


def _place(place: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {place} -->\n).*?(?=<!-- end -->)", re.DOTALL)


def check_place(page: Path, place: str = MEASURED) -> None:
    """See that tables can be written into a page, which is new or has a place for them.

    Args:
        page: the page's file.
        place: what the page calls the place.

    Raises:
        UsageError: they cannot.
    """
    check_writable(page)
    if page.exists() and not _place(place).search(page.read_text(encoding="utf-8")):
        raise UsageError(
            f"{page} has no place for the tables, and nothing else in it is overwritten: name a "
            f"new file, or add the lines <!-- {place} --> and <!-- end --> to it."
        )


def insert(page: Path, tables: str, place: str = MEASURED) -> None:
    """Write the tables into the place that a page has for them; see `check_place`."""
    there = page.exists()
    text = page.read_text(encoding="utf-8") if there else f"<!-- {place} -->\n<!-- end -->\n"
    page.write_text(_place(place).sub(lambda _: tables, text), encoding="utf-8")
