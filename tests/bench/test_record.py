"""What is written to files."""

import json
import os
import sys
from pathlib import Path

import pytest

from thalweg.bench.cell import Plan, measured
from thalweg.bench.record import as_json, check_place, check_writable, insert
from thalweg.errors import UsageError


def test_json_has_all_that_was_measured_and_what_was_not():
    plan = Plan(("adam", "qhm", "sgd"), ("mlp",), rounds=2)
    cells = measured(plan)
    done = [next(cells), next(cells)]
    content = json.loads(as_json(plan, {"cores": "3"}, done))
    assert content["machine"] == {"cores": "3"}
    assert content["plan"]["optimizers"] == ["adam", "qhm", "sgd"]
    assert content["missing"] == [["mlp", "sgd"]]
    adam, qhm = content["cells"]
    assert done[0].ratio is not None
    assert content["geometric_mean"] == pytest.approx(done[0].ratio.median)
    for way, spread in done[0].seconds.items():
        assert adam["seconds"][way] == {
            "lower": spread.lower,
            "median": spread.median,
            "upper": spread.upper,
        }
    assert adam["streams"] == {"reads": 4, "writes": 3, "bytes": 28}
    assert adam["rounds"] == 2
    assert adam["verdict"] == done[0].verdict
    assert adam["gigabytes_per_second"] == pytest.approx(done[0].gigabytes_per_second)
    assert (qhm["ratio"], qhm["rival"], qhm["verdict"]) == (None, None, "")


def test_json_of_nothing():
    content = json.loads(as_json(Plan(("adam",), ("mlp",)), {}, []))
    assert content["geometric_mean"] is None
    assert content["missing"] == [["mlp", "adam"]]


def test_file_that_can_be_written_is_left_as_it_is(tmp_path: Path):
    check_writable(tmp_path / "new.json")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "old.json").write_text("kept")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"


@pytest.mark.parametrize("path", ["none/a.json", ".", "file/a.json", "locked.json"])
def test_file_that_cannot_be_written(tmp_path: Path, path: str):
    (tmp_path / "file").write_text("")
    (tmp_path / "locked.json").write_text("")
    (tmp_path / "locked.json").chmod(0o400)
    if path == "locked.json" and (sys.platform == "win32" or os.geteuid() == 0):
        pytest.skip("nothing is locked for an administrator")
    with pytest.raises(UsageError, match="cannot be written"):
        check_writable(tmp_path / path)


def test_tables_go_where_the_page_has_a_place_for_them(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- measured -->\nold\n<!-- end -->\n\nProse.\n")
    for tables in ("new ±1%\n\\1\n", "newer\n"):
        insert(page, tables)
        wanted = f"# Title\n\n<!-- measured -->\n{tables}<!-- end -->\n\nProse.\n"
        assert page.read_text(encoding="utf-8") == wanted


def test_new_page_has_a_place_for_the_next_tables(tmp_path: Path):
    page = tmp_path / "new.md"
    for tables in ("tables\n", "others\n"):
        check_place(page)
        insert(page, tables)
        assert page.read_text() == f"<!-- measured -->\n{tables}<!-- end -->\n"


def test_page_without_a_place_is_not_overwritten(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    with pytest.raises(UsageError, match="has no place for the tables"):
        check_place(page)
    with pytest.raises(UsageError, match="cannot be written"):
        check_place(tmp_path / "none" / "page.md")
    assert page.read_text() == "# Title\n"
