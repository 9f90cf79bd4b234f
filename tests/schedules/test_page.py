"""The page on schedules says of each what the schedule says of itself."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_is_that_of_the_schedules() -> None:
    spec = importlib.util.spec_from_file_location("page_of_schedules", DOCS / "schedules.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (DOCS / "schedules.md").read_text(encoding="utf-8")
    assert "| `one_cycle` | Up, down" in page
    assert script.written(page) == page, "run docs/schedules.py"
