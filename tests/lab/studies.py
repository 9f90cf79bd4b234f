"""Studies made up of numbers whose truth is known: nothing is trained."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from thalweg.errors import UsageError
from thalweg.lab.contestant import Contestant, contestant
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.rules.declaration import Setting
from thalweg.rules.spelling import parsed
from thalweg.training import Record

__all__ = ["SESSION", "facts", "made", "outcomes", "result", "study", "without"]

SESSION = {"command": "thalweg compare made-up", "thalweg": "0", "processor": "none, 4 cores"}
# What a run comes to: its final metric, or how it broke off.
Outcome = float | str
LOST: dict[str, Status] = {"nan": "diverged", "boom": "failed"}


def study(
    optimizers: Mapping[str, float] | Sequence[str] = ("adam", "sgd"),
    *,
    trials: int = 1,
    seeds: int = 3,
    tasks: Sequence[str] = ("blobs",),
    noise: float = 0.005,
    epochs: int = 5,
    higher: bool = True,
    has_test: bool = True,
    target: float | None = None,
    diverges: float = math.inf,
) -> Study:
    """A whole study, the same one each time.

    Args:
        optimizers: names of rules, with the metric that each comes to at its best learning rate;
            without one they are 0.01 apart, the first the best.
        trials: how many configurations of each.
        seeds: how many fresh ones.
        tasks: their specs and names.
        noise: standard deviation over seeds of each optimizer's metric; the seeds themselves
            differ by twice as much, for all optimizers alike.
        epochs: how many a run has.
        higher: whether a larger metric is better; otherwise the metric is 1 less what it would be.
        has_test: whether tasks have test data.
        target: each task's.
        diverges: how many times the best learning rate is too much.
    """
    best = (
        optimizers
        if isinstance(optimizers, Mapping)
        else {name: 0.95 - 0.01 * i for i, name in enumerate(optimizers)}
    )
    plan = Plan(
        tasks=tuple(TaskPlan(t, epochs, 32, target) for t in tasks),
        contestants=tuple(contestant(name, trials) for name in best),
        convention="paper",
        trials=trials,
        seeds=tuple(range(1, seeds + 1)),
    )

    def final(run: Run) -> Outcome:
        rule, _ = plan.contestant(run.optimizer).configured(run.trial)
        decades = math.log10(float(rule.settings("paper").hypers["lr"]) / 0.03)  # pyright: ignore
        if 10**decades > diverges:
            return "nan"
        shared = 2 * noise * _normal(run.task, run.seed)
        metric = best[run.optimizer] - 0.05 * decades**2 + shared + noise * _normal(run)
        return metric if higher else 1 - metric

    return made(plan, final, higher=higher, has_test=has_test, target=target)


def outcomes(
    finals: Mapping[str, Sequence[Outcome]],
    *,
    higher: bool = True,
    has_test: bool = False,
    target: float | None = None,
    seeds: int | None = None,
    epochs: int = 2,
) -> Study:
    """One setting of each optimizer, and what its runs come to, seed by seed.

    Args:
        finals: for each optimizer, which may have any name, final metrics; "nan" for a run that
            diverged and "boom" for one that failed.
        higher: whether a larger metric is better.
        has_test: whether the task has test data; the metric on them is then 1 more.
        target: the task's.
        seeds: how many are planned, if not as many as there are results.
        epochs: how many a run has.
    """
    planned = seeds or max(len(f) for f in finals.values())
    plan = Plan(
        tasks=(TaskPlan("blobs", epochs, 8, target),),
        contestants=tuple(Contestant(n, n if _is_rule(n) else "adam", {}, ({},)) for n in finals),
        convention="paper",
        trials=1,
        seeds=tuple(range(planned)),
        tuning_seed=planned,
    )
    return made(
        plan,
        lambda run: finals[run.optimizer][run.seed],
        higher=higher,
        has_test=has_test,
        target=target,
        ends=lambda run: run.seed < len(finals[run.optimizer]),
    )


def made(
    plan: Plan,
    final: Callable[[Run], Outcome],
    *,
    higher: bool = True,
    has_test: bool = True,
    target: float | None = None,
    ends: Callable[[Run], bool] = lambda _: True,
) -> Study:
    """The study of a plan.

    Args:
        plan: what is run.
        final: what each run comes to.
        higher: whether a larger metric is better.
        has_test: whether tasks have test data.
        target: the tasks' own.
        ends: which runs have ended.
    """
    tasks = {
        t.spec: facts(t.spec, higher=higher, has_test=has_test, target=target, epochs=t.epochs)
        for t in plan.tasks
    }
    there = Study(plan, tasks, (), (SESSION,))
    while pending := [r for r in there.pending() if ends(r)]:
        new = tuple(
            _result(plan, run, final(run), has_test, -1 if higher else 1) for run in pending
        )
        there = Study(plan, tasks, (*there.results, *new), (SESSION,))
    return there


def facts(
    name: str = "blobs",
    *,
    higher: bool = True,
    has_test: bool = True,
    target: float | None = None,
    epochs: int = 2,
) -> TaskFacts:
    """What is known of a task."""
    return TaskFacts(name, "points", "score", higher, epochs, 32, target, has_test, 1000)


def result(
    run: Run,
    metrics: Sequence[float],
    reason: str = "",
    *,
    test: float | None = None,
    status: Status | None = None,
    settings: Mapping[str, Setting] | None = None,
    pace: float = 0.5,
) -> Result:
    """A run with these metrics, one an epoch of 10 steps, each of `pace` seconds."""
    epochs = [
        Record(n, 10 * n, 2 - m, 2.1 - m, m, pace * n, test=test if n == len(metrics) else None)
        for n, m in enumerate(metrics, 1)
    ]
    status = status or ("diverged" if reason else "finished")
    return Result(run, status, reason, tuple(epochs), settings or {}, 8.0, 5 * 10**8)


def without(study: Study, lost: Callable[[Run], bool]) -> Study:
    """The study as if those runs had not ended yet."""
    return replace(study, results=tuple(r for r in study.results if not lost(r.run)))


def _result(plan: Plan, run: Run, outcome: Outcome, has_test: bool, falls: int) -> Result:
    contestant = plan.contestant(run.optimizer)
    rule, extra = contestant.configured(run.trial, plan.rules.get(run.optimizer))
    values = rule.settings(plan.convention)
    settings = {**values.hypers, **values.flags, **extra}
    pace = 0.4 + 0.1 * plan.optimizers.index(run.optimizer)
    epochs = plan.task(run.task).epochs
    if isinstance(outcome, str):
        broken = result(run, [0.1], outcome, settings=settings, pace=pace)
        return replace(broken, status=LOST[outcome])
    curve = [outcome * (1 + falls * 0.5**n) for n in range(1, epochs)]
    test = outcome + 1 if has_test and run.seed in plan.seeds else None
    return result(run, [*curve, outcome], test=test, settings=settings, pace=pace)


def _is_rule(name: str) -> bool:
    try:
        parsed(name)
    except UsageError:
        return False
    return True


def _normal(*of: object) -> float:
    """A standard normal number that is always the same for the same things."""
    return float(np.random.default_rng(zlib.crc32(repr(of).encode())).normal())
