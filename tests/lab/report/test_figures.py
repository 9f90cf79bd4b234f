"""What is drawn is what was measured: budget and learning curves, lists of runs, small pictures."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from lab.studies import outcomes, study
from thalweg.lab.findings.summary import Summary, summarize
from thalweg.lab.report.drawings import extent, intervals, panels
from thalweg.lab.report.figures import budgets, compact, curves, looks, thinned
from thalweg.lab.report.listing import listing
from thalweg.lab.study import Study

TUNED = study(("adam", "sgd", "nag"), trials=8, seeds=4, diverges=10)
BROKEN = outcomes({"adam": [0.9, 0.8, "nan"], "sgd": [0.7, 0.6, 0.5], "nag": ["boom"] * 3})


def places(of: Study) -> dict[str, int]:
    return {optimizer: i for i, optimizer in enumerate(of.plan.optimizers)}


def summed(of: Study) -> Summary:
    return summarize(of, of.plan.tasks[0].spec)


def drawn(of: Study) -> dict[str, Any]:
    return curves(of, summed(of), places(of))


def test_numbers_are_as_long_as_can_be_seen_and_finite() -> None:
    assert compact([0.123456789, None, math.nan, math.inf, 12345678.0]) == [
        0.12346,
        None,
        None,
        None,
        12346000.0,
    ]


def test_thinning_keeps_the_ends() -> None:
    assert thinned(5, 9) == [0, 1, 2, 3, 4]
    assert thinned(1001, 3) == [0, 500, 1000]
    assert thinned(1000, 1) == [999]


def test_thirty_optimizers_look_different() -> None:
    assert len({(look["hue"], look["dash"]) for look in looks([str(i) for i in range(30)])}) == 30


@pytest.mark.parametrize("higher", [True, False])
def test_budgets_are_in_the_metrics_unit(higher: bool) -> None:
    tuned = study(("adam", "sgd"), trials=8, higher=higher)
    summary = summed(tuned)
    found = {entry["optimizer"]: entry for entry in budgets(summary, places(tuned))}
    assert found[1]["mean"] == pytest.approx(list(summary.budget["sgd"].expected), rel=1e-4)
    best = max if higher else min
    trials = [r.epochs[-1].metric for r in tuned.tuning("blobs", "sgd")]
    assert found[1]["mean"][0] == pytest.approx(trials[0], rel=1e-4)
    assert found[1]["mean"][-1] == pytest.approx(best(trials), rel=1e-4)
    known = [
        (low, y, high)
        for low, y, high in zip(found[1]["low"], found[1]["mean"], found[1]["high"], strict=True)
        if low is not None
    ]
    assert known
    assert all(low <= y <= high for low, y, high in known)


def test_the_leader_is_drawn_last_and_so_on_top() -> None:
    first = places(TUNED)[summed(TUNED).rows[0].optimizer]
    assert budgets(summed(TUNED), places(TUNED))[-1]["optimizer"] == first
    assert drawn(TUNED)["lines"][-1]["optimizer"] == first


def test_curves_are_means_and_ranges_over_the_seeds_that_finished() -> None:
    [sgd, adam] = drawn(BROKEN)["lines"]
    assert (sgd["optimizer"], adam["optimizer"]) == (1, 0)
    judged = BROKEN.judging("blobs", "adam")[:2]
    ends = [r.epochs[-1].metric for r in judged]
    assert (adam["seeds"], adam["epochs"]) == (2, [1, 2])
    assert adam["metric"]["mean"][-1] == pytest.approx(sum(ends) / 2)
    assert (adam["metric"]["low"][-1], adam["metric"]["high"][-1]) == (min(ends), max(ends))


def test_runs_that_did_not_finish_are_drawn_as_far_as_they_came() -> None:
    cut = drawn(BROKEN)["cut"]
    assert [(c["optimizer"], c["seed"], c["status"]) for c in cut] == [
        *((2, seed, "failed") for seed in (0, 1, 2)),
        (0, 2, "diverged"),
    ]
    assert cut[-1]["metric"] == [0.1]


def test_a_mean_over_a_seed_that_is_not_finite_is_a_gap() -> None:
    first, *others = BROKEN.results
    epochs = (replace(first.epochs[0], validation_loss=math.nan), *first.epochs[1:])
    gapped = replace(BROKEN, results=(replace(first, epochs=epochs), *others))
    adam = drawn(gapped)["lines"][-1]
    assert adam["validation_loss"]["mean"][0] is None
    assert adam["validation_loss"]["mean"][1] is not None
    assert adam["validation_loss"]["low"][0] == pytest.approx(others[0].epochs[0].validation_loss)


def test_without_a_run_there_is_nothing_to_draw() -> None:
    empty = replace(TUNED, results=())
    assert budgets(summed(empty), places(empty)) == []
    assert drawn(empty) == {"lines": [], "cut": [], "wide": False}
    assert panels(empty, summed(empty)) == []
    assert all(mark is None for mark in intervals(summed(empty).rows))


def test_every_run_is_listed_with_its_settings_and_curve() -> None:
    columns = listing(TUNED, "blobs", places(TUNED))
    json.dumps(columns, allow_nan=False)
    for i, result in enumerate(TUNED.results):
        optimizer, trial = columns["optimizer"][i], columns["trial"][i]
        assert TUNED.plan.optimizers[optimizer] == result.run.optimizer
        assert (trial, columns["seed"][i]) == (result.run.trial, result.run.seed)
        assert columns["judges"][i] == (result.run.seed in TUNED.plan.seeds)
        assert columns["statuses"][columns["status"][i]] == result.status
        assert columns["reasons"][columns["reason"][i]] == result.reason
        settings = {**columns["shared"][optimizer], **columns["own"][optimizer][trial]}
        assert settings["lr"] == str(result.settings["lr"]).removesuffix(".0")
        assert set(settings) == set(result.settings)
        assert columns["grids"][columns["grid"][i]] == [e.epoch for e in result.epochs]
        assert columns["metric"][i] == pytest.approx([e.metric for e in result.epochs], rel=1e-3)
        test = result.epochs[-1].test
        assert columns["test"][i] == (None if test is None else pytest.approx(test, rel=1e-4))
    assert "lr" in columns["own"][0][1]
    assert "eps" in columns["shared"][0]


def test_a_run_that_could_not_begin_shows_what_it_should_have_run_with() -> None:
    lost = TUNED.results[0]
    failed = replace(lost, status="failed", reason="no", epochs=(), settings={})
    trial_one = next(r for r in TUNED.results if r.run.trial == 1)
    both = (failed, replace(trial_one, status="failed", epochs=(), settings={}))
    columns = listing(replace(TUNED, results=both), "blobs", places(TUNED))
    optimizer = columns["optimizer"][1]
    wanted = TUNED.plan.contestants[optimizer].configurations[1]["lr"]
    assert columns["own"][optimizer][1]["lr"] == str(wanted)
    assert columns["metric"] == [[], []]


def test_curves_of_very_many_runs_are_thinned() -> None:
    long = study(("adam",), trials=4, epochs=400)
    whole = listing(long, "blobs", places(long))
    assert len(whole["metric"][0]) == 400
    many = replace(long, results=long.results * 1000)
    thin = listing(many, "blobs", places(many))
    assert 2 <= len(thin["metric"][0]) < 100
    assert thin["metric"][0][-1] == whole["metric"][0][-1]
    assert thin["grids"][0][-1] == 400


def test_intervals_lie_on_one_scale() -> None:
    seeds = [0.9 + 0.01 * i for i in range(6)]
    worse = [s - 0.05 - 0.002 * (i % 3) for i, s in enumerate(seeds)]
    many = outcomes({"a1": seeds, "b1": worse, "c1": [s - 0.1 for s in worse], "d1": [0.001] * 6})
    rows = summed(many).rows
    leader, second, _, last = intervals(rows)
    assert leader is not None
    assert leader.at == leader.zero
    assert second is not None
    assert second.low is not None
    assert second.high is not None
    start, most = extent(rows)
    assert second.at == pytest.approx((rows[1].difference - start) / (most - start))
    assert leader.zero < second.low < second.at < second.high < 1
    assert last is not None
    assert (last.at, last.beyond) == (1.0, True)
    assert not second.beyond


@pytest.mark.parametrize("higher", [True, False])
def test_a_panel_shows_each_trial_at_its_learning_rate(higher: bool) -> None:
    tuned = study(("adam", "sgd"), trials=8, higher=higher, diverges=10)
    by_name = {p.row.optimizer: p for p in panels(tuned, summed(tuned))}
    assert set(by_name) == {"adam", "sgd"}
    panel = by_name["sgd"]
    results = {r.run.trial: r for r in tuned.tuning("blobs", "sgd")}
    assert {p.trial for p in panel.points} == set(results)
    assert all(p.lr == results[p.trial].settings["lr"] for p in panel.points)
    across = sorted(panel.points, key=lambda p: p.lr)
    assert [p.x for p in across] == sorted(p.x for p in across)
    assert all(0 < p.x < 1 and 0 <= p.y <= 1 for p in panel.points)
    lost = {p.trial for p in panel.points if p.kind == "lost"}
    assert lost == {t for t, r in results.items() if r.status != "finished"} != set()
    [best] = [p for p in panel.points if p.kind == "best"]
    assert best.y == max(p.y for p in panel.points)
    assert panel.points[-1] is best
    assert [p.trial for p in panel.points if p.kind == "default"] == [0]
    assert panel.band is not None
    assert panel.band[0] < panel.band[1] == best.y
    assert panel.near is not None
    assert panel.near[0] <= best.x <= panel.near[1]
    within = [value for y, value in panel.grid if 0 <= y <= 1]
    assert 3 <= len(within) == len(panel.grid) <= 9


def test_no_panel_without_a_searched_learning_rate() -> None:
    fixed = study(("adam:lr=0.03", "sgd"), trials=4)
    assert [p.row.optimizer for p in panels(fixed, summed(fixed))] == ["sgd"]
