"""The plan: what is run, with which rule, and that it survives being written down."""

from dataclasses import replace

import pytest

import thalweg as tw
from thalweg.errors import UsageError
from thalweg.lab.contestant import contestant, contestants
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.rules import CONVENTIONS, OPTIMIZERS

DIGITS = TaskPlan("digits", 3, 32)


def made(
    *optimizers: str | tw.Rule, trials: int = 4, lr: float | None = None, **changes: object
) -> Plan:
    found, rules = contestants(optimizers, trials, lr=lr)
    plan = Plan((DIGITS,), found, "paper", trials, (1, 2, 3), lr=lr, rules=rules)
    return replace(plan, **changes)


PLAN = made("sgd:lr=0.1", "adam")


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        made("adam:decay=l2|decoupled", "aggmo:betas=0|0/0.5", "noise+sgd", trials=9),
        made("l2:weight_decay=1e-4+adam", lr=0.1 + 0.2, convention="keras", seeds=()),
        replace(
            PLAN,
            tasks=(TaskPlan("ü b.py:task", 1, "full", float("-inf"), given=True), DIGITS),
            tuning_seed=7,
            reshuffle=False,
            schedule="constant|cosine",
        ),
    ],
)
def test_plan_survives_being_written_down(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash
    assert again.optimizers == plan.optimizers


def test_the_hash_tells_plans_apart() -> None:
    others = [
        made("sgd:lr=0.1", "adam", trials=5),
        made("sgd:lr=0.2", "adam"),
        replace(PLAN, seeds=(1, 2)),
        replace(PLAN, tasks=(replace(DIGITS, epochs=4),)),
    ]
    assert len({PLAN.hash, *(plan.hash for plan in others)}) == 5


def test_trials_run_on_one_seed_and_the_chosen_one_on_others() -> None:
    assert PLAN.tuning("digits", "adam") == [Run("digits", "adam", i, 0) for i in range(4)]
    assert PLAN.judging("digits", "adam", 2) == [Run("digits", "adam", 2, s) for s in (1, 2, 3)]


def test_what_has_nothing_to_search_is_judged_at_once() -> None:
    assert PLAN.trials_of("sgd:lr=0.1") == 1
    assert PLAN.tuning("digits", "sgd:lr=0.1") == []
    assert PLAN.size == 4 + 2 * 3
    assert replace(PLAN, tasks=(DIGITS, replace(DIGITS, spec="mnist"))).size == 20


def test_the_test_data_are_for_judging_only() -> None:
    assert not PLAN.order(Run("digits", "adam", 1, 0)).test
    assert PLAN.order(Run("digits", "adam", 1, 2)).test


def test_an_order_holds_all_of_a_run() -> None:
    plan = made("adam:schedule=cosine:decay=l2")
    run = Run("digits", plan.optimizers[0], 3, 0)
    order = plan.order(run)
    configuration = plan.contestants[0].configurations[3]
    assert order.run == run
    assert (order.epochs, order.batch_size, order.reshuffle) == (3, 32, True)
    assert order.schedule == "cosine"
    assert order.extra == {"schedule": "cosine", "decay": "l2"}
    hypers = order.rule.settings(order.convention).hypers
    for name in ("lr", "beta1", "beta2", "weight_decay"):
        assert hypers[name] == configuration[name]


def test_noise_differs_from_seed_to_seed_unless_it_is_given() -> None:
    plan = made("noise+adam", "noise:seed=5+adam", "adam")

    def seed(optimizer: str, run: int) -> object:
        return plan.order(Run("digits", optimizer, 0, run)).rule.settings().hypers.get("seed")

    assert [seed("noise+adam", s) for s in (0, 1, 7)] == [0, 1, 7]
    assert [seed("noise:seed=5+adam", s) for s in (0, 7)] == [5, 5]
    assert seed("adam", 3) is None


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_first_trial_has_the_conventions_defaults(convention: str) -> None:
    plan = made(*OPTIMIZERS, trials=2, convention=convention)
    plan.check()
    for name, rule in OPTIMIZERS.items():
        order = plan.order(Run("digits", name, 0, 1))
        assert order.rule.settings(order.convention) == rule.settings(convention)


def test_every_optimizer_takes_the_plans_learning_rate() -> None:
    plan = made(*OPTIMIZERS, lr=0.125)
    for name in OPTIMIZERS:
        for trial in range(plan.trials_of(name)):
            rule = plan.order(Run("digits", name, trial, 1)).rule
            assert rule.settings().hypers["lr"] == 0.125


def test_names_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="Did you mean adam"):
        PLAN.contestant("adm")
    with pytest.raises(UsageError, match="'jax'"):
        replace(PLAN, convention="jax").check()


def test_an_extended_plan_holds_all_runs_of_the_old_one() -> None:
    larger = PLAN.extended(["radam", "adam"], trials=9, seeds=5)
    assert larger.optimizers == ("sgd:lr=0.1", "adam", "radam")
    assert (larger.trials, larger.seeds) == (9, (1, 2, 3, 4, 5))
    for old in PLAN.contestants:
        new = larger.contestant(old.name)
        assert new.configurations[: len(old.configurations)] == old.configurations
    assert [len(c.configurations) for c in larger.contestants] == [1, 9, 9]
    assert larger.contestant("radam") == contestant("radam", 9)
    assert PLAN.extended() == PLAN


def test_an_extended_plan_keeps_the_studys_conditions() -> None:
    larger = made("adam", lr=0.5, schedule="cosine").extended(["sgd"])
    assert larger.contestant("sgd").configurations == ({"schedule": "cosine", "lr": 0.5},)


def test_seeds_that_judge_are_never_the_one_that_tunes() -> None:
    old = replace(made("adam", trials=1), seeds=(0, 1), tuning_seed=2)
    larger = old.extended(trials=4, seeds=4)
    assert larger.seeds == (0, 1, 3, 4)
    assert {run.seed for run in larger.tuning("digits", "adam")} == {2}


def test_rules_of_ones_own_are_kept_beside_an_extended_plan() -> None:
    own = tw.chain(tw.l2, tw.adamw)
    larger = PLAN.extended([own])
    assert larger.rules == {"L2 + AdamW": own}
    larger.check()


@pytest.mark.parametrize(("name", "count"), [("trials", 3), ("seeds", 2)])
def test_a_plan_never_shrinks(name: str, count: int) -> None:
    with pytest.raises(UsageError, match=f"{name} is {count}, but the study has {count + 1}"):
        PLAN.extended(**{name: count})
