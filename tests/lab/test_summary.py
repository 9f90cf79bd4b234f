"""What the table and the verdict say, on results whose truth is known."""

import math
from collections.abc import Mapping, Sequence
from itertools import count
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from thalweg.lab.plan import Plan, Run
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.lab.summary import Row, Summary, summarize
from thalweg.training import Record

LOST: dict[str, Status] = {"nan": "diverged", "boom": "failed"}
Outcome = float | str


def result(optimizer: str, seed: int, outcome: Outcome) -> Result:
    """A run of two epochs that ends with a metric, or with a problem after one epoch."""
    if isinstance(outcome, str):
        return Result(Run(optimizer, seed), LOST[outcome], outcome, (epoch(1, 0.1),), {})
    return Result(Run(optimizer, seed), "finished", "", (epoch(1, 0.1), epoch(2, outcome)), {})


def epoch(number: int, metric: float, seconds: float | None = None, steps: int = 10) -> Record:
    took = 0.5 * number if seconds is None else seconds
    return Record(number, steps * number, 2 * metric, 3.0, metric, took)


def study(
    outcomes: Mapping[str, Sequence[Outcome]],
    higher: bool = True,
    target: float | None = None,
    seeds: int | None = None,
    epochs: int = 2,
) -> Study:
    """One outcome per seed for each optimizer."""
    planned = seeds or max(len(o) for o in outcomes.values())
    plan = Plan("t", tuple(outcomes), "paper", None, epochs, 8, tuple(range(planned)), target)
    results = [
        result(name, seed, outcome)
        for name, of_seeds in outcomes.items()
        for seed, outcome in enumerate(of_seeds)
    ]
    return Study(plan, TaskFacts("blobs", "", "score", higher, epochs, 8, None), tuple(results), {})


def order(summary: Summary) -> list[str]:
    return [r.optimizer for r in summary.rows]


def row(summary: Summary, optimizer: str) -> Row:
    return next(r for r in summary.rows if r.optimizer == optimizer)


# Seeds differ much more than optimizers do, which only pairing sees through.
HARD = np.array([0.5, 0.9, 0.7, 0.6])
CLEAR = {
    "worst": (HARD - np.array([0.19, 0.21, 0.2, 0.2])).tolist(),
    "best": HARD.tolist(),
    "close": (HARD - np.array([-0.01, 0.02, -0.005, 0.004])).tolist(),
    "middle": (HARD - np.array([0.1, 0.09, 0.11, 0.098])).tolist(),
}


@pytest.mark.parametrize("higher", [True, False])
def test_best_comes_first(higher: bool):
    sign = 1 if higher else -1
    summary = summarize(study({o: [sign * m for m in ms] for o, ms in CLEAR.items()}, higher))
    assert order(summary) == ["best", "close", "middle", "worst"]
    assert [r.ties for r in summary.rows] == [False, True, False, False]
    best = summary.rows[0]
    assert best.metric == pytest.approx(sign * 0.675)
    assert best.metric_spread == pytest.approx(stdev(HARD))
    assert best.train_loss == pytest.approx(sign * 1.35)
    assert (best.difference, best.margin) == (None, None)


@pytest.mark.parametrize("higher", [True, False])
def test_differences_are_those_of_a_paired_t_test(higher: bool):
    generator = np.random.default_rng(0)
    outcomes = {f"o{i}": (generator.normal(0, 1, 5) + 0.3 * i).tolist() for i in range(8)}
    summary = summarize(study(outcomes, higher))
    leader = np.array(outcomes[order(summary)[0]])
    ties = 0
    for r in summary.rows[1:]:
        mine = np.array(outcomes[r.optimizer])
        test = stats.ttest_rel(leader, mine) if higher else stats.ttest_rel(mine, leader)
        low, high = test.confidence_interval(0.95)
        assert r.difference is not None
        assert r.margin is not None
        assert r.difference - r.margin == pytest.approx(low)
        assert r.difference + r.margin == pytest.approx(high)
        assert r.ties == (test.pvalue >= 0.05)
        ties += r.ties
    assert 0 < ties < 7


def test_pairs_are_those_of_the_same_seed_whatever_order_runs_ended_in():
    whole = study(CLEAR)
    turned = Study(whole.plan, whole.task, whole.results[::-1], {})
    assert summarize(turned).rows == summarize(whole).rows


def test_only_seeds_that_both_finished_are_compared():
    outcomes = {"a": [1.0, 2.0, 3.0, 2.5, "nan"], "b": ["boom", 1.5, 2.75, 2.6, 9.0]}
    summary = summarize(study(outcomes))
    # Over its own seeds b is better.
    assert order(summary) == ["b", "a"]
    a = row(summary, "a")
    assert a.difference == pytest.approx(fmean([1.5 - 2, 2.75 - 3, 2.6 - 2.5]))
    test = stats.ttest_rel([1.5, 2.75, 2.6], [2.0, 3.0, 2.5]).confidence_interval(0.95)
    assert a.margin == pytest.approx((test.high - test.low) / 2)
    assert row(summary, "b").metric == pytest.approx(fmean([1.5, 2.75, 2.6, 9]))


def test_one_shared_seed_has_a_difference_without_a_margin():
    summary = summarize(study({"a": [1.0, 2.0, "nan"], "b": ["nan", 1.5, 1.5]}))
    b = row(summary, "b")
    assert (b.difference, b.margin, b.ties) == (pytest.approx(0.5), None, False)


def test_no_shared_seed_has_no_difference():
    b = row(summarize(study({"a": [1.0, "nan"], "b": ["nan", 0.5]})), "b")
    assert (b.difference, b.margin, b.ties) == (None, None, False)


def test_who_did_better_on_the_shared_seeds_neither_ties_nor_is_beaten():
    # a leads for the seed that b lost, and is behind wherever both finished.
    outcomes = {"a": [1.0, 1.1, 1.2, 9.0], "b": [2.0, 2.11, 2.19, "nan"]}
    summary = summarize(study(outcomes))
    assert order(summary) == ["a", "b"]
    b = row(summary, "b")
    assert b.difference is not None
    assert b.margin is not None
    assert b.difference < -b.margin < 0
    assert not b.ties
    assert "beat" not in summary.verdict
    assert "is best" not in summary.verdict
    assert "b did better than a over the seeds that both finished" in summary.verdict


def test_identical_optimizers_tie_without_a_margin_of_error():
    summary = summarize(study({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}))
    assert order(summary) == ["a", "b"]
    assert (summary.rows[1].difference, summary.rows[1].margin) == (0.0, 0.0)
    assert summary.rows[1].ties


def test_runs_that_did_not_finish_are_counted_and_explained():
    summary = summarize(study({"a": [1.0, "nan", "nan", "boom"], "b": ["boom"] * 4, "c": [0.5]}))
    assert order(summary) == ["a", "c", "b"]
    a, c, b = summary.rows
    assert [(r.finished, r.ended) for r in summary.rows] == [(1, 4), (1, 1), (0, 4)]
    assert a.problem == "diverged: nan; failed: boom"
    assert a.metric == 1.0
    assert a.metric_spread is None
    assert b.problem == "failed: boom"
    assert c.problem == ""
    nothing = (b.metric, b.train_loss, b.metric_spread, b.epochs_to_target, b.difference, b.margin)
    assert nothing == (None,) * 6
    assert not b.ties


def test_no_finished_run():
    summary = summarize(study({"a": ["nan"], "b": ["boom"]}))
    assert order(summary) == ["a", "b"]
    assert summary.target is None
    assert summary.verdict == "No run finished, so there is nothing to compare."
    assert summary.detail == ""


def test_no_run_has_ended():
    summary = summarize(study({"a": [], "b": []}, seeds=2))
    assert [(r.optimizer, r.ended, r.seconds_per_step) for r in summary.rows] == [
        ("a", 0, None),
        ("b", 0, None),
    ]


def curves(*metrics: Sequence[float], pace: float = 1.0) -> list[Result]:
    """A finished run of optimizer a for each list of metrics, `pace` seconds an epoch."""
    return [
        Result(
            Run("a", seed),
            "finished",
            "",
            tuple(epoch(n, m, seconds=pace * n * (1 + seed)) for n, m in enumerate(ms, 1)),
            {},
        )
        for seed, ms in enumerate(metrics)
    ]


def reached(results: list[Result], target: float | None, higher: bool = True) -> Row:
    plan = Plan("t", ("a",), "paper", None, 3, 8, tuple(range(len(results))), target)
    facts = TaskFacts("blobs", "", "score", higher, 3, 8, None)
    return summarize(Study(plan, facts, tuple(results), {})).rows[0]


def test_epochs_and_seconds_to_target_are_those_of_the_median_run():
    # Reached in epochs 1, 3 and 2; an epoch takes 1, 2 and 3 seconds.
    r = reached(curves([0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.1, 0.9, 0.9]), 0.9)
    assert (r.epochs_to_target, r.seconds_to_target) == (2, 6.0)
    r = reached(curves([0.5, 0.3, 0.1], [0.5, 0.1, 0.3]), 0.3, higher=False)
    assert (r.epochs_to_target, r.seconds_to_target) == (2, pytest.approx(3.0))


def test_target_that_most_runs_reach():
    r = reached(curves([0.9] * 3, [0.1] * 3, [0.1, 0.9, 0.1]), 0.9)
    assert (r.epochs_to_target, r.seconds_to_target) == (2, 6.0)


@pytest.mark.parametrize("metrics", [[[0.1] * 3], [[0.9] * 3, [0.1] * 3]])
def test_target_that_half_of_the_runs_or_none_reach(metrics: list[list[float]]):
    r = reached(curves(*metrics), 0.9)
    assert (r.epochs_to_target, r.seconds_to_target) == (None, None)


def test_target_is_the_median_of_what_optimizers_end_with_unless_given():
    outcomes = {"a": [0.2, 0.4], "b": [0.5, 0.5], "c": [0.9, 0.9], "d": ["nan", "nan"]}
    summary = summarize(study(outcomes))
    assert summary.target == pytest.approx(0.5)
    assert [r.epochs_to_target for r in summary.rows] == [2, 2, None, None]
    assert summarize(study(outcomes | {"d": [0.7, 0.7]})).target == pytest.approx(0.6)
    assert summarize(study(outcomes, target=0.05)).target == 0.05
    assert row(summarize(study(outcomes, target=0.05)), "a").epochs_to_target == 1
    # A target of 0 is one.
    assert summarize(study({"a": [0.5]}, higher=False, target=0.0)).target == 0.0


def test_seconds_per_step_are_the_median_over_all_epochs():
    # The first epoch compiles; a run that diverged has a pace as well.
    first = Result(Run("a", 0), "finished", "", tuple(curve([9.0, 1.0, 1.2])), {})
    second = Result(Run("a", 1), "diverged", "nan", tuple(curve([8.0, 1.4])), {})
    r = reached([first, second], None)
    assert r.seconds_per_step == pytest.approx(1.4 / 10)
    assert reached([Result(Run("a", 0), "failed", "boom", (), {})], None).seconds_per_step is None


def curve(seconds: Sequence[float]) -> list[Record]:
    return [epoch(n, 0.5, seconds=math.fsum(seconds[:n])) for n in range(1, len(seconds) + 1)]


# What the verdict says:


def test_clear_winner():
    outcomes = {o: ms for o, ms in CLEAR.items() if o != "close"}
    summary = summarize(study(outcomes))
    assert summary.headline == "best is best on blobs after 2 epochs: score 0.675."
    assert summary.detail.startswith(
        "best beats middle and worst over 4 seeds (95% intervals of the difference, paired by "
        "seed, not corrected for 2 comparisons). Each ran at one setting"
    )
    assert "tie" not in summary.verdict
    assert summary.verdict == f"{summary.headline} {summary.detail}"


def test_one_comparison_needs_no_correction():
    said = summarize(study({"a": [1.0, 2.0, 3.0], "b": [0.5, 1.51, 2.5]})).detail
    assert "a beats b over 3 seeds" in said
    assert "corrected" not in said


def test_of_two_seeds_nothing_is_said():
    summary = summarize(study({"a": [0.9, 0.91], "b": [0.2, 0.5]}))
    assert row(summary, "b").margin is None
    assert not row(summary, "b").ties
    assert "tie" not in summary.verdict
    assert "With two seeds, differences may be luck" in summary.detail


def test_tie():
    summary = summarize(study(CLEAR))
    assert summary.headline == (
        "best and close tie for best on blobs after 2 epochs: score 0.675 to 0.6727."
    )
    assert "best could not be told apart from close; best beats middle and worst" in summary.detail
    assert "not corrected for 3 comparisons" in summary.detail
    assert "More seeds may show a difference." in summary.detail
    assert "is best" not in summary.verdict


def test_tie_of_equal_numbers_names_one():
    assert summarize(study({"a": [0.1, 0.2, 0.15], "b": [0.1, 0.2, 0.15]})).headline == (
        "a and b tie for best on blobs after 2 epochs: score 0.15."
    )


def test_many_ties_and_many_losers_are_counted_in_short_sentences():
    generator = np.random.default_rng(1)
    equal = {f"e{i}": (0.9 + generator.normal(0, 0.01, 5)).tolist() for i in range(6)}
    bad = {f"b{i}": (0.1 + generator.normal(0, 0.01, 5)).tolist() for i in range(5)}
    summary = summarize(study(equal | bad))
    assert [r.ties for r in summary.rows] == [False, *[True] * 5, *[False] * 5]
    leader = summary.rows[0].optimizer
    assert summary.headline.startswith(f"{leader} and 5 others tie for best on blobs")
    for r in summary.rows[1:6]:
        assert r.optimizer in summary.detail
    assert f"{leader} beats 5 others over 5 seeds" in summary.detail


def test_one_seed_says_that_it_may_be_luck():
    summary = summarize(study({"a": [0.9], "b": [0.1]}))
    assert summary.headline == "a has the best score on blobs after 2 epochs: 0.9."
    assert summary.detail.startswith("With one seed, differences may be luck: run more seeds.")
    assert "beats" not in summary.verdict
    assert "interval" not in summary.verdict


def test_one_finished_seed_of_several_says_so_too():
    summary = summarize(study({"a": [0.9, 0.8, "nan"], "b": [0.1, 0.2, 0.3]}))
    assert "is best" not in summary.verdict
    assert "beats" not in summary.verdict
    assert "With one seed," not in summary.detail
    assert "fewer than three seeds that a and another share, differences may be luck" in (
        summary.detail
    )
    assert "But only 2 of the 3 runs of a finished" in summary.detail


def test_optimizers_that_cannot_be_compared_are_not_beaten():
    outcomes: dict[str, list[Outcome]] = {
        "a": [0.9, 0.8, 0.7],
        "b": [0.5, 0.41, 0.3],
        "c": [0.1, "nan", "nan"],
        "d": ["boom", "boom", "boom"],
    }
    summary = summarize(study(outcomes))
    assert summary.headline == "a has the best score on blobs after 2 epochs: 0.8."
    assert "a beats b over 3 seeds (95% intervals of the difference, paired by seed)." in (
        summary.detail
    )
    assert "With fewer than three finished seeds in common, a and c cannot be compared" in (
        summary.detail
    )
    assert "Not every run of c and d finished." in summary.detail


def test_losers_that_never_finished_are_not_beaten():
    summary = summarize(
        study({"a": [0.9, 0.8, 0.7], "b": [0.5, 0.41, 0.3], "c": ["boom", "nan", "boom"]})
    )
    assert summary.headline.startswith("a is best on blobs")
    assert "a beats b over 3 seeds" in summary.detail
    assert "Not every run of c finished." in summary.detail


def test_leader_that_lost_a_run_is_not_called_best():
    summary = summarize(study({"a": [0.9, 0.8, 0.7, "nan"], "b": [0.5, 0.41, 0.3, 0.2]}))
    assert summary.headline.startswith("a has the best score on blobs")
    assert "a beats b over the seeds that both finished" in summary.detail
    assert "But only 3 of the 4 runs of a finished, and it is judged by these alone." in (
        summary.detail
    )


def test_only_one_optimizer_finished():
    summary = summarize(study({"a": [0.9, 0.8], "b": ["boom", "nan"]}))
    assert summary.headline == "Only a finished a run on blobs after 2 epochs: score 0.85."
    assert summary.detail == "Not every run of b finished."


def test_one_optimizer_is_not_the_best_of_anything():
    summary = summarize(study({"a": [0.9, 0.8]}))
    assert summary.verdict == "a comes to score 0.85 on blobs after 2 epochs."


def test_one_epoch_is_singular():
    assert "after 1 epoch:" in summarize(study({"a": [1.0], "b": [0.5]}, epochs=1)).headline


@pytest.mark.parametrize("seed", range(40))
def test_verdict_claims_no_more_than_the_table(seed: int):
    """Whatever runs there are, who is said to be beaten is, and who ties is not called worse."""
    generator = np.random.default_rng(seed)
    seeds = int(generator.integers(1, 5))
    names = (f"o{i}" for i in count())
    outcomes: dict[str, list[Outcome]] = {
        next(names): [
            str(generator.choice(["nan", "boom"]))
            if generator.random() < 0.2
            else float(generator.normal(0, 0.1) + mean)
            for _ in range(seeds)
        ]
        for mean in generator.normal(0, 0.3, int(generator.integers(1, 6)))
    }
    summary = summarize(study(outcomes, higher=bool(seed % 2)))
    best, *others = summary.rows
    beaten = [
        r
        for r in others
        if r.margin is not None and r.difference is not None and r.difference > r.margin
    ]
    shown = [r for r in others if r.metric is not None]
    whole = best.finished == best.ended
    assert ("is best" in summary.headline) == (bool(shown) and whole and beaten == shown)
    assert ("tie for best" in summary.headline) == any(r.ties for r in others)
    assert ("beats" in summary.detail) == bool(beaten)
    assert ("luck" in summary.detail) == (bool(shown) and all(r.margin is None for r in shown))
    assert summary.headline.endswith(".")
    assert len(summary.verdict) < 700
