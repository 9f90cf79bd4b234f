"""What is tried of an optimizer, read from words or from a rule."""

import json
from typing import Any

import pytest

import thalweg as tw
from thalweg.errors import UsageError
from thalweg.lab.contestant import Contestant, contestant, contestants
from thalweg.lab.space import Choice, Range
from thalweg.rules import OPTIMIZERS


@tw.rule("Mine", paper="none")
def mine(
    g: Any,
    *,
    lr: Any = tw.hyper(0.1, "[0, inf)", "learning rate", search=(0.01, 1.0)),
) -> Any:
    """Its own."""
    return (lr * g,)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_trial_is_the_documented_defaults(name: str) -> None:
    found = contestant(name, 4)
    assert found.configured(0)[0].settings() == OPTIMIZERS[name].settings()
    assert len(found.configurations) == 4
    assert set(found.space) == {n for n, h in OPTIMIZERS[name].hypers.items() if h.search}
    for trial in (1, 2, 3):
        found.configured(trial)[0].settings()
        assert set(found.configurations[trial]) == set(found.space)


def test_a_single_value_fixes_and_a_range_narrows() -> None:
    found = contestant("adam:beta1=0.5:lr=1e-4..1e+0", 3)
    assert set(found.space) == {"lr", "beta2"}
    assert found.space["lr"] == Range(1e-4, 1.0, "log")
    for trial in range(3):
        assert found.configured(trial)[0].settings().hypers["beta1"] == 0.5
    assert found.configured(0)[0].settings().hypers["lr"] == 1e-3
    assert found.rule == "adam:beta1=0.5"


def test_choices_of_tuples_and_options() -> None:
    found = contestant("aggmo:betas=0/0.9|0/0.9/0.99", 9)
    assert found.space["betas"] == Choice(((0.0, 0.9), (0.0, 0.9, 0.99)))
    assert found.configured(0)[0].settings().hypers["betas"] == (0.0, 0.9)
    assert {c["betas"] for c in found.configurations} == {(0.0, 0.9), (0.0, 0.9, 0.99)}
    found = contestant("rmsprop:centered=true|false", 9)
    assert {c["centered"] for c in found.configurations} == {True, False}
    assert found.configured(0)[0].settings().flags["centered"] is True


def test_a_stages_setting_has_its_name_in_the_chain() -> None:
    found = contestant("noise:gamma=0.1..0.9+momentum:gamma=0.8..0.99", 3)
    assert found.space["noise_gamma"] == Range(0.1, 0.9, "log")
    assert found.space["gamma"] == Range(0.8, 0.99, "below 1")
    found.configured(2)[0].settings()


def test_what_has_nothing_to_search_has_one_trial() -> None:
    assert contestant("sgd:lr=0.1", 16).configurations == ({},)
    assert contestant("sgd", 16, lr=0.1).configurations == ({"lr": 0.1},)


def test_the_studys_learning_rate_is_for_those_without_their_own() -> None:
    for text in ("sgd:lr=0.5", "sgd:lr=0.2..0.5"):
        for configuration in contestant(text, 4, lr=9.0).configurations:
            assert configuration.get("lr", 0.5) != 9.0
    with pytest.raises(UsageError, match=r"lr is -0\.5"):
        contestant("sgd", 1, lr=-0.5)


def test_a_schedule_and_a_decay_can_be_searched() -> None:
    found = contestant("adam:decay=l2|decoupled", 17, schedule="constant|one-cycle")
    assert {c["schedule"] for c in found.configurations} == {"constant", "one-cycle"}
    assert set(found.space) == {"schedule", "decay", "weight_decay", "lr", "beta1", "beta2"}
    chains = {"l2": ["l2", "adam"], "decoupled": ["adam", "decay"]}
    for trial, configuration in enumerate(found.configurations):
        rule, extra = found.configured(trial)
        assert [link.name for link in rule.links] == chains[str(configuration["decay"])]
        assert extra == {n: configuration[n] for n in ("schedule", "decay")}
        if trial:
            assert rule.given["weight_decay"] == configuration["weight_decay"]


def test_an_optimizers_own_schedule_and_decay_come_first() -> None:
    found = contestant("adam:schedule=cosine:decay=l2", 2, schedule="constant", decay="decoupled")
    assert found.configured(1)[1] == {"schedule": "cosine", "decay": "l2"}
    assert contestant("adam", 2, decay="decoupled").configured(0)[1] == {"decay": "decoupled"}


def test_weight_decay_beside_a_mode_of_decay() -> None:
    found = contestant("sgd:decay=decoupled:weight_decay=1e-4:lr=0.1", 9)
    assert found.configurations == ({"decay": "decoupled", "weight_decay": 1e-4},)
    found = contestant("sgd:decay=independent:weight_decay=1e-8..1e-4:lr=0.1", 9)
    assert found.space == {"weight_decay": Range(1e-8, 1e-4, "log")}


def test_more_trials_begin_with_the_same_ones() -> None:
    small, large = contestant("adam", 3), contestant("adam", 20)
    assert small.extended(20) == large
    assert large.extended(3) == large
    assert contestant("sgd:lr=1", 1).extended(9).configurations == ({},)


def test_contestants_survive_being_written_down() -> None:
    for text in ("adam", "aggmo:betas=0|0/0.5", "adam:decay=l2|decoupled", "noise+momentum"):
        found = contestant(text, 5, schedule="constant|cosine")
        assert Contestant.from_data(json.loads(json.dumps(found.data()))) == found


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (tw.adam(), "adam"),
        (tw.chain(tw.adam(beta2=0.9), tw.decay(0.1)), "adam:beta2=0.9+decay:weight_decay=0.1"),
        (tw.chain(tw.noise(gamma=0.2), tw.momentum()), "noise:gamma=0.2+momentum"),
        (tw.adamw(lr=1e-3), "adamw:lr=0.001"),
        (tw.aggmo(betas=(0, 0.5)), "aggmo:betas=0.0/0.5"),
        (tw.rmsprop(centered=True), "rmsprop:centered=true"),
    ],
)
def test_a_rule_is_put_in_words(rule: tw.Rule, name: str) -> None:
    assert contestant(rule, 3) == contestant(name, 3)
    assert contestant(name, 3).configured(0)[0].settings() == rule.settings()


def test_a_rule_of_ones_own_goes_along_as_it_is() -> None:
    [found], rules = contestants([mine], 4, lr=None)
    assert (found.name, found.rule, set(found.space)) == ("Mine", None, {"lr"})
    assert found.configured(2, rules["Mine"])[0].given == found.configurations[2]
    assert found.code
    with pytest.raises(UsageError, match="go on from Python"):
        found.configured(0)


def test_what_is_named_twice_takes_part_once() -> None:
    found, _ = contestants(["adam", " adam", tw.adam], 2)
    assert [c.name for c in found] == ["adam"]
    with pytest.raises(UsageError, match="two optimizers are called Mine"):
        contestants([mine, mine(lr=0.5)], 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("admam", "Did you mean adam"),
        ("sgd:lr=1..0.1", "write lr=0.1..1"),
        ("sgd:lr=a..b", "lr is 'a'"),
        ("sgd:lr=0..", "lr is ''"),
        ("sgd:lr=0.1:lr=0.1..1", "stands twice"),
        ("sgd:lr=1..2:lr=0.1..1", "stands twice"),
        ("sgd:rl=0.1..1", "Did you mean lr"),
        ("adam:beta1=0.5..1", "beta1 is 1"),
        ("sgd:schedule=onecycle", "Did you mean one_cycle"),
        ("adam:decay=l|l2", "unknown decay 'l'"),
        ("adam:decay=l2|independent", "an optimizer of its own"),
        ("adamw:decay=l2", "a weight decay of its own"),
        ("l2", "has no optimizer"),
    ],
)
def test_what_cannot_be_searched(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        contestant(text, 2)
