"""How soon targets are reached, on curves worked by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from lab import studies
from thalweg.lab.findings.speed import seconds_per_step
from thalweg.lab.findings.summary import Row, Summary, summarize
from thalweg.lab.plan import Run
from thalweg.lab.study import Result, Study
from thalweg.training import Record


def reached(
    curves: Sequence[Sequence[float]], target: float, *, higher: bool = True, lost: int = 0
) -> Row:
    """The row of an optimizer with these curves; an epoch of the i-th run takes i + 1 seconds."""
    study = studies.outcomes({"a": [0.5] * len(curves)}, higher=higher, target=target)
    results = tuple(
        studies.result(Run("blobs", "a", 0, i), c, "nan" if i < lost else "", pace=1.0 + i)
        for i, c in enumerate(curves)
    )
    return summarize(replace(study, results=results), "blobs").rows[0]


def test_times_to_a_target_are_those_of_the_median_run():
    # Reached in epochs 1, 3 and 2, after 1, 6 and 6 seconds.
    row = reached([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.1, 0.9, 0.9]], 0.9)
    assert (row.steps_to_target, row.epochs_to_target, row.seconds_to_target) == (20, 2, 6)
    row = reached([[0.5, 0.3, 0.1], [0.5, 0.1, 0.3]], 0.3, higher=False)
    assert (row.steps_to_target, row.epochs_to_target) == (20, 2)
    assert row.seconds_to_target == 3


def test_a_target_that_most_runs_reach_is_reached():
    row = reached([[0.9] * 3, [0.1] * 3, [0.1, 0.9, 0.1]], 0.9)
    assert (row.epochs_to_target, row.seconds_to_target) == (2, 6)


@pytest.mark.parametrize("curves", [[[0.1] * 3], [[0.9] * 3, [0.1] * 3]])
def test_a_target_that_half_of_the_runs_reach_is_not(curves: list[list[float]]):
    row = reached(curves, 0.9)
    assert (row.steps_to_target, row.epochs_to_target, row.seconds_to_target) == (None,) * 3


def test_a_run_that_was_lost_counts():
    curves = [[0.1], [0.1], [0.1, 0.9]]
    assert reached([[0.9]], 0.9).epochs_to_target == 1
    assert reached(curves, 0.9, lost=2).epochs_to_target is None
    # It had been there before.
    assert reached([[0.9, 0.1], [0.1, 0.9], [0.9]], 0.9, lost=1).epochs_to_target == 1


def aimed(study: Study) -> Summary:
    return summarize(study, "blobs")


FINALS = {
    "sgd": [0.5, 0.6, 0.55],
    "adam": [0.7, 0.72, 0.9],
    "radam": [0.95, 0.95, 0.95],
    "nag": ["nan"] * 3,
}


def test_target_is_what_the_best_classic_baseline_ends_with():
    summary = aimed(studies.outcomes(FINALS))
    assert summary.target == 0.72
    assert summary.target_from == (
        "the median over seeds of what adam (untuned), the best of the classic baselines (sgd, "
        "momentum, nag and adam), ends with on the validation data"
    )
    fewer = {o: f for o, f in FINALS.items() if o != "adam"}
    assert aimed(studies.outcomes(fewer)).target == 0.55
    assert aimed(studies.outcomes(FINALS, higher=False)).target == 0.55


@pytest.mark.parametrize("higher", [True, False])
def test_the_baseline_itself_reaches_the_target_it_sets(higher: bool):
    for seeds in (1, 2, 3, 4):
        study = studies.study(["adam", "radam"], seeds=seeds, higher=higher)
        adam = next(r for r in aimed(study).rows if r.optimizer == "adam")
        assert adam.epochs_to_target == 5


def test_target_without_a_baseline_is_what_the_best_ends_with():
    finals = {"radam": [0.5] * 3, "l2+adam": [0.6] * 3, "nag": ["nan"] * 3}
    summary = aimed(studies.outcomes(finals))
    assert summary.target == 0.6
    assert "what l2+adam (untuned), the best of all, as none of the classic baselines" in (
        summary.target_from
    )


def test_a_baseline_with_settings_is_one():
    finals = {"adam:beta2=0.99": [0.5] * 3, "radam": [0.6] * 3}
    assert aimed(studies.outcomes(finals)).target == 0.5
    assert "(tuned)" in aimed(studies.study(trials=2)).target_from


def test_target_that_was_set_is_taken():
    study = studies.outcomes(FINALS, target=0.05)
    assert (aimed(study).target, aimed(study).target_from) == (0.05, "set by the task")
    task = replace(study.plan.tasks[0], target=0.0)
    given = aimed(replace(study, plan=replace(study.plan, tasks=(task,))))
    # A target of 0 is one.
    assert (given.target, given.target_from) == (0, "set for this comparison")


def test_no_target_without_a_finished_run():
    summary = aimed(studies.outcomes({"a": ["nan"]}))
    assert (summary.target, summary.rows[0].epochs_to_target) == (None, None)
    assert summary.target_from == "no run has finished, so that there is none"


def timed(*seconds: float, reason: str = "") -> Result:
    """A run whose epochs of 10 steps take these seconds."""
    epochs = [
        Record(n, 10 * n, 1, 1, 0.5, math.fsum(seconds[:n])) for n in range(1, len(seconds) + 1)
    ]
    run = studies.result(Run("blobs", "a", 0, 0), [0.5], reason)
    return replace(run, epochs=tuple(epochs))


def test_seconds_per_step_are_the_median_over_all_epochs_of_all_runs():
    # The first epoch may compile; a run that diverged has a pace as well.
    runs = [timed(9.0, 1.0, 1.2), timed(8.0, 1.4, reason="nan"), timed(reason="boom")]
    assert seconds_per_step(runs) == pytest.approx(0.14)
    assert seconds_per_step([timed(reason="boom")]) is None
    # A record without a step since the one before has no pace.
    twice = timed(1.0)
    assert seconds_per_step([replace(twice, epochs=twice.epochs * 2)]) == pytest.approx(0.1)
