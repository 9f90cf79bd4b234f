"""What the reader of a verdict has to know beside who leads."""

from collections.abc import Iterator

from thalweg.lab.findings import tuning
from thalweg.lab.findings.wording import MANY, listed, number, short
from thalweg.lab.findings.words import Findings, names

__all__ = ["basis", "budget", "edges", "lost", "missing"]

# Numbers of trials that people try by hand.
_SMALL = (1, 4)
# Of how many optimizers it is said why they did not finish.
_TOLD = 2


def budget(found: Findings) -> Iterator[str]:
    """What is otherwise with few trials: who leads instead, or who does not tie."""
    noise = tuning.seed_noise(found.study, found.task)
    if noise is None:
        return
    ahead: list[str] = []
    behind: list[str] = []
    for trials in _SMALL:
        curves = {o: c for o, c in found.budget.items() if len(c.trials) > trials}
        best = tuning.contenders(curves, trials, found.judging.sign, noise)
        much = "at the defaults" if trials == 1 else f"with {trials} trials"
        out = [o for o in names(found.ties) if o in curves and o not in best]
        if found.leader in curves and found.leader not in best:
            who = best if len(best) <= MANY else [best[0], f"{len(best) - 1} others"]
            ahead.append(f"{listed(who)} {much}")
        elif found.leader in curves and out:
            who = out if len(out) <= 2 * MANY else short(out, names(found.ties))
            behind.append(f"{listed(who)} {much}")
    if ahead:
        yield f"With fewer trials others lead on the validation data: {'; '.join(ahead)}."
    if behind:
        yield f"With fewer trials some fall behind on the validation data: {'; '.join(behind)}."


def lost(found: Findings) -> Iterator[str]:
    """Who failed, and why."""
    part = [r for r in found.shown if r.problem]
    for row in part[:_TOLD]:
        yield f"{row.optimizer}: {row.problem}; it is judged by the others."
    if more := names(part[_TOLD:]):
        yield f"Not every run of {listed(short(more))} finished either."
    none = [r for r in found.rows if r.metric is None and r.problem]
    for row in none[:_TOLD]:
        yield f"{row.optimizer}: {row.problem}."
    if more := names(none[_TOLD:]):
        yield f"No run of {listed(short(more))} finished either."


def edges(found: Findings) -> Iterator[str]:
    """Which best values lie at the edge of their range."""
    at = [
        f"{name} of {r.optimizer} ({number(float(r.settings[name]), 3)})"  # pyright: ignore
        for r in found.shown
        for name in r.edges
    ]
    if at:
        lies, its = ("lies", "its") if len(at) == 1 else ("lie", "their")
        yield (
            f"The best {listed(short(at, more='settings'))} {lies} at the edge of {its} range: "
            "a wider one may hold a better."
        )


def basis(found: Findings) -> Iterator[str]:
    """Which data judge, and whether anything was tuned."""
    if not found.shown:
        return
    tuned = any(r.trials for r in found.rows)
    if found.judging.on == "validation":
        chosen = ", by which the settings were chosen, and so flatter" if tuned else ""
        yield f"The task has no test data: the validation data judge{chosen}."
    if not tuned and len(found.shown) > 1:
        yield "No setting was tuned: after tuning, another may be best."


def missing(found: Findings) -> Iterator[str]:
    """How many runs are still to come."""
    if not found.missing or not found.ended:
        return
    waiting = sum(r.metric is None and not r.problem for r in found.rows)
    judged = f"; {waiting} of {len(found.rows)} optimizers are not judged yet" if waiting else ""
    yield f"{found.missing} of {found.missing + found.ended} runs are still to come{judged}."
