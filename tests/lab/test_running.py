"""`thalweg.compare`: what is asked becomes a plan, the plan is run, and more can be asked later."""

import copyreg
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import thalweg
from lab import studies
from thalweg.errors import UsageError
from thalweg.lab import running
from thalweg.lab.findings.summary import overall, summarize
from thalweg.lab.plan import Order, Run
from thalweg.lab.records.store import read_study
from thalweg.lab.request import Request
from thalweg.lab.runner.pool import Started
from thalweg.lab.runner.worker import Ended, Loaded
from thalweg.lab.study import Study
from thalweg.rules import OPTIMIZERS
from thalweg.rules.declaration import Link


def data() -> thalweg.Data:
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return thalweg.Data(train=(x, 2 * x), validation=(x, 2 * x), test=(x, 2 * x))


def distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().mean()


LINE = thalweg.Task(
    name="line",
    data=data,
    model=lambda: nn.Linear(1, 1),
    loss=nn.functional.mse_loss,
    metric=distance,
    metric_name="distance",
    higher_is_better=False,
    epochs=2,
    batch_size=16,
)


@thalweg.rule("Own", paper="")
def own(g: Any, *, lr: Any = thalweg.hyper(0.1, "[0, inf)", "rate", search=(1e-3, 1.0))) -> Any:
    return lr * g


# What is asked becomes a plan:


def test_the_defaults_are_documented() -> None:
    plan = Request().plan()
    assert [t.spec for t in plan.tasks] == ["digits"]
    assert plan.optimizers == (*OPTIMIZERS,)
    assert (plan.trials, plan.seeds, plan.convention, plan.reshuffle) == (
        1,
        (1, 2, 3),
        "paper",
        True,
    )


def test_optimizers_are_words_and_rules_of_any_kind() -> None:
    chained = thalweg.chain(thalweg.adam(), thalweg.decay())
    plan = Request(LINE, ["sgd, nag", own, chained, "sgd:lr=0.01..1", "nag"], 3).plan()
    assert plan.optimizers == ("sgd", "nag", "Own", "adam+decay", "sgd:lr=0.01..1")
    assert {*plan.rules} == {"Own"}
    assert all(len(c.configurations) == 3 for c in plan.contestants)
    assert Request(LINE, thalweg.sgd(0.5)).plan().optimizers == ("sgd:lr=0.5",)
    assert Request(LINE, "all,l2+sgd").plan().optimizers == (*OPTIMIZERS, "l2+sgd")


def test_tasks_are_names_files_and_objects(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("")
    plan = Request(["digits", LINE, f"{file}:some"], "sgd", epochs=3).plan()
    assert [(t.spec, t.given) for t in plan.tasks] == [
        ("digits", False),
        ("line", True),
        (f"{file}:some", False),
    ]
    assert {t.epochs for t in plan.tasks} == {3}


def test_each_task_may_have_epochs_of_its_own() -> None:
    def epochs(given: Any) -> list[int]:
        return [t.epochs for t in Request(["digits", LINE], "sgd", epochs=given).plan().tasks]

    assert epochs(3) == epochs([3]) == [3, 3]
    assert epochs((2, 5)) == [2, 5]
    plan = Request(["digits", LINE], "sgd", epochs=(2, 5)).plan()
    assert Request(epochs=2, tasks=["digits"]).plan().tasks[0].epochs == 2
    continued = Request(["digits", LINE], epochs=[2, 5]).continued(plan, extend=False, force=False)
    assert continued == plan
    with pytest.raises(UsageError, match="epochs cannot differ"):
        Request(["digits", LINE], epochs=[2, 6]).continued(plan, extend=False, force=False)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"tasks": "digit"}, "unknown task 'digit'.*Did you mean digits"),
    ({"tasks": 3}, "a task is of the type int, .*thalweg.Task"),
    ({"tasks": [LINE, replace(LINE, epochs=3)]}, "two tasks are called line: .*another name"),
    ({"optimizers": "adm"}, "unknown optimizer 'adm'.*Did you mean adam"),
    ({"optimizers": [3]}, "an optimizer is of the type int"),
    ({"optimizers": [own, own(0.5)]}, "two optimizers are called Own.*title"),
    ({"optimizers": [thalweg.l2]}, "'l2' has no optimizer"),
    ({"epochs": (1, 2)}, "2 numbers for 1 task: give one for all"),
    ({"epochs": [0]}, "epochs is 0, but must be at least 1"),
    ({"trials": 0}, "trials is 0, but must be at least 1"),
    ({"trials": "4"}, "trials is '4', but must be a whole number"),
    ({"seeds": 0}, "seeds is 0, but must be at least 1"),
    ({"seeds": True}, "seeds is True, but must be a whole number"),
    ({"epochs": 0}, "epochs is 0"),
    ({"batch_size": "many"}, "batch_size is 'many', .* or 'full'"),
    ({"jobs": 0}, "jobs is 0"),
    ({"threads": 0}, "threads is 0"),
    ({"run_timeout": 0}, "run_timeout is 0, but must be a time above 0 s"),
    ({"memory": -1.0}, "memory is -1.0, but must be above 0 GiB"),
    ({"target": float("nan")}, "target is nan"),
    ({"tasks": ["digits", LINE], "target": 0.5}, "each of the 2 tasks has a metric of its own"),
    ({"optimizers": "sgd:lr=1..0.1", "trials": 4}, "low end must be below the high"),
    ({"convention": "kears"}, "'kears'.*Did you mean keras"),
    ({"schedule": "one-cycel"}, "one-cycel"),
    ({"decay": "l3"}, "unknown decay 'l3'"),
    ({"lr": -1.0}, "lr is -1"),
    ({"resume": True}, "out is missing"),
    ({"out": "nowhere", "resume": True}, "there is no comparison in nowhere"),
]


@pytest.mark.parametrize(("given", "says"), MISTAKES)
def test_a_mistake_is_told_before_anything_starts(
    given: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "Pool", pytest.fail)
    with pytest.raises(UsageError, match=says):
        thalweg.compare(**given)
    assert not list(tmp_path.iterdir())


# With workers that only pretend, so that what is planned, kept and told can be seen in a moment:


class Pretended:
    """Takes the place of the pool: every run comes to a metric at once."""

    made: ClassVar[list["Pretended"]] = []

    def __init__(self, tasks: Mapping[str, Any], size: int, **options: Any) -> None:
        self.tasks, self.size, self.options = tasks, size, options
        self.runs: list[Run] = []
        self.made.append(self)

    def __enter__(self) -> "Pretended":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def loaded(self) -> dict[str, Loaded]:
        return {t: Loaded(t, studies.facts(t), {"code": {"t.py": "1"}}) for t in self.tasks}

    def events(self, take: Callable[[], Order | None]) -> Iterator[Started | Ended]:
        while (order := take()) is not None:
            if len(self.runs) == self.stop_after:
                raise KeyboardInterrupt
            yield Started(order.run)
            self.runs.append(order.run)
            # Later trials are better.
            metric = 0.5 + order.run.trial / 100
            yield Ended(studies.result(order.run, [metric], test=metric if order.test else None))

    stop_after: ClassVar[int | None] = None


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Pretended]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "Pool", Pretended)
    monkeypatch.setattr(Pretended, "made", [])
    # The page has tests of its own, and takes its time.
    monkeypatch.setattr(running, "write", lambda study, page, png: page.write_text(str(png)))
    return Pretended.made


def compare(*arguments: Any, **given: Any) -> Study:
    return thalweg.compare(*arguments, **{"out": "o", "quiet": True, **given})


def kept() -> list[Run]:
    return [r.run for r in read_study(Path("o")).results]


def test_what_is_left_open_comes_from_the_task(pretended: list[Pretended]) -> None:
    study = compare([LINE, "digits"], "sgd", batch_size="full", seeds=1)
    assert [(t.spec, t.epochs, t.batch_size) for t in study.plan.tasks] == [
        ("line", 2, "full"),
        ("digits", 2, "full"),
    ]
    [pool] = pretended
    assert pool.tasks == {"line": LINE, "digits": None}
    assert len(kept()) == 2
    assert study.plan == read_study(Path("o")).plan


def test_workers_get_what_was_asked_for_them(pretended: list[Pretended]) -> None:
    compare(LINE, "sgd", seeds=2, jobs=7, threads=3, device="cpu", run_timeout=9, memory=0.5)
    # There are but two runs.
    assert pretended[0].size == 2
    assert pretended[0].options == {
        "threads": 3,
        "devices": ("cpu",),
        "run_timeout": 9,
        "limit": 2**29,
    }


def test_extending_keeps_every_run_and_runs_none_twice(pretended: list[Pretended]) -> None:
    before = compare(LINE, ["sgd", own], seeds=2)
    study = compare(
        LINE, ["+radam", own, thalweg.nadam], trials=16, seeds=3, extend=True, out=Path("o")
    )
    assert study.plan.optimizers == ("sgd", "Own", "radam", "nadam")
    first, second = pretended
    assert kept() == [*first.runs, *second.runs]
    assert len({*kept()}) == len(kept()) == 4 + 4 * 16 + 4 * 3
    assert study.results[: len(before.results)] == before.results
    for optimizer in study.plan.optimizers:
        assert study.chosen("line", optimizer) == 15
        assert [r.run.seed for r in study.judging("line", optimizer)] == [1, 2, 3]
        assert [r.run.trial for r in study.tuning("line", optimizer)] == [*range(16)]
    # Again: nothing is left to be run.
    again = compare(LINE, own, trials=16, extend=True)
    assert len(pretended) == 2
    assert again.results == study.results


def test_extending_can_be_interrupted(
    pretended: list[Pretended], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare("digits", "sgd", seeds=1)
    monkeypatch.setattr(Pretended, "stop_after", 2)
    with pytest.raises(
        running.Stopped, match=r"3 finished runs are kept in o.*resume=True"
    ) as told:
        compare("digits", "+adam", trials=4, extend=True)
    assert isinstance(told.value, KeyboardInterrupt)
    assert (told.value.folder, told.value.kept) == (Path("o"), 3)
    monkeypatch.setattr(Pretended, "stop_after", None)
    study = compare(resume=True)
    assert (study.plan.trials, study.plan.optimizers) == (4, ("sgd", "adam"))
    assert len({*kept()}) == len(kept()) == 1 + 2 * 4 + 2
    assert study.pending() == []


def test_interrupted_before_anything_had_begun(
    pretended: list[Pretended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Pretended) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pretended, "loaded", interrupted)
    with pytest.raises(running.Stopped, match="nothing had begun"):
        compare("digits", "sgd")
    assert not Path("o").exists()


RESUMED: list[tuple[dict[str, Any], str]] = [
    ({"tasks": "digits"}, "tasks cannot differ"),
    ({"optimizers": "sgd"}, "optimizers cannot differ"),
    ({"trials": 3}, "trials cannot differ.*extend it"),
    ({"trials": 1, "extend": True}, "trials is 1, but the study has 2 already"),
    ({"seeds": 1, "extend": True}, "seeds is 1, but the study has 2 already"),
    ({"epochs": 3, "extend": True}, "epochs cannot differ.*only be extended by"),
    ({"epochs": 3, "batch_size": 8, "lr": 0.1}, "epochs, batch_size, lr cannot differ"),
    ({"schedule": "cosine", "decay": "l2"}, "schedule, decay cannot differ"),
    ({"convention": "keras", "target": 0.1}, "convention, target cannot differ"),
    ({"reshuffle": False}, "reshuffle cannot differ"),
    ({"tasks": None}, "the task line was given as a Python object.*resume=True"),
    ({"tasks": None, "extend": True}, "the task line was given as a Python object.*extend=True"),
    ({"optimizers": "+adam", "extend": True}, "the optimizer Own was given as a Python object"),
]


@pytest.mark.parametrize(("given", "says"), RESUMED)
def test_going_on_with_what_does_not_agree_is_told(
    pretended: list[Pretended], given: dict[str, Any], says: str
) -> None:
    compare(LINE, ["sgd", own], trials=2, seeds=2)
    before = kept()
    whole = {"tasks": LINE, "optimizers": ["sgd", own], "resume": True}
    with pytest.raises(UsageError, match=says):
        compare(**{**whole, **given})
    assert kept() == before
    # What agrees may be said again.
    same = {"trials": 2, "seeds": 2, "epochs": 2, "batch_size": 32, "convention": "paper"}
    assert [r.run for r in compare(**whole, **same).results] == before


def test_changed_code_of_a_rule_is_told(pretended: list[Pretended]) -> None:
    compare(LINE, own, seeds=1)

    @thalweg.rule("Own", paper="")
    def other(g: Any, *, lr: Any = thalweg.hyper(0.1, "[0, inf)", "rate")) -> Any:
        return 2 * lr * g

    for going_on in ({"resume": True}, {"extend": True, "seeds": 2}):
        with pytest.raises(UsageError, match=r"the code of Own has changed.*force"):
            compare(LINE, other, **going_on)
    study = compare(LINE, other, extend=True, seeds=2, force=True)
    assert len(study.results) == 2
    assert "changed in Own" in study.sessions[1]
    assert "changed in Own" not in study.sessions[0]


def test_changed_code_of_a_task_is_told(
    pretended: list[Pretended], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare("digits", "sgd", seeds=1)
    changed = {"digits": Loaded("digits", studies.facts("digits"), {"code": {"t.py": "2"}})}
    monkeypatch.setattr(Pretended, "loaded", lambda self: changed)
    with pytest.raises(UsageError, match=r"changed since.*--force"):
        compare(seeds=2, extend=True)
    assert len(compare(seeds=2, extend=True, force=True).results) == 2


def test_the_folder_has_a_name_of_its_own(pretended: list[Pretended]) -> None:
    for _ in range(2):
        compare([replace(LINE, name="a/b c"), "digits"], "sgd", seeds=1, out=None)
    names = sorted(p.name for p in Path("thalweg-runs").iterdir())
    assert len(names) == 2
    assert all(name.startswith("a-b-c-digits-2") for name in names)


def test_a_session_says_how_it_was_called(
    pretended: list[Pretended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--own"])
    compare([LINE, "digits"], ["sgd", thalweg.adam(0.5)], seeds=1)
    monkeypatch.setattr(sys, "argv", ["/bin/thalweg", "compare", "--extend", "a b"])
    study = compare([LINE, "digits"], "+nag", extend=True)
    assert [session["command"] for session in study.sessions] == [
        "thalweg.compare(tasks=[<task line>, 'digits'], optimizers=['sgd', adam(lr=0.5)], seeds=1)",
        "thalweg compare --extend 'a b'",
    ]


def test_pictures_are_made_when_they_are_wanted(pretended: list[Pretended]) -> None:
    compare("digits", "sgd", seeds=1, png=True)
    assert Path("o/report.html").read_text() == "True"
    compare(resume=True)
    assert Path("o/report.html").read_text() == "False"


def test_nothing_is_shown_when_it_is_to_be_quiet(
    pretended: list[Pretended], capsys: pytest.CaptureFixture[str]
) -> None:
    compare("digits", "sgd", seeds=1)
    assert capsys.readouterr() == ("", "")
    compare(seeds=2, extend=True, quiet=False)
    said = capsys.readouterr()
    assert said.err == "[2/2] sgd, seed 2: score 0.5\n"
    assert said.out.endswith("Report: o/report.html\n")


def test_a_study_with_objects_can_be_read_without_them(pretended: list[Pretended]) -> None:
    made = compare(LINE, own, trials=3, seeds=2)
    read = Study.read("o")
    assert read.verdict() == made.verdict()
    assert len(read.frame()) == len(made.results)
    assert "thalweg.Optimizer(model.parameters(), own" in made.best()
    with pytest.raises(UsageError, match="Own was given as a Python object"):
        read.best()


# What comes of it, as an object in Python:


def test_best_is_code_that_makes_the_optimizer() -> None:
    study = studies.study({"adam": 0.9, "sgd": 0.8, "nag": 0.7}, trials=8)
    code = study.best()
    assert code.startswith(f"# {summarize(study, 'blobs').headline}\nimport thalweg\n")
    chosen = study.chosen("blobs", "adam")
    made = optimizer(code)
    assert type(made) is thalweg.Adam
    wanted = study.by_run[Run("blobs", "adam", chosen or 0, 1)].settings["lr"]
    assert made.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-3)
    assert study.best(budget=8) == code


def test_best_at_a_smaller_budget_is_of_fewer_trials() -> None:
    study = studies.study({"adam": 0.9, "sgd": 0.8, "nag": 0.7}, trials=8)
    curves = summarize(study, "blobs").budget
    for budget in (1, 2, 4):
        name = max(curves, key=lambda n: curves[n].expected[budget - 1])
        tried = study.tuning("blobs", name)[:budget]
        best = max(tried, key=lambda r: r.epochs[-1].metric)
        code = study.best(budget)
        assert f"{curves[name].expected[budget - 1]:.4g}" in code
        made = optimizer(code)
        assert type(made).__name__.lower() == name
        assert made.param_groups[0]["lr"] == pytest.approx(best.settings["lr"], rel=1e-3)


def test_best_of_less_that_is_better_is_the_least() -> None:
    study = studies.study({"adam": 0.9, "sgd": 0.6}, trials=4, higher=False)
    assert type(optimizer(study.best(2))) is thalweg.Adam


def optimizer(code: str) -> torch.optim.Optimizer:
    there: dict[str, Any] = {"model": nn.Linear(2, 1)}
    exec(code, there)
    return there["optimizer"]


def test_best_says_what_it_cannot_do() -> None:
    study = studies.study(("adam", "sgd"), trials=4, tasks=("blobs", "moons"))
    with pytest.raises(UsageError, match="task is missing: which of blobs, moons"):
        study.best()
    with pytest.raises(UsageError, match=r"unknown task of the study 'moon'.*Did you mean moons"):
        study.best(task="moon")
    for budget in (0, 5):
        with pytest.raises(UsageError, match=f"budget is {budget}, but must be from 1 to 4"):
            study.best(budget, "moons")
    assert "moons" in study.best(2, "moons")
    begun = studies.without(study, lambda run: True)
    with pytest.raises(UsageError, match="nothing to recommend"):
        begun.best(task="blobs")
    with pytest.raises(UsageError, match="no optimizer has so many trials that ended"):
        begun.best(2, "blobs")
    lost = studies.outcomes({"adam": ["nan", "nan"]})
    with pytest.raises(UsageError, match="nothing to recommend"):
        lost.best()


def test_verdict_says_what_the_report_says() -> None:
    study = studies.study(("adam", "sgd"), tasks=("<b>", "moons"))
    said = [summarize(study, t).verdict for t in ("<b>", "moons")]
    assert study.verdict() == "\n\n".join([overall(study), *said])
    assert study._repr_html_().count("<p>") == 3
    assert "&lt;b&gt;" in study._repr_html_()
    assert repr(study) == "<Study of <b>, moons: 2 optimizers, 12 runs>"
    one = studies.study(("adam", "sgd"))
    assert one.verdict() == summarize(one, "blobs").verdict


# For real:


def test_tasks_and_rules_of_a_test_train(tmp_path: Path) -> None:
    study = thalweg.compare(
        LINE, [own, thalweg.chain(thalweg.sgd(0.1), thalweg.decay(0.5))], out=tmp_path / "o",
        seeds=1, jobs=1, quiet=True, epochs=3,
    )  # fmt: skip
    assert [r.status for r in study.results] == ["finished", "finished"]
    assert study.results[0].epochs[-1].test != study.results[1].epochs[-1].test
    assert len(study.results[0].epochs) == 3
    assert (tmp_path / "o/report.html").read_text().startswith("<!doctype html>")
    # What was made known to the pickler for that is not any more.
    assert Link not in copyreg.dispatch_table


SCRIPT = """
import torch, thalweg
from torch import nn

@thalweg.rule("Own", paper="")
def own(g, *, lr=thalweg.hyper(0.1, "[0, inf)", "rate")):
    return lr * g

class Net(nn.Linear):
    pass

def data():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return thalweg.Data(train=(x, 2 * x), validation=(x, 2 * x))

task = thalweg.Task("line", data, lambda: Net(1, 1), nn.functional.mse_loss,
                    lambda o, t: (o - t).abs().mean(), higher_is_better=False, epochs=1)
study = thalweg.compare(task, ["sgd", own], seeds=1, jobs=2)
print(study.best())
print(len(study.frame()))
"""


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Report: thalweg-runs/line-") == 1
    assert ended.stdout.endswith("\n2\n")
    assert sorted(line.split(": ")[0][6:] for line in ended.stderr.splitlines()) == [
        "Own, seed 1",
        "sgd, seed 1",
    ]
