"""What the trials show: the best of so many, and how much the settings matter."""

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist, median, stdev

from thalweg.errors import UsageError
from thalweg.lab import stats
from thalweg.lab.space import Range
from thalweg.lab.stats import BudgetCurve
from thalweg.lab.study import Result, Study
from thalweg.rules.declaration import Hyper, Setting

__all__ = [
    "budget_curve",
    "contenders",
    "default_gap",
    "edges",
    "learning_rates",
    "metrics",
    "seed_noise",
    "worst",
]


def worst(study: Study, task: str) -> float | None:
    """The worst metric on the validation data that a finished run of the task ended with.

    A trial that diverged or failed counts as much. None if no run finished.
    """
    sign = study.tasks[task].sign
    ends = [
        r.epochs[-1].metric for r in study.results if r.run.task == task and r.status == "finished"
    ]
    return min(ends, key=lambda m: sign * m, default=None)


def metrics(study: Study, task: str, optimizer: str, least: float | None) -> dict[int, float]:
    """The final metric on the validation data of each trial that ended, so that more is better.

    Args:
        study: the study.
        task: the spec of one of its tasks.
        optimizer: one of its optimizers.
        least: as `worst` gives it.
    """
    if least is None:
        return {}
    sign = study.tasks[task].sign
    return {
        r.run.trial: sign * (r.epochs[-1].metric if r.status == "finished" else least)
        for r in study.tuning(task, optimizer)
    }


def budget_curve(metrics: Mapping[int, float], sign: float) -> BudgetCurve | None:
    """What the best of so many trials comes to, in the metric's unit.

    None without a choice of settings, and as long as the defaults have not been tried.

    Args:
        metrics: of each trial, so that more is better.
        sign: what the metric was multiplied with for that.
    """
    if 0 not in metrics or len(metrics) < 2:
        return None
    default, *draws = (metrics[trial] for trial in sorted(metrics))
    curve = stats.budget_curve(default, draws)
    if sign > 0:
        return curve
    return BudgetCurve(curve.trials, -curve.expected, -curve.high, -curve.low)


def default_gap(metrics: Mapping[int, float]) -> float | None:
    """How much worse the defaults are than the best trial; None without both."""
    return max(metrics.values()) - metrics[0] if 0 in metrics else None


def learning_rates(trials: Iterable[Result], metrics: Mapping[int, float]) -> stats.Width | None:
    """The learning rates within 1% of the best; None where all trials had the same one."""
    rates = {r.run.trial: r.settings.get("lr") for r in trials}
    known = {t: lr for t, lr in rates.items() if isinstance(lr, float | int) and lr > 0}
    if len(set(known.values())) < 2 or not metrics:
        return None
    return stats.learning_rate_width(list(known.values()), [metrics[t] for t in known])


def edges(
    study: Study, optimizer: str, trial: int, settings: Mapping[str, Setting]
) -> tuple[str, ...]:
    """The searched settings whose value is at an end of its range, with more to find beyond.

    There is nothing beyond an end that no valid value lies behind, such as a momentum of 0. The
    defaults, trial 0, were not drawn from the ranges, whose ends they may be.
    """
    contestant = study.plan.contestant(optimizer)
    given = study.plan.rules.get(optimizer)
    # A rule that was given as an object is not in the study's file.
    known = given is not None or contestant.rule is not None
    rule = contestant.configured(trial, given)[0] if known else None
    return tuple(
        name
        for name, where in contestant.space.items()
        if trial > 0
        and isinstance(where, Range)
        and isinstance(value := settings.get(name), float | int)
        and where.is_edge(value)
        and (rule is None or _goes_on(rule.hypers[name], name, where, value))
    )


def _goes_on(hyper: Hyper, name: str, where: Range, value: float) -> bool:
    """Whether there are valid values beyond the end of the range that is near."""
    end, away = (where.low, -math.inf) if where.share(value) < 0.5 else (where.high, math.inf)
    beyond = end + math.copysign(1, away) if where.integer else math.nextafter(end, away)
    try:
        hyper.checked(name, beyond)
    except UsageError:
        return False
    return True


def seed_noise(study: Study, task: str) -> float | None:
    """The standard deviation over seeds, typical of the field, of the metric on validation data."""
    ends = (
        [r.epochs[-1].metric for r in study.judging(task, o) if r.status == "finished"]
        for o in study.plan.optimizers
    )
    spreads = [stdev(metrics) for metrics in ends if len(metrics) > 1]
    return median(spreads) if spreads else None


def contenders(
    budget: Mapping[str, BudgetCurve], trials: int, sign: float, noise: float
) -> list[str]:
    """Who may be best with so many trials, the best first; none if nobody had more of them.

    An optimizer may be, unless it is behind the best by more than the noise of one seed makes
    between any two of them, at 95%, and by more than their intervals allow.

    Args:
        budget: the curves, in the metric's unit.
        trials: how many; less than the optimizers had.
        sign: what the metric is multiplied with so that more is better.
        noise: as `seed_noise` gives it: trials are run on one seed.
    """
    known = {o: c for o, c in budget.items() if len(c.trials) > trials}
    if not known:
        return []
    i = trials - 1
    at = {o: sign * float(c.expected[i]) for o, c in known.items()}
    ranked = sorted(at, key=lambda o: -at[o])
    best, pairs = ranked[0], max(1.0, len(known) * (len(known) - 1) / 2)
    seeds = NormalDist().inv_cdf(1 - 0.025 / pairs) * math.sqrt(2) * noise

    def near(other: str) -> bool:
        # The half of each interval that faces the other.
        mine, its = (known[best], known[other]) if sign > 0 else (known[other], known[best])
        draws = math.hypot(mine.expected[i] - mine.low[i], its.high[i] - its.expected[i])
        return at[best] - at[other] <= max(seeds, 0.0 if math.isnan(draws) else draws)

    return [o for o in ranked if near(o)]
