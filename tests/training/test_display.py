"""What is printed of a run, into a pipe and into a terminal."""

import io
import math
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from thalweg.tasks.task import Task
from thalweg.training import display
from thalweg.training.display import Display, print_summary
from thalweg.training.records import Progress, Record

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def unused(*_: Any) -> Any:
    raise AssertionError("a display neither loads nor evaluates")


TASK = Task("blobs", unused, unused, unused, unused, metric_name="score")


def record(epoch: float, metric: float = 0.5, **changed: Any) -> Record:
    known = Record(
        epoch, int(100 * epoch), 0.25, 0.375, metric, 7.5 * epoch, 0, {"lr": 0.003, "beta1": 0.85}
    )
    return replace(known, **changed)


def progress(steps: int, **changed: Any) -> Progress:
    known = Progress(
        steps, 400, steps / 100, 4, 0.5, 32 * steps, steps / 50, {"lr": 0.003, "momentum": 0.9}
    )
    return replace(known, **changed)


# Into a pipe:


def test_pipe_gets_a_line_per_record(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(TASK) as shown:
        shown.watch(progress(50))
        assert capsys.readouterr().err == ""
        shown(record(1, 0.123456))
        assert capsys.readouterr().err == (
            "epoch 1, step 100, loss 0.25, validation loss 0.375, score 0.1235, lr 0.003, "
            "beta1 0.85, 7.5 s\n"
        )
        shown(record(1.5, math.nan, train_loss=math.inf, settings={}, skipped=7))
    said = capsys.readouterr()
    assert said.err == (
        "epoch 1.5, step 150, loss inf, validation loss 0.375, score nan, 7 steps skipped, 11.2 s\n"
    )
    assert said.out == ""
    assert not CONTROL.search(said.err)


def test_pipe_or_terminal_is_decided_by_standard_error() -> None:
    with redirect_stderr(io.StringIO()) as said, Display(TASK) as shown:
        shown(record(1))
    assert said.getvalue().startswith("epoch 1, ")


# Into a terminal:


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "perf_counter", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    """Makes what appears in a terminal of a width."""

    def of(width: int = 160) -> io.StringIO:
        shown = io.StringIO()

        def console(stderr: bool = False) -> Console:
            return Console(
                file=shown,
                width=width,
                force_terminal=True,
                color_system=None,
                legacy_windows=False,
            )

        monkeypatch.setattr(display, "Console", console)
        return shown

    return of


def lines(shown: io.StringIO) -> list[str]:
    """What was written since the last look, without control sequences."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    shown.truncate(shown.seek(0))
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_terminal_shows_how_far_it_is_and_what_it_has_come_to(
    terminal: Callable[..., io.StringIO], clock: Clock
) -> None:
    shown = terminal()
    with Display(TASK) as display:
        # Loading took a while, and steps before 100 another run: neither says how fast this is.
        clock.now += 50
        display.watch(progress(100, samples=0, seconds=0.0))
        first, second = lines(shown)
        assert first.startswith("blobs ")
        assert first.endswith("epoch 1.0/4 · step 100/400")
        assert second == "loss 0.5 · lr 0.003 · momentum 0.9"
        clock.now += 4
        display.watch(progress(200, samples=3200, seconds=2.0))
        display(record(2, 0.75))
        first, second = lines(shown)[-2:]
        # 100 steps in 4 seconds, of which 2 were of training.
        assert first.endswith("epoch 2.0/4 · step 200/400 · 8 s left")
        assert second == (
            "loss 0.5 · validation loss 0.375 · score 0.75 · lr 0.003 · momentum 0.9"
            " · 1,600 samples/s"
        )
    # Both lines are erased in the end.
    assert shown.getvalue().rpartition("samples/s")[2].count("\x1b[2K") == 2


def test_the_loss_is_smoothed_and_survives_a_nan(terminal: Callable[..., io.StringIO]) -> None:
    shown = terminal()
    with Display(TASK) as display:
        display.watch(progress(1, loss=1.0))
        display.watch(progress(2, loss=3.0))
        # (0.9 * 1 + 3) / (0.9 + 1)
        assert lines(shown)[-1].startswith("loss 2.053 ·")
        display.watch(progress(3, loss=math.nan))
        assert lines(shown)[-1].startswith("loss nan ·")
        display.watch(progress(4, loss=3.0))
        # (0.9^2 * 1 + 0.9 * 3 + 3) / (0.9^2 + 0.9 + 1)
        assert lines(shown)[-1].startswith("loss 2.402 ·")


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_terminal_cuts_lines_and_breaks_none(
    terminal: Callable[..., io.StringIO], width: int
) -> None:
    shown = terminal(width)
    with Display(replace(TASK, name="a task with a long name, longer than the terminal")) as show:
        for step in (100, 200, 300):
            show.watch(progress(step))
            show(record(step / 100))
            said = lines(shown)
            assert len(said) % 2 == 0
            assert all(len(line) <= width for line in said)
            assert said[-1].startswith("loss 0.5")


@pytest.mark.parametrize("name", ["task[a]", "a[/b]", "[red]x"])
def test_a_name_is_not_markup(
    terminal: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    task = replace(TASK, name=name, metric_name=name)
    print_summary(task, [record(1)])
    assert capsys.readouterr().out.startswith(f"{name} 0.5 after 1 epoch, ")
    shown = terminal()
    with Display(task) as display:
        display.watch(progress(100))
        display(record(1))
        said = "\n".join(lines(shown))
    assert said.count(name) >= 2


# The summary:


def test_summary_tells_the_end_the_best_the_test_and_where_things_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    (folder / "model.pt").touch()
    records = [record(1, math.nan), record(2, 0.875), record(3, 0.75, test=0.625, test_tta=0.6875)]
    print_summary(TASK, records, folder)
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "score 0.75 after 3 epochs, in 22.5 s of training",
        "best: 0.875 after 2 epochs",
        "on the test data: 0.625, 0.6875 with augmentation",
        f"weights: {folder / 'model.pt'}",
    ]


def test_lower_may_be_better(capsys: pytest.CaptureFixture[str]) -> None:
    records = [record(1, 0.5), record(2, 0.875)]
    print_summary(TASK, records)
    assert "best" not in capsys.readouterr().out
    print_summary(replace(TASK, higher_is_better=False), records)
    assert "best: 0.5 after 1 epoch" in capsys.readouterr().out


def test_summary_of_a_run_without_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(TASK, [])
    assert capsys.readouterr().out == ""
