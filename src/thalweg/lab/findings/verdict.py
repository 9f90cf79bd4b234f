"""What the results of a task say, in words: no more than they show."""

from collections.abc import Iterator

from thalweg.lab.findings import caveats
from thalweg.lab.findings.row import Row
from thalweg.lab.findings.wording import MANY, counted, listed, number, short
from thalweg.lab.findings.words import Findings, names

__all__ = ["detail", "headline"]


def headline(found: Findings) -> str:
    """Who leads, in one sentence."""
    if not found.shown:
        return _nothing(found)
    where, name = _where(found), found.leader
    metric = f"{found.judging.on} {found.study.tasks[found.task].metric_name}"
    value = f"{metric} {number(found.shown[0].metric)}"
    if found.constant:
        return f"All finished runs {where} have the same {value}: nothing tells optimizers apart."
    if len(found.rows) == 1:
        return _so_far(found, f"{name} comes to {value} {where}.")
    if len(found.shown) == 1:
        return _so_far(found, f"only {name} has finished a judged run {where}: {value}.")
    if found.ties:
        low = number(found.ties[-1].metric)
        span = value if value.endswith(f" {low}") else f"{value} to {low}"
        return _so_far(found, f"{_tied(found)} tie for best {where}: {span}.")
    best = found.shown[0]
    if best.finished == best.ended and len(found.beaten) == len(found.shown) - 1:
        return _so_far(found, f"{name} is best {where}: {value}.")
    return _so_far(found, f"{name} has the best {metric} {where}: {number(best.metric)}.")


def detail(found: Findings) -> str:
    """How sure that is and what it holds for, in a few sentences; may be empty."""
    judged = (_unjudged, _ties, _beaten, _scatter, caveats.budget)
    about = (*((_constant,) if found.constant else judged), caveats.lost, caveats.edges)
    return " ".join(s for say in (*about, caveats.basis, caveats.missing) for s in say(found))


def _nothing(found: Findings) -> str:
    name = found.study.tasks[found.task].name
    if not found.missing:
        return f"No run on {name} finished, so there is nothing to compare."
    return f"On {name} {'no optimizer has been judged' if found.ended else 'no run has ended'} yet."


def _where(found: Findings) -> str:
    plan = found.study.plan
    counts = {plan.trials_of(o) for o in plan.optimizers}
    upto = "up to " if len(counts) > 1 else ""
    said = (
        counted(plan.task(found.task).epochs, "epoch"),
        f"{upto}{max(counts)} trials each" if max(counts) > 1 else "one setting each",
        counted(len(plan.seeds), "seed"),
    )
    return f"on {found.study.tasks[found.task].name} ({', '.join(said)})"


def _so_far(found: Findings, sentence: str) -> str:
    if found.missing:
        return f"So far, {sentence}"
    # What a user called an optimizer stays as it is.
    return (
        sentence[0].upper() + sentence[1:] if sentence.startswith(("only ", "all ")) else sentence
    )


def _tied(found: Findings) -> str:
    others, every = names(found.ties), names(found.rows[1:])
    if len(others) == len(every) >= MANY:
        return f"all {len(found.rows)} optimizers"
    return listed([found.leader, *short(others, every)])


def _constant(_: Findings) -> Iterator[str]:
    yield (
        "Either the task is too easy or too hard for all of them, or its metric does not depend "
        "on the model."
    )


def _unjudged(found: Findings) -> Iterator[str]:
    seeds, others = len(found.study.plan.seeds), names(found.unjudged)
    if seeds > 2 and others:
        yield (
            f"{found.leader} shares fewer than three finished seeds with {listed(short(others))}: "
            "too few to tell them apart."
        )
    elif seeds < 3 and found.shown:
        why = (
            "One seed gives no interval: how far results scatter by chance cannot be seen from it"
            if seeds == 1
            else "Two seeds give no interval: it would reach 13 standard errors to each side"
        )
        luck = ", so that any difference may be luck" if others else ""
        yield f"{why}{luck}. Run at least three, better five."


def _ties(found: Findings) -> Iterator[str]:
    if found.ties:
        others = names(found.ties)
        counted_only = _tied(found).endswith(" others") and len(others) <= 2 * MANY
        whom = listed(others) if counted_only else "any of these"
        between = f"{found.leader} and {whom}" if others[1:] else "them"
        yield f"No difference was found between {between}{_needed(found)}."
    if found.wild:
        by = [f"{r.optimizer} ({number(r.spread, 2)})" for r in found.wild]
        yield (
            f"{listed(by)} {'scatter' if by[1:] else 'scatters'} too widely from seed to seed to "
            f"be told apart from {found.leader}."
        )


def _needed(found: Findings) -> str:
    """How many more seeds would show the largest of the differences that were not found."""
    known = [r for r in found.ties if r.seeds_needed and r.difference]
    if not known:
        return ""
    far = max(known, key=lambda r: abs(r.difference or 0.0))
    seeds = counted(int(float(number(far.seeds_needed, 2))), "more seed")
    other = f" to {far.optimizer}" if found.ties[1:] else ""
    size = number(abs(far.difference or 0.0), 2)
    return f"; about {seeds} would show the {size}{other}, if it is real"


def _beaten(found: Findings) -> Iterator[str]:
    if found.beaten:
        near = min(found.beaten, key=lambda r: r.difference or 0.0)
        who = f"{near.optimizer} is nearest, " if found.beaten[1:] else "it is "
        yield (
            f"{found.leader} beats {listed(short(names(found.beaten), names(found.shown[1:])))}: "
            f"{who}{number(near.difference, 2)} behind{_interval(found, near)}."
        )
    if better := [r.optimizer for r in found.apart if r not in found.beaten]:
        yield f"{listed(better)} did better than {found.leader} on the seeds that both finished."


def _interval(found: Findings, row: Row) -> str:
    # Step by step a pair may be told apart whose interval just holds 0: see `stats.compare`.
    if row.low is None or row.low <= 0:
        return ""
    corrected = " and corrected for all pairs" if len(found.shown) > 2 else ""
    return (
        f" (95% interval {number(row.low, 2)} to {number(row.high, 2)}, paired by seed{corrected})"
    )


def _scatter(found: Findings) -> Iterator[str]:
    compared = found.ties or found.beaten or len(found.rows) == 1
    if compared and found.judging.noise:
        noise = number(found.judging.noise, 2)
        yield f"From seed to seed a result scatters by {noise} (standard deviation)."
