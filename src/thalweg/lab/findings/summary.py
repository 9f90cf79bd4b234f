"""What the results say: one row per optimizer, and a verdict in words."""

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from thalweg.lab import stats
from thalweg.lab.findings import tuning
from thalweg.lab.findings.judging import Beside, Judging, judge
from thalweg.lab.findings.row import Row
from thalweg.lab.findings.several import Profiles, in_words, profiles_of
from thalweg.lab.findings.speed import Target, seconds_per_step, target, times_to
from thalweg.lab.findings.textbook import book
from thalweg.lab.findings.verdict import detail, headline
from thalweg.lab.findings.words import Findings
from thalweg.lab.study import Result, Study, TaskFacts
from thalweg.rules.declaration import Setting

__all__ = ["Profiles", "Row", "Summary", "overall", "profiles", "summaries", "summarize"]


@dataclass(frozen=True)
class Summary:
    """What was found on one task.

    Attributes:
        task: its spec.
        facts: what is known of it.
        rows: one per optimizer, the best judged metric first, those without a finished judging run
            last.
        headline: who leads, in one sentence.
        detail: how sure that is and what it holds for, in a few more; may be empty.
        target: the metric on the validation data whose reaching is timed; None if there is none.
        target_from: where the target comes from, in words.
        judged_on: which data the judged metric is taken on.
        budget: what the best of so many trials comes to on the validation data, in the metric's
            unit, by optimizer; empty without tuning.
        worst: the worst final metric on the validation data of all finished runs, as which a trial
            that did not finish counts; None if none finished.
    """

    task: str
    facts: TaskFacts
    rows: tuple[Row, ...]
    headline: str
    detail: str
    target: float | None
    target_from: str
    judged_on: Literal["test", "validation"]
    budget: Mapping[str, stats.BudgetCurve]
    worst: float | None

    @property
    def verdict(self) -> str:
        """The headline and the detail."""
        return f"{self.headline} {self.detail}".rstrip()


def summaries(study: Study) -> tuple[Summary, ...]:
    """What was found on each task, in the plan's order."""
    return tuple(summarize(study, task.spec) for task in study.plan.tasks)


def profiles(study: Study) -> Profiles | None:
    """How fast each optimizer is beside the fastest, over the tasks; None for fewer than two."""
    return profiles_of({s.task: s.rows for s in summaries(study)}, study.plan.optimizers)


def overall(study: Study) -> str:
    """Who is best or tied for best on how many tasks; the verdict, if there is but one."""
    found = summaries(study)
    if len(found) == 1:
        return found[0].verdict
    by_name = {s.facts.name: s.rows for s in found}
    return in_words(by_name if len(by_name) == len(found) else {s.task: s.rows for s in found})


def summarize(study: Study, task: str) -> Summary:
    """Sum up the results there are of a task.

    Args:
        study: whose runs need not all have ended.
        task: the spec of one of its tasks.
    """
    # It is asked for by many and takes a second; a study does not change.
    known: dict[str, Summary] = vars(study).setdefault("_summaries", {})
    if task not in known:
        known[task] = _summed_up(study, task)
    return known[task]


def _summed_up(study: Study, task: str) -> Summary:
    judging = judge(study, task)
    aim = target(study, task)
    worst = tuning.worst(study, task)
    metrics = {o: tuning.metrics(study, task, o, worst) for o in study.plan.optimizers}
    rows = [_row(study, task, o, judging, aim, metrics[o]) for o in judging.ranked]
    rows = _starred(rows, judging)
    curves = {o: tuning.budget_curve(m, judging.sign) for o, m in metrics.items()}
    budget = {o: c for o, c in curves.items() if c}
    found = Findings(study, task, rows, judging, budget)
    return Summary(
        task=task,
        facts=study.tasks[task],
        rows=tuple(rows),
        headline=headline(found),
        detail=detail(found),
        target=aim and aim.value,
        target_from=aim.source if aim else "no run has finished, so that there is none",
        judged_on=judging.on,
        budget=budget,
        worst=worst,
    )


def _row(
    study: Study,
    task: str,
    optimizer: str,
    judging: Judging,
    aim: Target | None,
    metrics: Mapping[int, float],
) -> Row:
    trials, judged = study.tuning(task, optimizer), study.judging(task, optimizer)
    trial = study.chosen(task, optimizer)
    ran = next((r for r in (*judged, *trials) if r.run.trial == trial and r.settings), None)
    settings: Mapping[str, Setting] = ran.settings if ran else {}
    values = judging.values[optimizer]
    last = [r.epochs[-1] for r in judged if r.run.seed in values]
    times = times_to(aim.value, judging.sign, judged) if aim else (None, None, None)
    width = tuning.learning_rates(trials, metrics)
    mine = [*trials, *judged]
    hopeless = trial is None and len(trials) == study.plan.trials_of(optimizer)
    beside = judging.beside_leader(optimizer) if values else Beside(None, None, None, ties=False)
    return Row(
        optimizer=optimizer,
        trial=trial,
        settings=settings,
        searched={n: settings[n] for n in study.plan.contestant(optimizer).space if n in settings},
        edges=() if trial is None else tuning.edges(study, optimizer, trial, settings),
        trials=len(trials),
        trials_finished=sum(r.status == "finished" for r in trials),
        finished=len(values),
        ended=len(judged),
        planned=len(study.plan.seeds),
        metric=fmean(values.values()) if values else None,
        spread=stdev(values.values()) if len(values) > 1 else None,
        validation=fmean(e.metric for e in last) if last else None,
        train_loss=fmean(e.train_loss for e in last) if last else None,
        difference=beside.difference,
        low=beside.low,
        high=beside.high,
        ties=beside.ties,
        seeds_needed=_seeds_needed(judging, optimizer) if beside.ties else None,
        steps_to_target=times[0],
        epochs_to_target=times[1],
        seconds_to_target=times[2],
        seconds_per_step=seconds_per_step(mine),
        state_bytes=max((r.state_bytes for r in mine if r.state_bytes is not None), default=None),
        memory=max((r.memory for r in mine if r.memory is not None), default=None),
        default_gap=tuning.default_gap(metrics),
        learning_rates=(width.low, width.high) if width else None,
        lr_width=width.decades if width else None,
        speed_stars=None,
        quality_stars=None,
        book=book(study.plan.contestant(optimizer)),
        problem=_problem(trials, "trials") if hopeless else _problem(judged, "runs", values),
    )


def _seeds_needed(judging: Judging, optimizer: str) -> int | None:
    differences = judging.differences(optimizer)
    size, count = abs(fmean(differences)), sum(map(bool, judging.values.values()))
    more = stats.seeds_needed(differences, size, count) if size else None
    # What was not found with the seeds there are takes at least one more.
    return None if more is None else max(1, more)


def _problem(results: Sequence[Result], what: str, known: Container[int] | None = None) -> str:
    """Why runs did not finish, of many reasons of a kind the first, or are not judged.

    Args:
        results: the runs.
        what: what they are called.
        known: the seeds whose judged metric is known, if that is asked.
    """
    lost = [r for r in results if r.status != "finished"]
    reasons = {r.status: r.reason for r in reversed(lost)}
    counts = Counter(r.status for r in lost)

    def of(count: int) -> str:
        if len(results) == 1:
            return ""
        some = f"all {count}" if count == len(results) else f"{count} of {len(results)}"
        return f"{some} {what} "

    said = [f"{of(counts[s])}{s}: {reasons[s]}" for s in counts]
    unknown = [r for r in results if r.status == "finished" and r.run.seed not in (known or ())]
    if known is not None and unknown:
        said.append(f"{of(len(unknown))}finished without a metric on the test data that is finite")
    return "; ".join(said)


def _starred(rows: Sequence[Row], judging: Judging) -> list[Row]:
    never = [math.nan if r.metric is None else math.inf for r in rows]
    epochs = [r.epochs_to_target or n for r, n in zip(rows, never, strict=True)]
    finals = [math.nan if r.metric is None else judging.sign * r.metric for r in rows]
    found = stats.stars(epochs, finals, judging.noise or 0.0)
    return [
        replace(row, speed_stars=s.speed, quality_stars=s.quality)
        for row, s in zip(rows, found, strict=True)
    ]
