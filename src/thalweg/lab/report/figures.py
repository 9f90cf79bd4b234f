"""What a report draws, as plain numbers: budget curves, learning curves, profiles."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from thalweg.lab.findings.summary import Profiles, Summary
from thalweg.lab.study import Result, Study
from thalweg.training import Record

__all__ = ["QUANTITIES", "budgets", "compact", "curves", "looks", "steps", "thinned"]

QUANTITIES = ("metric", "train_loss", "validation_loss")
"""What is drawn over the course of a run."""

# Seven hues of Okabe and Ito that read on light and on dark; the dash tells apart those that share
# one. The page's style sheet holds the hues, so that both themes can have their own.
HUES = 7
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# More points than this cannot be seen apart on a screen.
_POINTS = 200


def looks(optimizers: Sequence[str]) -> list[dict[str, Any]]:
    """Hue and dash of each optimizer: the same in all figures of a study."""
    return [
        {"hue": i % HUES, "dash": DASHES[i // HUES % len(DASHES)]} for i in range(len(optimizers))
    ]


def compact(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    """Numbers to as many digits as can be seen; None where one is unknown or not finite."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.{digits}g}") for v in values]


def thinned(count: int, most: int) -> list[int]:
    """Which of `count` points to keep so that at most `most` are left; the last is always kept."""
    if count <= most:
        return list(range(count))
    if most < 2:
        return [count - 1]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def budgets(summary: Summary, places: Mapping[str, int]) -> list[dict[str, Any]]:
    """The best result to expect of each number of trials, one entry per optimizer, leader last.

    Args:
        summary: of one task.
        places: the place of each optimizer in the plan.
    """
    found: list[dict[str, Any]] = []
    for row in reversed(summary.rows):
        curve = summary.budget.get(row.optimizer)
        if curve is not None:
            found.append(
                {
                    "optimizer": places[row.optimizer],
                    "mean": compact(curve.expected.tolist()),
                    "low": compact(curve.low.tolist()),
                    "high": compact(curve.high.tolist()),
                }
            )
    return found


def curves(study: Study, summary: Summary, places: Mapping[str, int]) -> dict[str, Any]:
    """Learning curves of the runs on fresh seeds.

    `lines`: for each optimizer, leader last, the mean over the seeds that finished and their lowest
    and highest value. `cut`: the runs that did not finish, as far as they came. `wide`: whether the
    losses need a logarithmic axis.
    """
    lines: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    for row in reversed(summary.rows):
        results = study.judging(summary.task, row.optimizer)
        finished = [r.epochs for r in results if r.status == "finished"]
        place = places[row.optimizer]
        if finished:
            lines.append({"optimizer": place, "seeds": len(finished), **_line(finished)})
        cut += [
            {"optimizer": place, "seed": r.run.seed, "status": r.status, **_cut(r)}
            for r in results
            if r.status != "finished" and r.epochs
        ]
    losses = [v for line in lines for q in QUANTITIES[1:] for v in line[q]["mean"] if v is not None]
    # Over this range a linear axis shows the worst curve only.
    wide = bool(losses) and min(losses) > 0 and max(losses) > 30 * min(losses)
    return {"lines": lines, "cut": cut, "wide": wide}


def _line(finished: Sequence[Sequence[Record]]) -> dict[str, Any]:
    at = list(zip(*finished, strict=False))
    at = [at[i] for i in thinned(len(at), _POINTS)]
    drawn: dict[str, Any] = {
        "epochs": compact(records[0].epoch for records in at),
        "seconds": compact(fmean(r.seconds for r in records) for records in at),
    }
    for quantity in QUANTITIES:
        values = [[getattr(r, quantity) for r in records] for records in at]
        known = [[v for v in vs if math.isfinite(v)] for vs in values]
        drawn[quantity] = {
            # A mean of the finite ones alone would flatter a run that is about to diverge.
            "mean": compact(fmean(vs) for vs in values),
            "low": compact(min(vs, default=None) for vs in known),
            "high": compact(max(vs, default=None) for vs in known),
        }
    return drawn


def _cut(result: Result) -> dict[str, Any]:
    records = [result.epochs[i] for i in thinned(len(result.epochs), _POINTS)]
    return {
        "epochs": compact(r.epoch for r in records),
        "seconds": compact(r.seconds for r in records),
        **{q: compact(getattr(r, q) for r in records) for q in QUANTITIES},
    }


def steps(found: Profiles, places: Mapping[str, int]) -> dict[str, Any]:
    """Performance profiles: for each optimizer, the share of tasks at each factor."""
    profile = found.profile
    return {
        "factors": compact(profile.factors.tolist()),
        "lines": [
            {"optimizer": places[optimizer], "shares": compact(shares)}
            for optimizer, shares in zip(found.optimizers, profile.shares.tolist(), strict=True)
        ],
    }
