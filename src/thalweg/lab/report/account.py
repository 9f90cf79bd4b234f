"""What a report tells of how its runs were made: failures, sessions, what was searched."""

import json
from collections.abc import Mapping, Sequence

from thalweg.lab.space import Choice, Range
from thalweg.lab.study import Result, Study
from thalweg.pages import setting

__all__ = ["hashes", "in_common", "problems", "searched"]


def problems(study: Study, task: str) -> list[tuple[str, str, str, list[tuple[str, list[str]]]]]:
    """Optimizer, status, kind of run, and each reason with its runs, of whatever went wrong."""
    found: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    lost = [r for r in study.results if r.run.task == task and r.status != "finished"]
    place = {optimizer: i for i, optimizer in enumerate(study.plan.optimizers)}
    for r in sorted(lost, key=lambda r: (place[r.run.optimizer], r.run.trial, r.run.seed)):
        kind, run = _kind(study, r)
        reasons = found.setdefault((r.run.optimizer, r.status, kind), {})
        reasons.setdefault(r.reason, []).append(run)
    return [
        (*key, sorted(reasons.items(), key=lambda entry: -len(entry[1])))
        for key, reasons in found.items()
    ]


def _kind(study: Study, result: Result) -> tuple[str, str]:
    run = result.run
    if study.plan.trials_of(run.optimizer) == 1:
        return "run", f"seed {run.seed}"
    if run.seed in study.plan.seeds:
        return "judging run", f"seed {run.seed} of trial {run.trial}"
    return "trial", f"trial {run.trial}"


def in_common(sessions: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """What all sessions have in common, and the names of what differs between them."""
    names = [n for n in dict.fromkeys(n for s in sessions for n in s) if n != "command"]
    varying = [n for n in names if len({s.get(n) for s in sessions}) > 1]
    return {n: hashes(n, sessions[0][n]) for n in names if n not in varying}, varying


def searched(dimension: Range | Choice) -> str:
    """Where a setting was searched, in words."""
    if isinstance(dimension, Choice):
        return " or ".join(setting(option) for option in dimension.options)
    low, high = setting(dimension.low), setting(dimension.high)
    even = {"log": "by its logarithm", "below 1": "by its distance from 1", "linear": "evenly"}
    return f"{low} to {high}, {even[dimension.scale]}"


def hashes(name: str, value: str) -> str:
    """An entry of a session as text: the hashes of code, which are kept as JSON, in words."""
    if not name.startswith("code of "):
        return value
    return ", ".join(f"{file} {digest}" for file, digest in json.loads(value).items())
