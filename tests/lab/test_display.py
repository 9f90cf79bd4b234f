"""What is printed, into a pipe and into a terminal."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lab import studies
from thalweg.lab import display, tally
from thalweg.lab.display import Display, print_summary
from thalweg.lab.findings.summary import summarize
from thalweg.lab.plan import Run
from thalweg.lab.runner.pool import Started
from thalweg.lab.runner.worker import Ended, Progress
from thalweg.lab.study import Result, Status, Study

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def begun(optimizers: Sequence[str] = ("sgd", "adam"), **given: Any) -> Study:
    """A study of which no run has ended; runs have 4 epochs."""
    whole = studies.study(dict.fromkeys(optimizers, 0.9), **{"epochs": 4, "seeds": 2, **given})
    return replace(whole, results=())


def run(optimizer: str, seed: int, trial: int = 0, task: str = "blobs") -> Run:
    return Run(task, optimizer, trial, seed)


def result(of: Run, metric: float = 0.5, status: Status = "finished", reason: str = "") -> Result:
    whole = 4 if status == "finished" else 1
    return studies.result(of, [metric] * whole, reason, status=status)


def epoch(of: Run, number: int = 1) -> Progress:
    return Progress(of, studies.result(of, [0.5] * number).epochs[-1])


def printed(capsys: pytest.CaptureFixture[str], of: Study, **given: Any) -> str:
    print_summary(of, **given)
    return capsys.readouterr().out


# Into a pipe:


def test_pipe_gets_a_line_per_ended_run(capsys: pytest.CaptureFixture[str]) -> None:
    of = replace(begun(), results=(result(run("sgd", 1)),))
    with Display(of, 2) as show:
        show(Started(run("adam", 1)))
        show(epoch(run("adam", 1)))
        assert capsys.readouterr().err == ""
        show(Ended(result(run("adam", 1), 0.123456)))
        assert capsys.readouterr().err == "[2/4] adam, seed 1: score 0.1235\n"
        reason = "the training loss was nan at step 3"
        show(Ended(result(run("sgd", 2), 0.5, "diverged", reason)))
        show(Ended(Result(run("adam", 2), "failed", "ValueError: [/x] (t.py, line 3)", (), {})))
    said = capsys.readouterr()
    assert said.err.rstrip().splitlines() == [
        "[3/4] sgd, seed 2: diverged: the training loss was nan at step 3",
        "[4/4] adam, seed 2: failed: ValueError: [/x] (t.py, line 3)",
    ]
    assert said.out == ""
    assert not CONTROL.search(said.err)


def test_lines_name_trials_and_tasks_where_there_are_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display(begun(trials=2, tasks=("blobs", "moons")), 2) as show:
        show(Ended(result(run("adam", 0, 1), 0.25)))
        show(Ended(result(run("adam", 2, task="moons"), 0.75)))
    first, second = capsys.readouterr().err.splitlines()
    # Two tasks, on each 2 trials and 2 judging runs of each of 2 optimizers.
    assert first == "[1/16] blobs: adam, trial 1: score 0.25"
    assert second.endswith("moons: adam, seed 2: score 0.75")


def test_seeds_of_an_optimizer_whose_trials_all_fail_are_not_waited_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display(begun(trials=2), 2) as show:
        for trial in (0, 1):
            show(Ended(result(run("adam", 0, trial), 0.5, "diverged", "nan")))
    # Of 2 optimizers with 2 trials and 2 seeds each.
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("[1/8] adam, trial 0: diverged")
    assert second.startswith("[2/6] adam, trial 1: diverged")


def test_notebook_gets_one_line_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def console(**settings: Any) -> Console:
        made = Console(**settings)
        made.is_jupyter = True
        return made

    monkeypatch.setattr(display, "Console", console)
    with Display(begun(), 2) as show:
        show(Ended(result(run("adam", 1), 0.25)))
        show(Ended(result(run("adam", 2), 0.5)))
    said = capsys.readouterr().err
    assert "\n" not in said
    assert said.split("\r\x1b[2K")[1:] == [
        "[1/4] adam, seed 1: score 0.25",
        "[2/4] adam, seed 2: score 0.5",
    ]


def test_table_in_a_pipe_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    # Longer than a line of a terminal.
    long = "l2:weight_decay=0.0001+adam:lr=0.001:beta1=0.95:beta2=0.9999"
    reason = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x64 and 32x10) (t.py)"
    of = studies.outcomes({long: [0.91, 0.92], "sgd": [0.9, 0.93], "nag": ["boom", "boom"]})
    broken = tuple(replace(r, reason=reason) if r.run.optimizer == "nag" else r for r in of.results)
    of = replace(of, results=broken)
    said = printed(capsys, of)
    assert not CONTROL.search(said)
    assert said.splitlines()[0] == summarize(of, "blobs").verdict
    assert "blobs, 2 epochs; metric on the validation data" in said
    assert len([line for line in said.splitlines() if long in line and "│" in line]) == 1
    # The reason is broken into lines, but nothing of it is lost.
    assert reason.replace(" ", "") in re.sub(r"[\s│]", "", said).replace("failed:", "")


def test_number_is_not_broken_in_two(capsys: pytest.CaptureFixture[str]) -> None:
    long = "l2:weight_decay=0.0001+adam:lr=0.001:beta1=0.95:beta2=0.9999"
    of = studies.outcomes({long: [0.91, 0.92], "sgd": ["boom"]})
    assert "0.9150 ± 0.0071" in printed(capsys, of)


def cells(text: str, optimizer: str) -> list[str]:
    [line] = [row for row in text.splitlines() if f" {optimizer} " in row and "│" in row]
    return [cell.strip() for cell in line.split("│")[1:-1]]


THREE: Mapping[str, Sequence[float]] = {
    "sgd": (0.9, 0.8, 0.85),
    "adam": (0.85, 0.83, 0.84),
    "nag": (0.4, 0.301, 0.35),
}


def test_rows_say_who_is_best_and_who_ties(capsys: pytest.CaptureFixture[str]) -> None:
    of = studies.outcomes({"nag": THREE["nag"], **THREE}, target=0.3)
    said = printed(capsys, of)
    summary = summarize(of, "blobs")
    _, adam, nag = summary.rows
    assert cells(said, "sgd")[:4] == ["sgd", "best", "0.850 ± 0.050", ""]
    assert cells(said, "sgd")[4:] == ["1", "0.50", "50.000", ""]
    assert adam.ties
    assert cells(said, "adam")[1] == "tie"
    assert not nag.ties
    assert cells(said, "nag")[1] == ""
    difference, low, high = (
        float(x) for x in re.findall(r"-?[\d.]+", cells(said, "nag")[3].replace(" to ", " "))
    )
    assert (difference, low, high) == pytest.approx((nag.difference, nag.low, nag.high), abs=0.006)
    headings = " ".join(said.split("└")[0].split())
    for heading in ("score", "behind the best", "epochs to 0.3", "seconds to 0.3", "ms per step"):
        assert heading in headings


def test_digits_follow_the_margin(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = {"sgd": (1.0e-4, 1.2e-4, 1.1e-4), "adam": (2.0e-4, 2.2e-4, 2.5e-4)}
    said = printed(capsys, studies.outcomes(tiny, higher=False))
    assert cells(said, "sgd")[2] == "0.000110 ± 0.000010"
    large = {"sgd": (12300.0, 45600.0), "adam": (78900.0, 65400.0)}
    said = printed(capsys, studies.outcomes(large, higher=False))
    assert cells(said, "sgd")[2] == "2.895e+04 ± 2.355e+04"


def test_a_single_seed_has_neither_spread_nor_interval(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, studies.outcomes({"sgd": [0.9], "adam": [0.8]}))
    assert cells(said, "sgd")[2] == "0.9"
    assert cells(said, "adam")[2:4] == ["0.8", "0.1"]


def test_target_has_a_heading_when_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, studies.outcomes({"sgd": ["boom"]}))
    assert "epochs to the target" in said
    assert cells(said, "sgd")[-1] == "failed: boom"


@pytest.mark.parametrize("text", ["expected list[int]", "no file [/tmp/x]", "[red]"])
def test_what_users_wrote_is_not_markup(capsys: pytest.CaptureFixture[str], text: str) -> None:
    of = studies.outcomes({"sgd": ["boom"]})
    of = replace(of, results=tuple(replace(r, reason=text) for r in of.results))
    assert text in " ".join(printed(capsys, of).split())


@pytest.mark.parametrize("name", ["task[a]", "a[/b]"])
def test_a_name_is_not_markup(capsys: pytest.CaptureFixture[str], name: str) -> None:
    said = printed(capsys, studies.study(("sgd",), tasks=(name,)))
    assert f"{name}, 5 epochs" in said
    assert f"on {name} " in said


def test_a_search_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    of = studies.study({"adam": 0.9, "sgd": 0.7}, trials=4)
    said = printed(capsys, of, report=Path("there/report.html"))
    leader = summarize(of, "blobs").rows[0]
    [rate] = re.findall(r"^lr=([\d.e-]+)", cells(said, "adam")[-1])
    assert float(rate) == pytest.approx(leader.searched["lr"], rel=1e-3)
    assert len(rate) <= 7
    [line] = [line for line in said.splitlines() if line.startswith("Best to expect")]
    assert "(score on the validation data): 1: adam (" in line
    assert re.search(r", 2: adam \([\d.]+\), 4: adam \([\d.]+\)\.$", line)
    assert said.endswith("\nReport: there/report.html\n")


def test_of_less_that_is_better_the_least_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    of = studies.study({"adam": 0.9, "sgd": 0.7}, trials=2, higher=False)
    summary = summarize(of, "blobs")
    said = printed(capsys, of)
    for count in (1, 2):
        expected = summary.budget["adam"].expected[count - 1]
        assert expected < summary.budget["sgd"].expected[count - 1]
        assert f"{count}: adam ({expected:.4g})" in said


def test_without_a_search_no_budget_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, studies.study(("adam", "sgd")))
    assert "Best to expect" not in said
    assert {cells(said, name)[-1] for name in ("adam", "sgd")} == {""}


def test_several_tasks_are_told_one_by_one_and_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    of = studies.study(("adam", "sgd"), tasks=("blobs", "moons"))
    said = printed(capsys, of)
    for task in ("blobs", "moons"):
        assert summarize(of, task).headline in said
    assert display.overall(of) in said


# Into a terminal:


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tally, "perf_counter", clock)
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


def lines(shown: io.StringIO) -> Callable[[], list[str]]:
    def read() -> list[str]:
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]", plain) if line.strip()]

    return read


def test_terminal_shows_what_runs_what_is_left_and_the_best(
    terminal: io.StringIO, clock: Clock
) -> None:
    show = Display(begun(), 2)
    show.__enter__()
    shown = lines(terminal)

    def after(seconds: float, event: Started | Progress | Ended) -> str:
        clock.now += seconds
        show(event)
        show._progress.refresh()
        return shown()[-1]

    first, second = run("sgd", 1), run("adam", 1)
    after(0, Started(first))
    line = after(0, Started(second))
    assert line.startswith("blobs")
    assert "0/4 runs" in line
    assert "2 running" in line
    assert "left" not in line
    assert "best" not in line
    # A run takes 8 s, two of four are 2 s old, and two go on side by side.
    assert after(2, epoch(first)).endswith("2 running · 14 s left")
    # One took 6 s; of the three that are left, one is 6 s old.
    line = after(4, Ended(result(second, 0.75)))
    assert "1/4 runs" in line
    assert line.endswith("1 running · 6 s left · best so far adam (score 0.75)")
    line = after(1, Ended(result(first, 0.9)))
    assert line.endswith("0 running · 6 s left · best so far sgd (score 0.9)")
    # Means decide; a run that diverged does not count.
    after(1, Ended(result(run("sgd", 2), 0.5)))
    line = after(1, Ended(result(run("adam", 2), 9.0, "diverged", "nan")))
    assert "4/4 runs" in line
    assert line.endswith("0 running · 0 s left · best so far adam (score 0.75)")
    show.__exit__()
    assert "seed" not in terminal.getvalue()


def test_each_task_has_a_line(terminal: io.StringIO) -> None:
    with Display(begun(tasks=("blobs", "moons")), 2) as show:
        show(Started(run("sgd", 1)))
        show(Ended(result(run("sgd", 1), 0.25)))
        show(Ended(result(run("adam", 1, task="moons"), 0.75)))
    whole, blobs, moons = lines(terminal)()[-3:]
    assert whole.startswith("2 tasks")
    assert "2/8 runs" in whole
    assert "0 running" in whole
    assert "1/4 runs" in blobs
    assert blobs.endswith("best so far sgd (score 0.25)")
    assert moons.startswith("moons")
    assert moons.endswith("best so far adam (score 0.75)")


def test_lower_may_be_better(terminal: io.StringIO) -> None:
    with Display(begun(higher=False), 2) as show:
        show(Ended(result(run("adam", 1), 0.75)))
        show(Ended(result(run("sgd", 1), 0.5)))
    assert "best so far sgd (score 0.5)" in lines(terminal)()[-1]


def test_table_in_a_terminal(terminal: io.StringIO) -> None:
    of = studies.study(("sgd",))
    print_summary(of)
    assert summarize(of, "blobs").verdict in terminal.getvalue()


@pytest.mark.parametrize("width", [60, 80, 119, 120, 149, 150])
def test_a_terminal_of_any_width_shows_who_is_best_by_how_much(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    shown = io.StringIO()

    def console(**settings: Any) -> Console:
        return Console(file=shown, width=width, force_terminal=True, color_system=None)

    monkeypatch.setattr(display, "Console", console)
    long = "l2:weight_decay=0.0001+adam:lr=0.001:beta1=0.95:beta2=0.9999"
    of = studies.outcomes({**THREE, long: ["boom", 0.3, 0.31]}, target=0.3)
    print_summary(of)
    said = shown.getvalue()
    assert cells(said, "sgd")[:4] == ["sgd", "best", "0.850 ± 0.050", ""]
    assert re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cells(said, "nag")[3])
    assert max(len(line) for line in said.splitlines() if "│" in line) <= width
    assert "…" not in said
    assert ("epochs to 0.3" in said) == (width >= 120)
    # Not a letter of a long name is lost, nor of what went wrong.
    cut = [line.split("│")[1].strip() for line in said.splitlines() if line.startswith("│")]
    assert long in "".join(cut)
    assert "failed: boom" in " ".join(re.sub("[│\\s]+", " ", said).split())


def test_pipe_or_terminal_is_decided_by_standard_error() -> None:
    with redirect_stderr(io.StringIO()) as said, Display(begun(), 2) as show:
        show(Ended(result(run("sgd", 1))))
    assert "[1/4] sgd, seed 1" in said.getvalue()
