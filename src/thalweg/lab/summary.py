"""What the results say: one row per optimizer, and a verdict in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from thalweg.lab.study import Result, Study
from thalweg.training import Epoch

__all__ = ["Row", "Summary", "summarize"]


@dataclass(frozen=True)
class Row:
    """What one optimizer came to; means are over the seeds whose run finished.

    Attributes:
        optimizer: as it was written in the plan.
        finished: how many of its runs finished.
        ended: how many of its runs have ended at all.
        train_loss: mean of the last epoch's training loss; None if no run finished.
        metric: mean of the last epoch's metric, likewise.
        metric_spread: its standard deviation over the seeds; None for fewer than two.
        epochs_to_target: median number of epochs until the target was reached; None if most runs
            never did.
        seconds_to_target: the same in seconds of training.
        seconds_per_step: median over the epochs of all runs.
        difference: mean, over shared seeds, of how much worse its metric is than the leader's;
            None for the leader and without a shared seed.
        margin: half the width of that difference's 95% interval; None for fewer than two seeds.
        ties: whether the interval holds 0: no difference to the leader was found.
        problem: why runs did not finish, if some did not.
    """

    optimizer: str
    finished: int
    ended: int
    train_loss: float | None
    metric: float | None
    metric_spread: float | None
    epochs_to_target: float | None
    seconds_to_target: float | None
    seconds_per_step: float | None
    difference: float | None
    margin: float | None
    ties: bool
    problem: str


@dataclass(frozen=True)
class Summary:
    """The table, best first, what is said of it, and the target whose reaching was timed.

    Attributes:
        rows: those with a finished run by their metric, then the others.
        verdict: which to use, in a sentence or three.
        target: the value of the metric; None if there is none.
    """

    rows: tuple[Row, ...]
    verdict: str
    target: float | None


def summarize(study: Study) -> Summary:
    """Sum up the results there are."""
    sign = 1.0 if study.task.higher_is_better else -1.0
    by_optimizer = {
        o: [r for r in study.results if r.run.optimizer == o] for o in study.plan.optimizers
    }
    last = {
        o: {r.run.seed: r.epochs[-1] for r in results if r.status == "finished"}
        for o, results in by_optimizer.items()
    }
    ranked = sorted(
        (o for o in last if last[o]),
        key=lambda o: -sign * fmean(e.metric for e in last[o].values()),
    )
    target = study.plan.target
    if target is None and ranked:
        target = median(fmean(e.metric for e in last[o].values()) for o in ranked)
    rows = [
        _row(o, by_optimizer[o], last[o], last[ranked[0]] if ranked else {}, sign, target)
        for o in (*ranked, *(o for o in last if not last[o]))
    ]
    return Summary(tuple(rows), _verdict(study, rows), target)


def _row(
    optimizer: str,
    results: Sequence[Result],
    last: dict[int, Epoch],
    leader: dict[int, Epoch],
    sign: float,
    target: float | None,
) -> Row:
    metrics = [e.metric for e in last.values()]
    finished = [r for r in results if r.status == "finished"]
    epochs, seconds = _to_target(finished, sign, target)
    paces = [pace for r in results for pace in _paces(r.epochs)]
    difference = margin = None
    if last is not leader and (shared := last.keys() & leader.keys()):
        differences = [sign * (leader[s].metric - last[s].metric) for s in sorted(shared)]
        difference, margin = _interval(differences)
    problems = dict.fromkeys(f"{r.status}: {r.reason}" for r in results if r.status != "finished")
    return Row(
        optimizer=optimizer,
        finished=len(finished),
        ended=len(results),
        train_loss=fmean(e.train_loss for e in last.values()) if last else None,
        metric=fmean(metrics) if metrics else None,
        metric_spread=stdev(metrics) if len(metrics) > 1 else None,
        epochs_to_target=epochs,
        seconds_to_target=seconds,
        seconds_per_step=median(paces) if paces else None,
        difference=difference,
        margin=margin,
        ties=difference is not None and margin is not None and difference <= margin,
        problem="; ".join(problems),
    )


def _interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half the width of its 95% interval (Student's t, paired by seed)."""
    mean = fmean(differences)
    n = len(differences)
    if n < 2:
        return mean, None
    from scipy.special import stdtrit  # pyright: ignore

    # Student's t at 97.5%; scipy.stats has it too, but takes half a second to import.
    return mean, float(stdtrit(n - 1, 0.975)) * stdev(differences) / math.sqrt(n)


def _to_target(
    finished: Sequence[Result], sign: float, target: float | None
) -> tuple[float | None, float | None]:
    if target is None or not finished:
        return None, None
    reached = [
        next(((e.epoch, e.seconds) for e in r.epochs if sign * (e.metric - target) >= 0), None)
        for r in finished
    ]
    epochs = median(math.inf if at is None else at[0] for at in reached)
    seconds = median(math.inf if at is None else at[1] for at in reached)
    return (None, None) if math.isinf(epochs) else (epochs, seconds)


def _paces(epochs: Sequence[Epoch]) -> list[float]:
    starts = [(0, 0.0), *((e.steps, e.seconds) for e in epochs)]
    return [
        (e.seconds - seconds) / (e.steps - steps)
        for e, (steps, seconds) in zip(epochs, starts, strict=False)
    ]


def _verdict(study: Study, rows: Sequence[Row]) -> str:
    best = rows[0]
    if best.metric is None:
        return "No run finished, so there is nothing to compare: see the problems in the table."
    name, task = study.task.metric_name, study.task.name
    parts = [
        f"{best.optimizer} is best on {task} after {study.plan.epochs} epochs: {name} "
        f"{_shown(best.metric, best.metric_spread)}."
    ]
    ties = [r.optimizer for r in rows if r.ties]
    if best.finished < 2:
        parts.append(
            "With one seed nothing can be said of chance: differences may be luck. Run more seeds."
        )
    elif ties:
        parts.append(
            f"{'Between it and ' + _listed(ties)} no difference was found over {best.finished} "
            "seeds (paired 95% intervals): call it a tie."
        )
    elif len(rows) > 1:
        parts.append(f"It beats every other over {best.finished} seeds (paired 95% intervals).")
    parts.append(
        "Every optimizer ran once per seed at one fixed setting, untuned: this says how they "
        "compare at these settings, not how they would after tuning."
    )
    return " ".join(parts)


def _shown(value: float, spread: float | None) -> str:
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.2g}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
