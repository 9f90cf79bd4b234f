"""The plan: what is run, with which rule, and that it survives being written down."""

import json
from dataclasses import replace

import pytest

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan, Run
from thalweg.rules import CONVENTIONS, OPTIMIZERS

PLAN = Plan("digits", ("sgd:lr=0.1", "adam"), "paper", None, 3, 32, (0, 4), None)


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        Plan("ü b.py:task", ("l2:weight_decay=1e-4+adam",), "keras", 0.1 + 0.2, 1, "full", (), 0.0),
        replace(PLAN, lr=5e-324, target=float("-inf"), batch_size=1, seeds=(7,), reshuffle=False),
    ],
)
def test_plan_survives_being_written_down(plan: Plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert list(again.runs()) == list(plan.runs())
    assert isinstance(hash(again), int)


def test_plan_is_readable_json():
    assert json.loads(PLAN.to_json()) == {
        "task": "digits",
        "optimizers": ["sgd:lr=0.1", "adam"],
        "convention": "paper",
        "lr": None,
        "epochs": 3,
        "batch_size": 32,
        "seeds": [0, 4],
        "target": None,
        "reshuffle": True,
    }


def test_every_optimizer_runs_with_every_seed():
    assert list(PLAN.runs()) == [
        Run("sgd:lr=0.1", 0),
        Run("adam", 0),
        Run("sgd:lr=0.1", 4),
        Run("adam", 4),
    ]


def hypers(plan: Plan, optimizer: str, seed: int = 0) -> dict[str, object]:
    return dict(plan.rule(Run(optimizer, seed)).settings(plan.convention).hypers)


def test_learning_rate_is_the_plans_unless_an_optimizer_has_its_own():
    given = replace(PLAN, lr=0.25)
    assert hypers(given, "adam")["lr"] == 0.25
    assert hypers(given, "sgd:lr=0.1")["lr"] == 0.1
    assert hypers(given, "adam:beta1=0.5") == {**hypers(PLAN, "adam"), "lr": 0.25, "beta1": 0.5}
    assert hypers(given, "l2:weight_decay=0.01+sgd")["lr"] == 0.25
    assert hypers(given, "l2:weight_decay=0.01+sgd:lr=0.1")["lr"] == 0.1
    assert hypers(replace(PLAN, lr=0.0), "adam")["lr"] == 0.0


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_without_a_learning_rate_it_is_the_rules_default(convention: str):
    plan = replace(PLAN, convention=convention)
    for name, rule in OPTIMIZERS.items():
        assert hypers(plan, name) == dict(rule.settings(convention).hypers)


def test_every_optimizer_takes_the_plans_learning_rate():
    for name in OPTIMIZERS:
        assert hypers(replace(PLAN, lr=0.125), name)["lr"] == 0.125


def test_noise_differs_from_seed_to_seed_unless_it_is_given():
    assert [hypers(PLAN, "noise+adam", seed)["seed"] for seed in (0, 1, 7)] == [0, 1, 7]
    assert [hypers(PLAN, "noise:seed=5+adam", seed)["seed"] for seed in (0, 7)] == [5, 5]
    assert hypers(PLAN, "adam", 3) == hypers(PLAN, "adam", 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizers": ("adam", "adm")}, "unknown optimizer 'adm'"),
        ({"optimizers": ("adam", "sgd:lr=-1")}, "lr is -1"),
        ({"optimizers": ("adam:beta1=1",)}, "beta1 is 1"),
        ({"lr": -0.5}, "lr is -0.5"),
        ({"convention": "jax"}, "'jax'"),
    ],
)
def test_check_finds_what_cannot_be_run(change: dict[str, object], says: str):
    PLAN.check()
    with pytest.raises(UsageError, match=says):
        replace(PLAN, **change).check()


def test_check_of_everything_there_is():
    for convention in CONVENTIONS:
        replace(PLAN, optimizers=tuple(OPTIMIZERS), convention=convention, lr=0.1).check()
