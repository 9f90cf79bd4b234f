"""What the final table says, on results whose truth is known."""

from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from lab import studies
from thalweg.lab.contestant import Contestant
from thalweg.lab.findings.summary import Row, Summary, summaries, summarize
from thalweg.lab.stats import compare
from thalweg.lab.study import Study

# Seeds differ much more than optimizers do, which only pairing sees through.
HARD = np.array([0.5, 0.9, 0.7, 0.6])
CLEAR = {
    "worst": (HARD - np.array([0.19, 0.21, 0.2, 0.2])).tolist(),
    "best": HARD.tolist(),
    "close": (HARD - np.array([-0.01, 0.02, -0.005, 0.004])).tolist(),
    "middle": (HARD - np.array([0.1, 0.09, 0.11, 0.098])).tolist(),
}


def summed(study: Study) -> Summary:
    return summarize(study, study.plan.tasks[0].spec)


def order(summary: Summary) -> list[str]:
    return [r.optimizer for r in summary.rows]


def row(summary: Summary, optimizer: str) -> Row:
    return next(r for r in summary.rows if r.optimizer == optimizer)


@pytest.mark.parametrize("higher", [True, False])
def test_best_comes_first(higher: bool):
    sign = 1 if higher else -1
    turned = {o: [sign * m for m in ms] for o, ms in CLEAR.items()}
    summary = summed(studies.outcomes(turned, higher=higher))
    assert order(summary) == ["best", "close", "middle", "worst"]
    assert [r.ties for r in summary.rows] == [True, True, False, False]
    best, _, _, worst = summary.rows
    assert best.metric == pytest.approx(sign * 0.675)
    assert best.spread == pytest.approx(stdev(HARD))
    assert best.train_loss == pytest.approx(2 - sign * 0.675)
    assert (best.difference, best.low, best.high) == (0, None, None)
    assert worst.difference == pytest.approx(0.2)
    assert worst.low is not None
    assert worst.high is not None
    assert 0 < worst.low < 0.2 < worst.high


@pytest.mark.parametrize("higher", [True, False])
def test_two_are_compared_by_a_paired_t_test(higher: bool):
    a, b = np.array([1.0, 1.6, 1.2, 1.4, 2.1]), np.array([0.8, 1.5, 0.9, 1.4, 1.7])
    a, b = (a, b) if higher else (b, a)
    summary = summed(studies.outcomes({"a": a.tolist(), "b": b.tolist()}, higher=higher))
    assert order(summary) == ["a", "b"]
    test = stats.ttest_rel(a, b) if higher else stats.ttest_rel(b, a)
    interval = test.confidence_interval(0.95)
    second = summary.rows[1]
    assert (second.low, second.high) == pytest.approx((interval.low, interval.high))
    assert second.ties == (test.pvalue >= 0.05)


def test_many_are_compared_as_the_statistics_say():
    random = np.random.default_rng(0)
    finals = {f"o{i}": (random.normal(0, 1, 5) + 0.5 * i).tolist() for i in range(8)}
    summary = summed(studies.outcomes(finals))
    contest = compare(list(finals.values()))
    names = list(finals)
    assert order(summary) == [names[i] for i in contest.order]
    leader = contest.order[0]
    for r in summary.rows[1:]:
        i = names.index(r.optimizer)
        found = contest.differences[leader, i], contest.low[leader, i], contest.high[leader, i]
        assert (r.difference, r.low, r.high) == pytest.approx(found)
        assert r.ties != contest.differs[leader, i]
    assert {r.ties for r in summary.rows} == {True, False}


def test_only_a_tie_needs_more_seeds_and_a_closer_one_more_of_them():
    noise = np.array([0.01, -0.01, 0.005, -0.008])
    finals = {
        "a": [0.9] * 4,
        "b": (0.898 + noise).tolist(),
        "c": (0.896 + noise[::-1]).tolist(),
        "d": (0.2 + noise).tolist(),
    }
    a, b, c, d = summed(studies.outcomes(finals)).rows
    assert (a.seeds_needed, d.seeds_needed) == (None, None)
    assert b.seeds_needed is not None
    assert c.seeds_needed is not None
    assert 0 < c.seeds_needed < b.seeds_needed


def test_what_was_not_found_takes_one_more_seed_at_least(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("thalweg.lab.stats.seeds_needed", lambda *_: 0)
    assert summed(studies.outcomes(CLEAR)).rows[1].seeds_needed == 1


def test_pairs_are_those_of_the_same_seed_whatever_order_runs_ended_in():
    whole = studies.outcomes(CLEAR)
    turned = replace(whole, results=whole.results[::-1])
    assert summed(turned).rows == summed(whole).rows


def test_only_seeds_that_both_finished_are_compared():
    finals = {"a": [1.0, 2.0, 3.0, 2.5, "nan"], "b": ["boom", 1.5, 2.75, 2.6, 9.0]}
    summary = summed(studies.outcomes(finals))
    # Over its own seeds b is better.
    assert order(summary) == ["b", "a"]
    a = row(summary, "a")
    assert a.difference == pytest.approx(fmean([1.5 - 2, 2.75 - 3, 2.6 - 2.5]))
    test = stats.ttest_rel([1.5, 2.75, 2.6], [2.0, 3.0, 2.5]).confidence_interval(0.95)
    assert (a.low, a.high) == pytest.approx((test.low, test.high))
    assert row(summary, "b").metric == pytest.approx(fmean([1.5, 2.75, 2.6, 9]))


def test_two_shared_seeds_have_a_difference_without_an_interval():
    b = row(summed(studies.outcomes({"a": [1.0, 2.0, "nan"], "b": [0.5, 1.5, 9.0]})), "a")
    assert (b.difference, b.low, b.high, b.ties) == (pytest.approx(-0.5), None, None, False)


def test_two_shared_seeds_of_a_metric_that_should_fall():
    b = summed(studies.outcomes({"a": [1.0, 2.0], "b": [1.5, 2.5]}, higher=False)).rows[1]
    assert (b.optimizer, b.difference, b.low) == ("b", pytest.approx(0.5), None)


def test_no_shared_seed_has_no_difference():
    b = row(summed(studies.outcomes({"a": [1.0, "nan"], "b": ["nan", 0.5]})), "b")
    assert (b.difference, b.low, b.high, b.ties) == (None, None, None, False)


def test_who_did_better_on_the_shared_seeds_does_not_tie():
    # a leads for the seed that b lost, and is behind wherever both finished.
    finals = {"a": [1.0, 1.1, 1.2, 9.0], "b": [2.0, 2.11, 2.19, "nan"]}
    b = row(summed(studies.outcomes(finals)), "b")
    assert b.high is not None
    assert b.high < 0
    assert not b.ties


def test_identical_optimizers_tie_without_an_error():
    summary = summed(studies.outcomes({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}))
    assert order(summary) == ["a", "b"]
    b = summary.rows[1]
    assert (b.difference, b.low, b.high, b.ties, b.seeds_needed) == (0, 0, 0, True, None)


def test_where_nothing_scatters_a_difference_is_one():
    b = summed(studies.outcomes({"a": [0.5] * 3, "b": [0.25] * 3})).rows[1]
    assert (b.difference, b.low, b.high, b.ties) == (0.25, 0.25, 0.25, False)


def test_runs_that_did_not_finish_are_counted_and_explained():
    finals = {"a": [1.0, "nan", "nan", "boom"], "b": ["boom"] * 4, "c": [0.5]}
    summary = summed(studies.outcomes(finals))
    assert order(summary) == ["a", "c", "b"]
    a, c, b = summary.rows
    assert [(r.finished, r.ended, r.planned) for r in (a, c, b)] == [
        (1, 4, 4),
        (1, 1, 4),
        (0, 4, 4),
    ]
    assert a.problem == "2 of 4 runs diverged: nan; 1 of 4 runs failed: boom"
    assert (a.metric, a.spread) == (1, None)
    assert b.problem == "all 4 runs failed: boom"
    assert c.problem == ""
    nothing = (b.metric, b.train_loss, b.validation, b.difference, b.epochs_to_target)
    assert nothing == (None,) * 5
    assert (b.ties, b.speed_stars, b.quality_stars) == (False, None, None)


def test_of_many_reasons_the_first_is_told():
    study = studies.outcomes({"a": ["nan", "nan", 0.5]})
    first, second, third = study.results
    study = replace(
        study, results=(replace(first, reason="early"), replace(second, reason="late"), third)
    )
    assert summed(study).rows[0].problem == "2 of 3 runs diverged: early"


def test_an_optimizer_all_of_whose_trials_diverge_comes_last_and_says_so():
    study = studies.study({"adam": 0.9, "sgd": 0.8}, trials=4)
    lost = tuple(
        replace(r, status="diverged", reason="the loss was nan") if r.run.optimizer == "adam" else r
        for r in study.results
        if r.run.optimizer != "adam" or r.run.seed == 0
    )
    last = summed(replace(study, results=lost)).rows[-1]
    assert (last.optimizer, last.trial, last.metric) == ("adam", None, None)
    assert last.problem == "all 4 trials diverged: the loss was nan"
    assert (last.trials, last.trials_finished, last.ended) == (4, 0, 0)


def test_trials_that_are_not_over_leave_an_optimizer_unjudged_without_a_problem():
    study = studies.study(trials=4)
    part = studies.without(study, lambda r: r.optimizer == "sgd" and (r.trial > 2 or r.seed > 0))
    sgd = summed(part).rows[-1]
    assert (sgd.optimizer, sgd.trial, sgd.metric, sgd.problem) == ("sgd", None, None, "")
    assert (sgd.trials, sgd.trials_finished, sgd.ended, sgd.planned) == (3, 3, 0, 3)


def test_no_finished_run():
    summary = summed(studies.outcomes({"a": ["nan"], "b": ["boom"]}))
    assert order(summary) == ["a", "b"]
    assert (summary.target, summary.worst, summary.budget) == (None, None, {})


def test_no_run_has_ended():
    summary = summed(studies.outcomes({"a": [], "b": []}, seeds=2))
    assert [(r.optimizer, r.ended, r.seconds_per_step, r.memory) for r in summary.rows] == [
        ("a", 0, None, None),
        ("b", 0, None, None),
    ]


def test_test_data_judge_and_validation_data_where_there_are_none():
    finals = {"a": [0.5, 0.6, 0.7], "b": [0.8, 0.9, 0.7]}
    tested = summed(studies.outcomes(finals, has_test=True))
    assert tested.judged_on == "test"
    # The metric on the test data is 1 more.
    assert [r.metric for r in tested.rows] == pytest.approx([1.8, 1.6])
    assert [r.validation for r in tested.rows] == pytest.approx([0.8, 0.6])
    untested = summed(studies.outcomes(finals))
    assert untested.judged_on == "validation"
    assert [r.metric for r in untested.rows] == pytest.approx([0.8, 0.6])


def test_a_run_without_a_finite_test_metric_is_not_judged_and_said():
    study = studies.outcomes({"a": [0.5, 0.6, 0.7], "b": [0.8, 0.9, 0.7]}, has_test=True)
    for unknown in (None, float("nan")):
        first = study.results[0]
        epochs = (*first.epochs[:-1], replace(first.epochs[-1], test=unknown))
        lost = replace(study, results=(replace(first, epochs=epochs), *study.results[1:]))
        a = row(summed(lost), "a")
        assert (a.metric, a.finished, a.ended) == (pytest.approx(1.65), 2, 3)
        assert a.problem == "1 of 3 runs finished without a metric on the test data that is finite"


def test_the_best_trial_is_judged_with_its_settings():
    study = studies.study(["adam", "sgd"], trials=8)
    trials = study.tuning("blobs", "adam")
    best = max(trials, key=lambda r: r.epochs[-1].metric)
    adam = row(summed(study), "adam")
    assert adam.trial == best.run.trial != 0
    assert adam.settings == best.settings
    assert list(adam.searched) == ["lr", "beta1", "beta2"]
    assert adam.searched["lr"] == best.settings["lr"]
    assert (adam.trials, adam.trials_finished, adam.finished) == (8, 8, 3)
    judged = study.judging("blobs", "adam")
    assert adam.metric == pytest.approx(fmean(r.epochs[-1].test for r in judged))  # pyright: ignore


def test_state_and_memory_are_the_most_of_any_run():
    study = studies.outcomes({"a": [0.1, 0.2]})
    first, second = study.results
    more = replace(second, state_bytes=16.0, memory=10**10)
    a = summed(replace(study, results=(first, more))).rows[0]
    assert (a.state_bytes, a.memory) == (16, 10**10)
    none = [replace(r, state_bytes=None, memory=None) for r in study.results]
    a = summed(replace(study, results=tuple(none))).rows[0]
    assert (a.state_bytes, a.memory) == (None, None)


def test_stars_are_those_of_the_table_beside_the_book():
    good, bad = [0.9, 0.91, 0.92], [0.1] * 3
    finals = {"adam": good, "sgd:lr=0.1": good, "adagrad": bad, "rprop": ["nan"] * 3}
    summary = summed(studies.outcomes({**finals, "l2+adagrad": bad, "adagrad+decay": bad}))
    stars = {r.optimizer: (r.speed_stars, r.quality_stars, r.book) for r in summary.rows}
    assert stars == {
        "adam": (3, 3, (3, 2, 3)),
        "sgd:lr=0.1": (3, 3, (1, 3, 3)),
        "adagrad": (1, 2, (3, 1, 1)),
        "l2+adagrad": (1, 2, None),
        "adagrad+decay": (1, 2, None),
        "rprop": (None, None, None),
    }


def test_an_optimizer_given_as_an_object_has_no_stars_of_the_book():
    study = studies.outcomes({"a": [0.1] * 3, "adam": [0.2] * 3})
    own = Contestant("a", None, {}, ({},))
    plan = replace(study.plan, contestants=(own, study.plan.contestants[1]))
    from thalweg.rules import OPTIMIZERS

    plan = replace(plan, rules={"a": OPTIMIZERS["sgd"]})
    assert row(summed(replace(study, plan=plan)), "a").book is None


def test_each_task_has_a_summary_of_its_own():
    study = studies.study(tasks=("x", "y"))
    x, y = summaries(study)
    assert (x.task, x.facts.name, y.task) == ("x", "x", "y")
    assert x.rows[0].metric != y.rows[0].metric
    alone = replace(study, results=tuple(r for r in study.results if r.run.task == "x"))
    assert summarize(alone, "x") == x
    assert summarize(alone, "y").rows[0].ended == 0


def test_a_study_is_summed_up_once():
    study = studies.study()
    assert summed(study) is summed(study)
    fewer = replace(study, results=study.results[:-1])
    assert summed(fewer) != summed(study)


def test_worst_is_that_of_all_finished_runs_of_the_task():
    study = studies.study(trials=4, tasks=("x", "y"))
    ends = [r.epochs[-1].metric for r in study.results if r.run.task == "x"]
    assert summarize(study, "x").worst == min(ends)
    down = studies.study(trials=4, higher=False)
    assert summed(down).worst == max(r.epochs[-1].metric for r in down.results)


def test_one_that_scatters_widely_is_judged_by_itself():
    random = np.random.default_rng(3)
    finals = {f"o{i}": (0.9 - 0.03 * i + random.normal(0, 0.005, 5)).tolist() for i in range(5)}
    calm = summed(studies.outcomes(finals))
    wild = [0.89, 0.91, 0.1, 0.9, 0.88]
    summary = summed(studies.outcomes({**finals, "wild": wild}))
    # It widens nobody else's interval.
    intervals = [(r.low, r.high) for r in summary.rows if r.optimizer != "wild"]
    assert intervals == [(r.low, r.high) for r in calm.rows]
    last = summary.rows[-1]
    leader = np.array(finals[summary.rows[0].optimizer])
    test = stats.ttest_rel(leader, np.array(wild)).confidence_interval(1 - 0.05 / 15)
    assert (last.optimizer, last.ties, last.seeds_needed) == ("wild", False, None)
    assert (last.low, last.high) == pytest.approx((test.low, test.high))
    # Clearly worse it is where it is so beside its own noise.
    worse = summed(studies.outcomes({**finals, "wild": [0.2, 0.1, 0.3, 0.2, 0.15]})).rows[-1]
    assert worse.optimizer == "wild"
    assert worse.low is not None
    assert worse.low > 0


def test_a_leader_that_scatters_widely_is_judged_with_all():
    finals = {
        "wild": [0.95, 0.99, 0.5, 0.99, 0.99],
        "a": [0.8, 0.801, 0.802, 0.8, 0.801],
        "b": [0.7, 0.701, 0.7, 0.702, 0.701],
        "c": [0.6, 0.6, 0.601, 0.602, 0.6],
    }
    summary = summed(studies.outcomes(finals))
    assert summary.rows[0].optimizer == "wild"
    assert row(summary, "a").ties
    contest = compare(list(finals.values()))
    assert row(summary, "a").low == pytest.approx(contest.low[0, 1])
