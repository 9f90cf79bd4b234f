"""Every run of a study in few bytes, for a page that lists them when it is asked to."""

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.lab.report.figures import QUANTITIES, compact, thinned
from thalweg.lab.study import Result, Study
from thalweg.pages import setting

__all__ = ["listing"]

# About 5 MB of text.
_NUMBERS = 700_000


def listing(study: Study, task: str, places: Mapping[str, int]) -> dict[str, Any]:
    """The runs of one task as columns of equal length, and what they share.

    Curves have as many points as fit: all of them unless the study is very large.

    Args:
        study: all of it: its size decides how many points a curve has.
        task: the spec of one of its tasks.
        places: the place of each optimizer in the plan.
    """
    results = [r for r in study.results if r.run.task == task]
    points = max(2, _NUMBERS // (len(QUANTITIES) * max(1, len(study.results))))
    reasons = list(dict.fromkeys(r.reason for r in results))
    statuses = list(dict.fromkeys(r.status for r in results))
    grids: dict[tuple[float, ...], int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in ("grid", *QUANTITIES)}
    for result in results:
        kept = [result.epochs[i] for i in thinned(len(result.epochs), points)]
        epochs = tuple(r.epoch for r in kept)
        columns["grid"].append(grids.setdefault(epochs, len(grids)))
        for quantity in QUANTITIES:
            columns[quantity].append(compact((getattr(r, quantity) for r in kept), 4))
    last = [r.epochs[-1] if r.epochs else None for r in results]
    judging = set(study.plan.seeds)
    return {
        "optimizer": [places[r.run.optimizer] for r in results],
        "trial": [r.run.trial for r in results],
        "seed": [r.run.seed for r in results],
        "judges": [int(r.run.seed in judging) for r in results],
        "status": [statuses.index(r.status) for r in results],
        "reason": [reasons.index(r.reason) for r in results],
        "test": compact(e and e.test for e in last),
        "seconds": compact((e and e.seconds for e in last), 4),
        **columns,
        "statuses": statuses,
        "reasons": reasons,
        "grids": [compact(grid) for grid in grids],
        **_settings(study, results, places),
    }


def _settings(study: Study, results: Sequence[Result], places: Mapping[str, int]) -> dict[str, Any]:
    """For each optimizer the settings that all trials share, and those of each trial, in words."""
    found: dict[str, dict[int, dict[str, str]]] = {name: {} for name in places}
    for r in results:
        trials = found[r.run.optimizer]
        if r.run.trial not in trials or not trials[r.run.trial]:
            # Of a run that could not begin, what it should have run with is known at least.
            known = r.settings or study.plan.contestant(r.run.optimizer).configurations[r.run.trial]
            trials[r.run.trial] = {name: setting(value) for name, value in known.items()}
    shared: list[dict[str, str]] = []
    own: list[dict[int, dict[str, str]]] = []
    for trials in found.values():
        first = next(iter(trials.values()), dict[str, str]())
        same = {n: v for n, v in first.items() if all(t.get(n) == v for t in trials.values())}
        if len(trials) == 1:
            same = {}
        shared.append(same)
        own.append({i: {n: v for n, v in t.items() if n not in same} for i, t in trials.items()})
    return {"shared": shared, "own": own}
