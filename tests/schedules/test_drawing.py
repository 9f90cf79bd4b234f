"""Schedules drawn in the terminal, as pictures and as pages; and the command that does it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thalweg import UsageError, schedules
from thalweg.cli import main
from thalweg.schedules import SCHEDULES
from thalweg.schedules.drawing import chart, write_html, write_png


def dots(drawn: str, margin: int) -> list[list[bool]]:
    """Which of the dots are set, by row and column: each letter is 2 wide and 4 high."""
    order = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    rows = [line[margin:] for line in drawn.splitlines()[:-2]]
    return [
        [bool((ord(letter) - 0x2800) & bit) for letter in row for bit in bits]
        for row in rows
        for bits in order
    ]


def test_the_line_is_where_the_values_are() -> None:
    drawn = chart(schedules.linear(0, 1, 31), steps=32, width=20)
    grid = dots(drawn, margin=len("0 │"))
    assert len(grid) == 32
    assert {len(row) for row in grid} == {2 * (20 - len("0 │"))}
    width = len(grid[0])
    for y, row in enumerate(grid):
        for x, is_set in enumerate(row):
            if is_set:
                assert (31 - y) / 31 == pytest.approx(x / (width - 1), abs=0.04)
    assert all(any(column) for column in zip(*grid, strict=True))
    assert drawn.splitlines()[0].startswith("1 │")
    assert drawn.splitlines()[-1].endswith("step 31")


def test_a_jump_is_joined_and_a_constant_is_flat() -> None:
    grid = dots(chart(schedules.step(1, 0.0, every=10), 20, 23), margin=3)
    assert [sum(row) for row in grid[1:-1]] == [1] * 30
    grid = dots(chart(schedules.constant(3), 20, 23), margin=3)
    assert [sum(row) for row in grid] == [40] + [0] * 31


@pytest.mark.parametrize("width", [20, 33, 80])
def test_no_line_is_wider_than_asked_for(width: int) -> None:
    for value in (1.0, 1.2345e-6):
        drawn = chart(schedules.one_cycle(value, 1000), 1000, width)
        assert {len(line) for line in drawn.splitlines()} == {width}


def test_pictures_and_pages_are_written_and_need_nothing_else(tmp_path: Path) -> None:
    curves = {
        "rate": schedules.one_cycle(1, 50),
        "momentum": schedules.one_cycle_momentum(steps=50),
    }
    write_png(curves, 50, tmp_path / "a.png")
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG\r\n\x1a\n")
    write_png({"rate": curves["rate"]}, 50, tmp_path / "b.png")
    # Width and height stand at bytes 16 to 24: two plots are side by side.
    wide, narrow = (int.from_bytes((tmp_path / n).read_bytes()[16:20]) for n in ("a.png", "b.png"))
    assert wide > 1.5 * narrow
    write_html(curves, 50, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script src" not in page
    assert "momentum" in page
    for write in (write_png, write_html):
        with pytest.raises(UsageError, match=r"no/a cannot be written .*folder that exists"):
            write(curves, 50, tmp_path / "no" / "a")


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, status: int = 0
) -> str:
    monkeypatch.setattr(sys, "argv", ["thalweg", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_explanations_of_schedules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "37")
    listed = [line.split()[0] for line in said(capsys, monkeypatch, "list schedules").splitlines()]
    assert listed == [*SCHEDULES]
    for name, form in SCHEDULES.items():
        text = said(capsys, monkeypatch, f"explain {name.replace('_', '-')}")
        assert max(map(len, text.splitlines())) <= 37
        assert form.source in text.replace("\n", " ")
        assert all(setting in text for setting in form.parameters)
        assert "\x1b" not in text
    both = said(capsys, monkeypatch, f"explain one-cycle:lr=0.02 --png {tmp_path}/a.png")
    assert "0.02 │" in both
    assert "one_cycle_momentum\n0.95 │" in both
    assert (tmp_path / "a.png").stat().st_size > 1000
    said(capsys, monkeypatch, f"explain cosine --html {tmp_path}/a.html --steps 7")
    assert "html" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "step 6\n" in said(capsys, monkeypatch, "explain cosine --steps 7")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("explain one-cylce", ["schedule 'one-cylce'", "Did you mean one_cycle"]),
        ("explain cosine:strat=1", ["'strat'", "Did you mean start"]),
        ("explain cosine --latex", ["cosine is a schedule", "for optimizers"]),
        ("explain cosine --convention keras", ["cosine is a schedule"]),
        ("explain cosine --steps 0", ["steps is 0", "at least 1"]),
        ("explain cosine:steps=5 --steps 6", ["covers 5 steps", "step 5"]),
        ("explain adam --steps 6", ["adam is an optimizer", "for schedules"]),
        ("explain adam --png a.png", ["adam is an optimizer"]),
        ("explain cosine --png no/a.png", ["no/a.png cannot be written"]),
    ],
)
def test_mistake_is_named_with_what_is_allowed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, says: list[str]
) -> None:
    text = said(capsys, monkeypatch, line, status=2)
    for part in says:
        assert part in text


def test_schedules_need_nothing_that_is_heavy() -> None:
    code = (
        "import sys, thalweg; s = thalweg.one_cycle(1, 9); s(3); repr(s); s.data();"
        "from thalweg.schedules import drawing, explanation, spelling; drawing.chart(s, 9, 20);"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()}.isdisjoint({"torch", "numpy", "matplotlib", "plotly", "rich"})


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError(name='matplotlib')")
    ended = subprocess.run(
        [sys.executable, "-m", "thalweg", "explain", "cosine", "--png", str(tmp_path / "a.png")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "matplotlib is missing" in ended.stderr
    assert 'pip install "thalweg[lab]"' in ended.stderr
