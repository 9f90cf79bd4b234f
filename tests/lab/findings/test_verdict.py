"""What is said of results whose truth is known: enough, and no more than they show."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from lab import studies
from thalweg.lab.findings.judging import judge
from thalweg.lab.findings.summary import Summary, summarize
from thalweg.lab.findings.verdict import detail
from thalweg.lab.findings.words import Findings
from thalweg.lab.space import Range
from thalweg.lab.study import Study

BEST = np.array([0.5, 0.9, 0.7, 0.6])
CLEAR = {
    "worst": (BEST - np.array([0.19, 0.21, 0.2, 0.2])).tolist(),
    "best": BEST.tolist(),
    "middle": (BEST - np.array([0.1, 0.09, 0.11, 0.098])).tolist(),
}
CLOSE = {"close": (BEST - np.array([-0.01, 0.02, -0.005, 0.004])).tolist()}


def said(study: Study) -> Summary:
    return summarize(study, study.plan.tasks[0].spec)


def test_clear_winner():
    summary = said(studies.outcomes(CLEAR, has_test=True))
    assert summary.headline == (
        "best is best on blobs (2 epochs, one setting each, 4 seeds): test score 1.675."
    )
    middle = summary.rows[1]
    assert summary.detail.startswith(
        "best beats middle and worst: middle is nearest, 0.099 behind (95% interval "
        f"{middle.low:.2g} to {middle.high:.2g}, paired by seed and corrected for all pairs). "
        "From seed to seed a result scatters by 0.17 (standard deviation)."
    )
    assert "tie" not in summary.verdict
    assert summary.verdict == f"{summary.headline} {summary.detail}"


def test_two_need_no_correction():
    summary = said(studies.outcomes({"a": [1.0, 2.0, 3.0], "b": [0.5, 1.51, 2.5]}))
    assert "a beats b: it is 0.5 behind (95% interval 0.48 to 0.51, paired by seed)." in (
        summary.detail
    )


def test_no_interval_is_told_that_holds_0_where_the_two_are_told_apart():
    # Step by step more is found than the intervals show, which hold all at once.
    study = studies.outcomes({"a": [1.0, 2.0, 3.0], "b": [0.5, 1.51, 2.5]})
    first, second = said(study).rows
    rows = [first, replace(second, low=-0.01)]
    told = detail(Findings(study, "blobs", rows, judge(study, "blobs"), {}))
    assert told.startswith("a beats b: it is 0.5 behind. From seed")


def test_tie():
    summary = said(studies.outcomes(CLEAR | CLOSE, has_test=True))
    assert summary.headline == (
        "best and close tie for best on blobs (2 epochs, one setting each, 4 seeds): test score "
        "1.675 to 1.673."
    )
    needed = summary.rows[1].seeds_needed
    assert needed is not None
    assert (
        f"about {float(f'{needed:.2g}'):.0f} more seeds would show the 0.0022, if it is real"
        in (summary.detail)
    )
    assert "No difference was found between them;" in summary.detail
    assert "best beats middle and worst: middle is nearest" in summary.detail
    assert "is best" not in summary.verdict


def test_tie_of_equal_numbers_names_one_and_asks_for_no_seeds():
    summary = said(studies.outcomes({"a": [0.1, 0.2, 0.15], "b": [0.1, 0.2, 0.15]}))
    assert summary.headline == (
        "a and b tie for best on blobs (2 epochs, one setting each, 3 seeds): validation score "
        "0.15."
    )
    assert "No difference was found between them." in summary.detail


def test_many_ties_and_many_losers_are_told_in_short_sentences():
    random = np.random.default_rng(1)
    equal = {f"e{i}": (0.9 + random.normal(0, 0.01, 5)).tolist() for i in range(6)}
    bad = {f"b{i}": (0.1 + random.normal(0, 0.01, 5)).tolist() for i in range(5)}
    summary = said(studies.outcomes(equal | bad))
    leader, *others = [r.optimizer for r in summary.rows[:6]]
    assert summary.headline.startswith(f"{leader} and 5 others tie for best on blobs")
    assert f"No difference was found between {leader} and {', '.join(others[:-1])} and" in (
        summary.detail
    )
    assert f"{leader} beats 5 others: " in summary.detail


def test_who_is_not_among_many_is_named_where_these_are_few():
    random = np.random.default_rng(1)
    equal = {f"e{i}": (0.9 + random.normal(0, 0.01, 5)).tolist() for i in range(7)}
    assert said(studies.outcomes(equal)).headline.startswith("All 7 optimizers tie for best on")
    summary = said(studies.outcomes({**equal, "bad": [0.1, 0.11, 0.12, 0.1, 0.09]}))
    assert "and all others but bad tie for best" in summary.headline
    assert "and any of these; about" in summary.detail


def test_who_scatters_widely_is_no_tie_in_words():
    random = np.random.default_rng(2)
    equal = {f"e{i}": (0.9 + random.normal(0, 0.01, 5)).tolist() for i in range(6)}
    summary = said(studies.outcomes({**equal, "wild": [0.89, 0.9, 0.1, 0.88, 0.9]}))
    assert "and all others but wild tie for best" in summary.headline
    assert "beats" not in summary.detail
    assert "wild (0.35) scatters too widely from seed to seed to be told apart from" in (
        summary.detail
    )


def test_one_seed_has_no_interval_and_says_why():
    summary = said(studies.outcomes({"a": [0.9], "b": [0.1]}, has_test=True))
    assert summary.headline == (
        "a has the best test score on blobs (2 epochs, one setting each, 1 seed): 1.9."
    )
    assert summary.detail.startswith(
        "One seed gives no interval: how far results scatter by chance cannot be seen from it, so "
        "that any difference may be luck. Run at least three, better five."
    )
    assert "beats" not in summary.verdict


def test_two_seeds_have_no_interval_and_say_why():
    summary = said(studies.outcomes({"a": [0.9, 0.91], "b": [0.2, 0.5]}))
    assert summary.headline.startswith("a has the best validation score")
    assert (
        "Two seeds give no interval: it would reach 13 standard errors to each side, so that"
        in (summary.detail)
    )
    assert "tie" not in summary.verdict
    assert "beats" not in summary.verdict


def test_one_optimizer_is_not_the_best_of_anything():
    summary = said(studies.outcomes({"a": [0.9, 0.8, 0.7]}, has_test=True))
    assert summary.verdict == (
        "a comes to test score 1.8 on blobs (2 epochs, one setting each, 3 seeds). From seed to "
        "seed a result scatters by 0.1 (standard deviation)."
    )
    alone = said(studies.outcomes({"a": [0.9]}, has_test=True))
    assert alone.detail == (
        "One seed gives no interval: how far results scatter by chance cannot be seen from it. "
        "Run at least three, better five."
    )


def test_a_constant_metric_tells_nothing_apart():
    summary = said(
        studies.outcomes({"a": [0.1] * 3, "b": [0.1] * 3, "c": ["nan"] * 3}, has_test=True)
    )
    assert summary.headline == (
        "All finished runs on blobs (2 epochs, one setting each, 3 seeds) have the same test score "
        "1.1: nothing tells optimizers apart."
    )
    assert "its metric does not depend on the model." in summary.detail
    assert "tie" not in summary.verdict
    assert "c: all 3 runs diverged: nan." in summary.detail
    assert (
        "nothing tells"
        not in said(studies.outcomes({"a": [0.1, 0.2, 0.1], "b": [0.1] * 3})).verdict
    )


def test_few_shared_seeds_are_too_few():
    finals = {
        "a": [0.9, 0.8, 0.7],
        "b": [0.5, 0.41, 0.3],
        "c": [0.1, "nan", "nan"],
        "d": ["boom", "boom", "boom"],
    }
    summary = said(studies.outcomes(finals))
    assert summary.headline.startswith("a has the best validation score on blobs")
    assert "a shares fewer than three finished seeds with c: too few to tell them apart." in (
        summary.detail
    )
    assert "a beats b: it is 0.4 behind" in summary.detail
    assert "c: 2 of 3 runs diverged: nan; it is judged by the others." in summary.detail
    assert "d: all 3 runs failed: boom." in summary.detail


def test_losers_that_never_finished_do_not_spoil_it():
    finals = {"a": [0.9, 0.8, 0.7], "b": [0.5, 0.41, 0.3], "c": ["boom", "nan", "boom"]}
    summary = said(studies.outcomes(finals))
    assert summary.headline.startswith("a is best on blobs")
    assert "c: 2 of 3 runs failed: boom; 1 of 3 runs diverged: nan." in summary.detail


def test_leader_that_lost_a_run_is_not_called_best():
    summary = said(studies.outcomes({"a": [0.9, 0.8, 0.7, "nan"], "b": [0.5, 0.41, 0.3, 0.2]}))
    assert summary.headline.startswith("a has the best validation score on blobs")
    assert "a: 1 of 4 runs diverged: nan; it is judged by the others." in summary.detail


def test_who_did_better_on_the_shared_seeds_is_not_beaten():
    finals = {"a": [1.0, 1.1, 1.2, 9.0], "b": [2.0, 2.11, 2.19, "nan"]}
    summary = said(studies.outcomes(finals))
    assert "beat" not in summary.verdict
    assert "is best" not in summary.verdict
    assert "b did better than a on the seeds that both finished." in summary.detail


def test_only_one_optimizer_finished():
    summary = said(
        studies.outcomes({"a": [0.9, 0.8, 0.7], "b": ["boom", "nan", "nan"]}, has_test=True)
    )
    assert summary.headline == (
        "Only a has finished a judged run on blobs (2 epochs, one setting each, 3 seeds): test "
        "score 1.8."
    )
    assert "b: 1 of 3 runs failed: boom; 2 of 3 runs diverged: nan." in summary.detail


def test_no_run_finished():
    summary = said(studies.outcomes({"a": ["nan"] * 2, "b": ["boom"] * 2}))
    assert summary.verdict == (
        "No run on blobs finished, so there is nothing to compare. a: all 2 runs diverged: nan. b: "
        "all 2 runs failed: boom."
    )


def test_of_many_that_did_not_finish_two_are_told():
    finals = {"a": [0.9] * 3, **{f"l{i}": ["nan"] * 3 for i in range(5)}}
    detail = said(studies.outcomes(finals)).detail
    assert detail.count("all 3 runs diverged") == 2
    assert "No run of l2, l3 and l4 finished either." in detail


def test_nothing_has_ended_yet():
    assert said(studies.outcomes({"a": [], "b": []}, seeds=2)).verdict == (
        "On blobs no run has ended yet."
    )
    trials = studies.without(studies.study(trials=4), lambda r: r.trial > 1 or r.seed > 0)
    assert said(trials).verdict == (
        "On blobs no optimizer has been judged yet. 10 of 14 runs are still to come; 2 of 2 "
        "optimizers are not judged yet."
    )


def test_what_is_missing_is_counted():
    whole = studies.study({"adam": 0.9, "sgd": 0.8, "nag": 0.7}, trials=4, seeds=4)
    assert "still to come" not in said(whole).verdict
    part = studies.without(whole, lambda r: r.optimizer == "nag" and (r.trial > 2 or r.seed > 0))
    summary = said(part)
    assert summary.headline.startswith("So far, adam is best on blobs (5 epochs, 4 trials each")
    assert summary.detail.endswith(
        "5 of 24 runs are still to come; 1 of 3 optimizers are not judged yet."
    )
    fewer = said(studies.without(whole, lambda r: r.seed == 4))
    assert fewer.headline.startswith("So far, adam is best")
    assert fewer.detail.endswith("3 of 24 runs are still to come.")


def test_runs_that_can_never_be_are_not_awaited():
    whole = studies.study({"adam": 0.9, "sgd": 0.8}, trials=2)
    lost = [
        replace(r, status="failed", reason="boom") if r.run.optimizer == "sgd" else r
        for r in whole.results
        if r.run.optimizer != "sgd" or r.run.seed == 0
    ]
    summary = said(replace(whole, results=tuple(lost)))
    assert summary.headline.startswith("Only adam has finished a judged run")
    assert "still to come" not in summary.detail
    assert "sgd: all 2 trials failed: boom." in summary.detail


def test_without_test_data_it_is_said_what_judges():
    untested = said(studies.study(trials=4, has_test=False)).detail
    assert (
        "The task has no test data: the validation data judge, by which the settings were chosen, "
        "and so flatter."
    ) in untested
    untuned = said(studies.study(has_test=False)).detail
    assert "The task has no test data: the validation data judge." in untuned
    assert "No setting was tuned: after tuning, another may be best." in untuned
    assert "test data" not in said(studies.study(trials=4)).detail
    assert "tuned" not in said(studies.study(trials=4)).detail


def test_trials_are_told():
    assert "(5 epochs, 4 trials each, 3 seeds)" in said(studies.study(trials=4)).headline
    mixed = said(studies.study(["adam", "sgd:lr=0.1"], trials=4))
    assert "(5 epochs, up to 4 trials each, 3 seeds)" in mixed.headline
    assert "(5 epochs, one setting each, 3 seeds)" in said(studies.study()).headline


def budgeted(defaults: dict[str, float], others: dict[str, float]) -> Study:
    """A study of 8 trials whose defaults are worth one number and all the other trials another."""
    study = studies.study(list(defaults), trials=8, seeds=4)

    def final(run: object) -> float:
        of = defaults if run.trial == 0 else others  # pyright: ignore
        return of[run.optimizer] + 0.001 * (run.seed % 2)  # pyright: ignore

    return studies.made(study.plan, final)  # pyright: ignore


def test_a_small_budget_is_told_where_its_answer_is_another():
    other = said(budgeted({"adam": 0.8, "nadam": 0.9}, {"adam": 0.95, "nadam": 0.92}))
    assert other.headline.startswith("adam is best")
    assert (
        "With fewer trials others lead on the validation data: nadam at the defaults."
        in other.detail
    )
    same = said(budgeted({"adam": 0.93, "nadam": 0.9}, {"adam": 0.95, "nadam": 0.92}))
    assert "fewer trials" not in same.detail
    tied = said(budgeted({"adam": 0.93, "nadam": 0.8}, {"adam": 0.95, "nadam": 0.95}))
    assert "tie for best" in tied.headline
    assert (
        "With fewer trials some fall behind on the validation data: nadam at the defaults."
    ) in tied.detail
    # Within the noise of a seed nobody leads.
    near = said(budgeted({"adam": 0.9199, "nadam": 0.92}, {"adam": 0.95, "nadam": 0.92}))
    assert "fewer trials" not in near.detail


def test_best_values_at_the_edge_are_named():
    study = studies.study(["adam"], trials=4)
    [adam] = study.plan.contestants
    chosen = said(study).rows[0].searched["lr"]
    assert "edge" not in said(study).detail
    space = {**adam.space, "lr": Range(float(chosen), 1.0, "log")}  # pyright: ignore
    plan = replace(study.plan, contestants=(replace(adam, space=space),))
    narrow = said(replace(study, plan=plan))
    assert narrow.rows[0].edges == ("lr",)
    assert (
        f"The best lr of adam ({chosen:.3g}) lies at the edge of its range: a wider one may hold a "
        "better."
    ) in narrow.detail


@pytest.mark.parametrize("seed", range(40))
def test_verdict_claims_no_more_than_the_table(seed: int):
    """Whatever runs there are, who is said to be beaten is, and who ties is not called worse."""
    random = np.random.default_rng(seed)
    seeds = int(random.integers(1, 6))
    names = (f"o{i}" for i in count())
    finals: dict[str, list[float | str]] = {
        next(names): [
            str(random.choice(["nan", "boom"]))
            if random.random() < 0.15
            else float(random.normal(0, 0.1) + mean)
            for _ in range(seeds)
        ]
        for mean in random.normal(0, 0.4, int(random.integers(1, 6)))
    }
    summary = said(studies.outcomes(finals, higher=bool(seed % 2)))
    best, *others = summary.rows
    shown = [r for r in others if r.metric is not None]
    wild = [r for r in shown if f"{r.optimizer} (" in summary.detail.partition(" too widely")[0]]
    wild = wild if "too widely" in summary.detail else []
    assert all(r.low is not None and r.high is not None and r.low < 0 < r.high for r in wild)
    apart = [r for r in shown if r.low is not None and not r.ties and r not in wild]
    beaten = [r for r in apart if r.difference is not None and r.difference > 0]
    whole = best.finished == best.ended
    assert ("is best" in summary.headline) == (bool(shown) and whole and beaten == shown)
    tied = [r for r in shown if r.ties]
    assert ("tie for best" in summary.headline) == bool(tied)
    assert ("beats" in summary.detail) == bool(beaten)
    assert ("luck" in summary.detail) == (bool(shown) and seeds < 3)
    assert ("too few" in summary.detail) == (seeds > 2 and any(r.low is None for r in shown))
    assert summary.headline.endswith(".")
    assert ".." not in summary.verdict
    assert len(summary.verdict) < 900
