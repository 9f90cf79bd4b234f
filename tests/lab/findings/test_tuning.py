"""What trials show, on results whose truth is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lab import studies
from thalweg.lab import stats
from thalweg.lab.findings.summary import Row, summarize
from thalweg.lab.findings.tuning import contenders, edges
from thalweg.lab.space import Choice, Range
from thalweg.lab.stats import BudgetCurve
from thalweg.lab.study import Study


def tuned(metrics: Sequence[float | str], higher: bool = True) -> Study:
    """A study of one optimizer whose trials end with these metrics."""
    plan = studies.study(["adam"], trials=len(metrics)).plan
    return studies.made(
        plan, lambda run: metrics[run.trial] if run.seed == 0 else 0.5, higher=higher
    )


def only_row(study: Study) -> Row:
    return summarize(study, "blobs").rows[0]


def test_budget_curve_begins_with_the_defaults_and_ends_with_the_best():
    metrics = [0.6, 0.5, 0.9, 0.7]
    curve = summarize(tuned(metrics), "blobs").budget["adam"]
    assert curve.trials.tolist() == [1, 2, 3, 4]
    expected = stats.budget_curve(0.6, [0.5, 0.9, 0.7]).expected
    assert curve.expected == pytest.approx(expected)
    assert curve.expected[[0, -1]] == pytest.approx([0.6, 0.9])


def test_budget_curve_is_in_the_unit_of_a_metric_that_should_fall():
    metrics = [0.6, 0.5, 0.9, 0.7, 0.3, 0.8, 0.65, 0.4]
    curve = summarize(tuned(metrics, higher=False), "blobs").budget["adam"]
    assert curve.expected[[0, -1]] == pytest.approx([0.6, 0.3])
    assert (np.diff(curve.expected) <= 0).all()
    known = ~np.isnan(curve.low)
    assert known.sum() > 1
    assert (curve.low[known] <= curve.expected[known]).all()
    assert (curve.high[known] >= curve.expected[known]).all()
    assert (curve.low[1] < curve.high[1]) == bool(known[1])


def test_lost_trials_count_as_the_worst_that_finished():
    lost = tuned(["nan", 0.7, 0.4, 0.9])
    summary = summarize(lost, "blobs")
    assert summary.worst == 0.4
    assert summary.budget["adam"].expected[0] == 0.4
    assert summary.rows[0].default_gap == pytest.approx(0.5)
    assert (summary.rows[0].trials, summary.rows[0].trials_finished) == (4, 3)


def test_defaults_are_behind_the_best_trial_by_as_much():
    assert only_row(tuned([0.6, 0.5, 0.9])).default_gap == pytest.approx(0.3)
    assert only_row(tuned([0.6, 0.5, 0.9], higher=False)).default_gap == pytest.approx(0.1)
    assert only_row(tuned([0.9, 0.5, 0.6])).default_gap == 0


def test_one_setting_has_no_budget():
    study = studies.study(["adam"])
    summary = summarize(study, "blobs")
    row = summary.rows[0]
    assert summary.budget == {}
    assert (row.default_gap, row.learning_rates, row.lr_width) == (None, None, None)


def test_trials_that_ended_make_a_curve_if_the_defaults_are_among_them():
    whole = tuned([0.6, 0.5, 0.9, 0.7])
    part = studies.without(whole, lambda r: r.trial == 2 or r.seed > 0)
    assert summarize(part, "blobs").budget["adam"].expected[-1] == 0.7
    assert summarize(studies.without(whole, lambda r: r.trial == 0), "blobs").budget == {}
    assert summarize(studies.without(whole, lambda r: r.trial > 0), "blobs").budget == {}


def test_learning_rates_within_a_percent_of_the_best():
    metrics = [0.5, 0.895, 0.9, 0.8, 0.892, "nan"]
    study = tuned(metrics)
    rates = [study.results[i].settings["lr"] for i in (1, 2, 4)]
    row = only_row(study)
    assert row.learning_rates == (min(rates), max(rates))  # pyright: ignore
    assert row.lr_width == pytest.approx(np.log10(max(rates) / min(rates)))  # pyright: ignore


def test_learning_rates_that_were_not_searched_have_no_width():
    plan = studies.study(["adam:lr=0.01"], trials=4).plan
    study = studies.made(plan, lambda run: 0.9)
    row = only_row(study)
    assert row.learning_rates is None
    assert row.lr_width is None
    assert row.default_gap == 0


def edges_of(space: dict[str, Range | Choice], trial: int = 1, **settings: float | str):
    study = studies.study(["momentum"], trials=2)
    [momentum] = study.plan.contestants
    plan = replace(study.plan, contestants=(replace(momentum, space=space),))
    return edges(replace(study, plan=plan), "momentum", trial, settings)


def test_an_edge_is_one_that_values_lie_beyond():
    lr, gamma = Range(1e-4, 1.0, "log"), Range(0.0, 0.999, "below 1")
    assert edges_of({"lr": lr}, lr=0.9) == ("lr",)
    assert edges_of({"lr": lr}, lr=1.2e-4) == ("lr",)
    assert edges_of({"lr": lr}, lr=0.01) == ()
    assert edges_of({"lr": lr, "gamma": gamma}, lr=0.9, gamma=0.9988) == ("lr", "gamma")
    # No momentum is below 0.
    assert edges_of({"gamma": gamma}, gamma=0.01) == ()
    # The defaults were not drawn from the range, and may lie outside.
    assert edges_of({"lr": lr}, trial=0, lr=0.9) == ()
    assert edges_of({"lr": lr}, trial=0, lr=0.0) == ()
    # Choices have no edge.
    assert edges_of({"schedule": Choice(("constant", "cosine"))}, schedule="constant") == ()


def test_a_rule_that_is_gone_may_have_values_beyond_any_end():
    study = studies.study(["momentum"], trials=2)
    [momentum] = study.plan.contestants
    space = {"gamma": Range(0.0, 0.999, "below 1")}
    plan = replace(study.plan, contestants=(replace(momentum, rule=None, space=space),))
    assert edges(replace(study, plan=plan), "momentum", 1, {"gamma": 0.01}) == ("gamma",)


def curve(expected: Sequence[float], half: float) -> BudgetCurve:
    e = np.array(expected)
    known = np.arange(len(e)) * 2 < len(e)
    return BudgetCurve(
        np.arange(1, len(e) + 1),
        e,
        np.where(known, e - half, np.nan),
        np.where(known, e + half, np.nan),
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_contenders_are_those_not_behind_beyond_noise_and_intervals(sign: int):
    def best(half: float, noise: float, trials: int = 1) -> list[str]:
        budget = {
            "a": curve([sign * v for v in (0.5, 0.8, 0.9, 0.9)], half),
            "b": curve([sign * v for v in (0.8, 0.8, 0.8, 0.8)], half),
            "c": curve([sign * v for v in (0.79, 0.79, 0.8, 0.8)], half),
        }
        return contenders(budget, trials, sign, noise)

    assert best(0.0, 0.001) == ["b"]
    assert best(0.01, 0.001) == ["b", "c"]
    assert best(0.0, 0.01) == ["b", "c"]
    assert best(0.0, 0.15) == ["b", "c", "a"]
    assert best(0.25, 0.001) == ["b", "c", "a"]
    assert best(0.0, 0.001, trials=2) == ["a", "b"]
    # With three trials there are no intervals.
    assert best(0.2, 0.001, trials=3) == ["a"]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_halves_of_intervals_count_that_face_each_other(sign: int):
    up = curve([0.5, 0.9, 0.9], 0.0)
    wide, narrow = up.expected + 0.4, up.expected - 0.01
    other = curve([0.8, 0.8, 0.8], 0.0)
    for low, high, best in ((narrow, wide, ["b", "a"]), (up.expected - 0.4, up.expected, ["b"])):
        mine = replace(up, low=low, high=high)
        budget = {
            o: c if sign > 0 else BudgetCurve(c.trials, -c.expected, -c.high, -c.low)
            for o, c in {"a": mine, "b": other}.items()
        }
        assert contenders(budget, 1, sign, 0.001) == best


def test_contenders_had_more_trials():
    budget = {"a": curve([0.9], 0.0), "b": curve([0.1, 0.2, 0.3], 0.0)}
    assert contenders(budget, 1, 1, 0.001) == ["b"]
    assert contenders(budget, 3, 1, 0.001) == []
