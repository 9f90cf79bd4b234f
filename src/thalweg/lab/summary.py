"""What the results say: one row per optimizer, and a verdict in words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from thalweg.lab.study import Result, Study
from thalweg.training import Record

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
        epochs_to_target: median number of epochs until the target was reached; None if no more
            than half of the finished runs did.
        seconds_to_target: the same in seconds of training.
        seconds_per_step: median over the epochs of all runs.
        difference: mean, over the seeds that both finished, of how much worse its metric is than
            the leader's; None for the leader and without such a seed.
        margin: half the width of that difference's 95% interval; None for fewer than three seeds.
            It is not widened for the number of optimizers.
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
        headline: who leads, in one sentence.
        detail: how sure that is and what it holds for, in a few more; may be empty.
        target: the value of the metric; None if there is none.
    """

    rows: tuple[Row, ...]
    headline: str
    detail: str
    target: float | None

    @property
    def verdict(self) -> str:
        """The headline and the detail."""
        return f"{self.headline} {self.detail}".rstrip()


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
    return Summary(tuple(rows), _headline(study, rows), _detail(study, rows), target)


def _row(
    optimizer: str,
    results: Sequence[Result],
    last: dict[int, Record],
    leader: dict[int, Record],
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
        ties=difference is not None and margin is not None and abs(difference) <= margin,
        problem="; ".join(problems),
    )


def _interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half the width of its 95% interval (Student's t, paired by seed)."""
    mean = fmean(differences)
    n = len(differences)
    # Of two seeds the interval is 13 standard errors wide: anything would be a tie.
    if n < 3:
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


def _paces(epochs: Sequence[Record]) -> list[float]:
    starts = [(0, 0.0), *((e.steps, e.seconds) for e in epochs)]
    return [
        (e.seconds - seconds) / (e.steps - steps)
        for e, (steps, seconds) in zip(epochs, starts, strict=False)
    ]


def _headline(study: Study, rows: Sequence[Row]) -> str:
    best, *others = rows
    if best.metric is None:
        return "No run finished, so there is nothing to compare."
    name, epochs = study.task.metric_name, study.plan.epochs
    where = f"on {study.task.name} after {epochs} epoch{'' if epochs == 1 else 's'}"
    value = f"{best.metric:.4g}"
    finished = [r for r in others if r.metric is not None]
    ties = [r for r in finished if r.ties]
    if not others:
        return f"{best.optimizer} comes to {name} {value} {where}."
    if not finished:
        return f"Only {best.optimizer} finished a run {where}: {name} {value}."
    if ties:
        tied = _listed([best.optimizer, *_few([r.optimizer for r in ties])])
        last = f"{ties[-1].metric:.4g}"
        span = value if last == value else f"{value} to {last}"
        return f"{tied} tie for best {where}: {name} {span}."
    if best.finished == best.ended and all(_is_worse(r) for r in finished):
        return f"{best.optimizer} is best {where}: {name} {value}."
    return f"{best.optimizer} has the best {name} {where}: {value}."


def _detail(study: Study, rows: Sequence[Row]) -> str:
    best, *others = rows
    finished = [r for r in others if r.metric is not None]
    compared = [r for r in finished if r.margin is not None]
    parts: list[str] = []
    if compared:
        parts += _comparisons(study, best, compared)
        if alone := [r.optimizer for r in finished if r.margin is None]:
            parts.append(
                f"With fewer than three finished seeds in common, {best.optimizer} and "
                f"{_listed(alone)} cannot be compared."
            )
    elif finished:
        seeds = len(study.plan.seeds)
        few = f"fewer than three seeds that {best.optimizer} and another share"
        if seeds < 3:
            few = "one seed" if seeds == 1 else "two seeds"
        parts.append(f"With {few}, differences may be luck: run more seeds.")
    if 0 < best.finished < best.ended:
        parts.append(
            f"But only {best.finished} of the {best.ended} runs of {best.optimizer} finished, and "
            "it is judged by these alone."
        )
    lost = [r.optimizer for r in others if r.finished < r.ended]
    if lost and best.metric is not None:
        parts.append(f"Not every run of {_listed(lost)} finished.")
    if finished:
        parts.append(
            "Each ran at one setting, none of them tuned here: after tuning, another may be best."
        )
    return " ".join(parts)


def _comparisons(study: Study, best: Row, compared: Sequence[Row]) -> Iterator[str]:
    seeds = len(study.plan.seeds)
    whole = all(r.finished == seeds for r in (best, *compared))
    over = f"over {seeds} seeds" if whole else "over the seeds that both finished"
    many = f", not corrected for {len(compared)} comparisons" if len(compared) > 1 else ""
    ties = [r.optimizer for r in compared if r.ties]
    worse = [r.optimizer for r in compared if _is_worse(r)]
    better = [r.optimizer for r in compared if not r.ties and not _is_worse(r)]
    said = [
        f"{best.optimizer} could not be told apart from {_listed(ties)}" if ties else "",
        f"{best.optimizer} beats {_listed(_few(worse))}" if worse else "",
        f"{_listed(better)} did better than {best.optimizer}" if better else "",
    ]
    yield (
        f"{'; '.join(s for s in said if s)} {over} (95% intervals of the difference, paired by "
        f"seed{many})."
    )
    if ties:
        yield "More seeds may show a difference."


def _is_worse(row: Row) -> bool:
    """Whether the whole interval is on the leader's side."""
    return row.difference is not None and row.margin is not None and row.difference > row.margin


def _few(names: Sequence[str]) -> Sequence[str]:
    """The names; where they are many, how many."""
    return names if len(names) <= 3 else [f"{len(names)} others"]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
