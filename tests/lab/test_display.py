"""What is printed, into a pipe and into a terminal."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from thalweg.lab import display
from thalweg.lab.display import Display, print_summary
from thalweg.lab.plan import Plan, Run
from thalweg.lab.pool import Started
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.lab.summary import summarize
from thalweg.lab.worker import Ended, Progress
from thalweg.training import Record

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def study(
    results: tuple[Result, ...] = (),
    optimizers: tuple[str, ...] = ("sgd", "adam"),
    seeds: int = 2,
    higher: bool = True,
    name: str = "blobs",
) -> Study:
    plan = Plan("t", optimizers, "paper", None, 4, 8, tuple(range(seeds)), None)
    return Study(plan, TaskFacts(name, "", "score", higher, 4, 8, None), results, {})


def epochs(metric: float, completed: int = 4) -> tuple[Record, ...]:
    return tuple(Record(n, 3 * n, 0.25, 0.5, metric, 0.006 * n) for n in range(1, completed + 1))


def result(
    optimizer: str, seed: int, metric: float = 0.5, status: Status = "finished", reason: str = ""
) -> Result:
    return Result(
        Run(optimizer, seed), status, reason, epochs(metric, 4 if status == "finished" else 1), {}
    )


def printed(capsys: pytest.CaptureFixture[str], of: Study) -> str:
    print_summary(of, summarize(of))
    return capsys.readouterr().out


# Into a pipe:


def test_pipe_gets_a_line_per_ended_run(capsys: pytest.CaptureFixture[str]):
    with Display(study((result("sgd", 0),))) as show:
        run = Run("adam", 0)
        show(Started(run))
        show(Progress(run, epochs(0.5)[0]))
        assert capsys.readouterr().err == ""
        show(Ended(result("adam", 0, 0.123456)))
        assert capsys.readouterr().err == "[2/4] adam, seed 0: score 0.1235\n"
        show(Ended(result("sgd", 1, 0.5, "diverged", "the training loss was nan at step 3")))
        show(Ended(Result(Run("adam", 1), "failed", "ValueError: [/x] (t.py, line 3)", (), {})))
    said = capsys.readouterr()
    assert said.err.rstrip().splitlines() == [
        "[3/4] sgd, seed 1: diverged: the training loss was nan at step 3",
        "[4/4] adam, seed 1: failed: ValueError: [/x] (t.py, line 3)",
    ]
    assert said.out == ""
    assert not CONTROL.search(said.err)


def test_table_in_a_pipe_is_whole_and_plain(capsys: pytest.CaptureFixture[str]):
    # Longer than a line of a terminal.
    long = "l2:weight_decay=0.0001+adam:lr=0.001:beta1=0.95:beta2=0.9999"
    reason = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x64 and 32x10) (t.py)"
    rows = study(
        (
            *(result(long, s, 0.91 + s / 100) for s in (0, 1)),
            *(result("sgd", s, 0.91234 + s / 50) for s in (0, 1)),
            result("nag", 0, 0, "failed", reason),
        ),
        (long, "sgd", "nag"),
    )
    said = printed(capsys, rows)
    assert not CONTROL.search(said)
    lines = said.splitlines()
    assert lines[0].strip() == "blobs, 4 epochs"
    [mine] = [line for line in lines if long in line and "│" in line]
    assert "0.2500" in mine
    assert "2.000" in mine
    # The reason is broken into lines, but nothing of it is lost.
    assert reason.replace(" ", "") in re.sub(r"[\s│]", "", said).replace("failed:", "")
    assert lines[-1] == summarize(rows).verdict


def test_number_is_not_broken_in_two(capsys: pytest.CaptureFixture[str]):
    long = "l2:weight_decay=0.0001+adam:lr=0.001:beta1=0.95:beta2=0.9999"
    runs = (*(result(long, s, 0.91 + s / 100) for s in (0, 1)), result("sgd", 0, 0, "failed", long))
    assert "0.9150 ± 0.0071" in printed(capsys, study(runs, (long, "sgd")))


def cells(text: str, optimizer: str) -> list[str]:
    [line] = [row for row in text.splitlines() if f" {optimizer} " in row and "│" in row]
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_rows_say_who_is_best_and_who_ties(capsys: pytest.CaptureFixture[str]):
    of = study(
        tuple(
            result(o, s, m)
            for o, ms in {
                "sgd": (0.9, 0.8, 0.85),
                "adam": (0.85, 0.83, 0.84),
                "nag": (0.4, 0.301, 0.35),
            }.items()
            for s, m in enumerate(ms)
        ),
        ("nag", "sgd", "adam", "qhm"),
    )
    of = replace(of, plan=replace(of.plan, target=0.3))
    said = printed(capsys, of)
    assert cells(said, "sgd") == ["sgd", "0.2500", "0.8500 ± 0.0500", "1", "0.01", "2.000", "best"]
    assert cells(said, "adam")[-1] == "tie"
    assert cells(said, "nag")[-1] == ""
    assert cells(said, "qhm") == ["qhm", "-", "-", "-", "-", "-", ""]
    headings = " ".join(said.split("└")[0].split())
    for heading in ("train loss", "score", "epochs to 0.3", "seconds to 0.3", "ms per step"):
        assert heading in headings


def test_target_has_a_heading_when_there_is_none(capsys: pytest.CaptureFixture[str]):
    said = printed(capsys, study((result("sgd", 0, 0, "failed", "why"),), ("sgd",)))
    assert "epochs to the target" in said
    assert cells(said, "sgd")[-1] == "failed: why"


@pytest.mark.parametrize("text", ["expected list[int]", "no file [/tmp/x]", "[red]"])
def test_what_users_wrote_is_not_markup(capsys: pytest.CaptureFixture[str], text: str):
    broken = study((result("sgd", 0, 0, "failed", text),), ("sgd",))
    assert text in " ".join(printed(capsys, broken).split())


@pytest.mark.parametrize("name", ["task[a]", "a[/b]"])
def test_a_name_is_not_markup(capsys: pytest.CaptureFixture[str], name: str):
    said = printed(capsys, study((result("sgd", 0),), ("sgd",), name=name))
    assert f"{name}, 4 epochs" in said
    assert f"on {name} after" in said


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
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What appears in a terminal that is wide enough."""
    shown = io.StringIO()

    def console(stderr: bool = False, **settings: Any) -> Console:
        terminal = {"force_terminal": True, "color_system": None, "legacy_windows": False}
        return Console(file=shown, **{"width": 200, **settings, **terminal})

    monkeypatch.setattr(display, "Console", console)
    return shown


def last_line(shown: io.StringIO) -> Callable[[], str]:
    def read() -> str:
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
        return [line for line in re.split(r"[\r\n]", plain) if line.strip()][-1].rstrip()

    return read


def test_terminal_shows_what_runs_what_is_left_and_the_best(terminal: io.StringIO, clock: Clock):
    show = Display(study())
    show.__enter__()
    shown = last_line(terminal)

    def after(seconds: float, event: Started | Progress | Ended) -> str:
        clock.now += seconds
        show(event)
        show._progress.refresh()
        return shown()

    first, second = Run("sgd", 0), Run("adam", 0)
    after(0, Started(first))
    line = after(0, Started(second))
    assert line.startswith("blobs")
    assert "0/4 runs" in line
    assert "2 running" in line
    assert "left" not in line
    assert "best" not in line
    # One of 16 epochs in 2 seconds.
    assert after(2, Progress(first, epochs(0.5)[0])).endswith("2 running · 30 s left")
    # Five of 16 epochs in 5 seconds.
    line = after(3, Ended(result("adam", 0, 0.75)))
    assert "1/4 runs" in line
    assert line.endswith("1 running · 11 s left · best so far adam (score 0.75)")
    line = after(1, Ended(result("sgd", 0, 0.9)))
    assert line.endswith("0 running · 6 s left · best so far sgd (score 0.9)")
    # Means decide; a run that diverged does not count.
    after(1, Ended(result("sgd", 1, 0.5)))
    line = after(1, Ended(result("adam", 1, 9.0, "diverged", "nan")))
    assert "4/4 runs" in line
    assert line.endswith("0 running · 0 s left · best so far adam (score 0.75)")
    show.__exit__()
    assert "seed" not in terminal.getvalue()


def test_lower_may_be_better(terminal: io.StringIO):
    with Display(study(higher=False)) as show:
        show(Ended(result("adam", 0, 0.75)))
        show(Ended(result("sgd", 0, 0.5)))
    assert "best so far sgd (score 0.5)" in last_line(terminal)()


def test_time_left_counts_only_what_was_done_since_it_was_resumed(
    terminal: io.StringIO, clock: Clock
):
    with Display(study((result("sgd", 0), result("adam", 0)))) as show:
        show(Started(Run("sgd", 1)))
        clock.now += 3
        show(Progress(Run("sgd", 1), epochs(0.5)[0]))
    line = last_line(terminal)()
    assert "2/4 runs" in line
    assert "21 s left" in line


def test_time_left_after_resuming_with_a_run_that_diverged(terminal: io.StringIO, clock: Clock):
    with Display(study((result("sgd", 0, 0, "diverged", "nan"),))) as show:
        clock.now += 1
        show(Started(Run("adam", 0)))
    assert "left" not in last_line(terminal)()


def test_table_in_a_terminal(terminal: io.StringIO):
    of = study((result("sgd", 0),), ("sgd",))
    print_summary(of, summarize(of))
    assert summarize(of).verdict in terminal.getvalue()


def test_pipe_or_terminal_is_decided_by_standard_error():
    with redirect_stderr(io.StringIO()) as said, Display(study()) as show:
        show(Ended(result("sgd", 0)))
    assert "[1/4] sgd, seed 0" in said.getvalue()
