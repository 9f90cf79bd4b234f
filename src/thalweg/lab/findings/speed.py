"""How soon runs reach a target, and what a step takes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, median_low

from thalweg.lab import stats
from thalweg.lab.findings.wording import listed
from thalweg.lab.study import Result, Study
from thalweg.rules.spelling import links_of
from thalweg.training import Record

__all__ = ["BASELINES", "Target", "seconds_per_step", "target", "times_to"]

BASELINES = ("sgd", "momentum", "nag", "adam")


@dataclass(frozen=True)
class Target:
    """The metric on the validation data whose reaching is timed.

    Attributes:
        value: in the metric's unit.
        source: where it comes from, in words.
    """

    value: float
    source: str


def target(study: Study, task: str) -> Target | None:
    """The target that was set, or else what the best tuned baseline comes to in the end.

    The latter is the form of AlgoPerf (Dahl et al. 2023, arXiv:2306.07179, section 4.2): of the
    classic baselines, the best by its median over the judging seeds, of two the worse one, so that
    it reaches the target itself. None if nothing has finished.
    """
    facts, given = study.tasks[task], study.plan.task(task).target
    if given is not None:
        own = given == facts.target
        return Target(given, "set by the task" if own else "set for this comparison")
    ends = {
        o: facts.sign * median_low(facts.sign * r.epochs[-1].metric for r in results)
        for o in study.plan.optimizers
        if (results := [r for r in study.judging(task, o) if r.status == "finished"])
    }
    if not ends:
        return None
    baselines = {o: m for o, m in ends.items() if _rule(study, o) in BASELINES}
    best = max(baselines or ends, key=lambda o: facts.sign * ends[o])
    tuned = "tuned" if study.plan.trials_of(best) > 1 else "untuned"
    classic = f"of the classic baselines ({listed(BASELINES)})"
    which = f"the best {classic}" if baselines else f"the best of all, as none {classic} finished"
    return Target(
        ends[best],
        f"the median over seeds of what {best} ({tuned}), {which}, ends with on the validation "
        "data",
    )


def _rule(study: Study, optimizer: str) -> str:
    links = links_of(study.plan.contestant(optimizer).rule or "")
    return links[0].split(":")[0] if len(links) == 1 else ""


def times_to(
    value: float, sign: float, results: Sequence[Result]
) -> tuple[float | None, float | None, float | None]:
    """The median steps, epochs and seconds until the metric was at least `value`.

    A run that ended without it, in whatever way, counts as never reaching it.
    """
    reached = [next((e for e in r.epochs if sign * (e.metric - value) >= 0), None) for r in results]

    def median_of(name: str) -> float | None:
        times = [math.inf if e is None else getattr(e, name) for e in reached]
        time = stats.median_time(times).median
        return time if math.isfinite(time) else None

    return median_of("steps"), median_of("epoch"), median_of("seconds")


def seconds_per_step(results: Sequence[Result]) -> float | None:
    """Median over all epochs of all runs; None without an epoch."""
    return median(paces) if (paces := [p for r in results for p in _paces(r.epochs)]) else None


def _paces(epochs: Sequence[Record]) -> Iterator[float]:
    steps, seconds = 0, 0.0
    for e in epochs:
        if e.steps > steps:
            yield (e.seconds - seconds) / (e.steps - steps)
        steps, seconds = e.steps, e.seconds
