"""Rules that are special cases of others, on a gradient that is no straight line."""

from collections.abc import Callable

import numpy as np
import pytest

from thalweg import rules
from thalweg.rules import OPTIMIZERS, Rule, chain
from thalweg.rules.tracing import Trace

START = np.array([1.5, -2.0, 0.3, 4.0])
Gradient = Callable[[np.ndarray], np.ndarray]


def gradient(theta: np.ndarray) -> np.ndarray:
    """Of the sum of log(cosh(x)) and of products of neighbours: curved and coupled."""
    return np.tanh(theta) + 0.3 * np.roll(theta, 1) + 0.3 * np.roll(theta, -1)


def walked(rule: Rule, steps: int = 60, gradient: Gradient = gradient, **settings):
    """The parameters and the states after each step."""
    theta, state, path, states = START, None, [], []
    for _ in range(steps):
        theta, state = rule.step(theta, gradient, state, **settings)
        path.append(theta)
        states.append(state)
    return np.array(path), states


def assert_same_path(one: Rule, other: Rule) -> None:
    np.testing.assert_allclose(walked(one)[0], walked(other)[0], rtol=1e-12, atol=1e-13)


SAME = {
    "QHAdam with nu 1 is Adam": (rules.qhadam(nu1=1, nu2=1, beta1=0.9), rules.adam),
    "QHM with nu 1 is dampened momentum": (
        rules.qhm(lr=0.1, nu=1, beta=0.9),
        rules.momentum(lr=0.1, gamma=0.9, dampening=0.9),
    ),
    "QHM with nu 0 is SGD": (rules.qhm(lr=0.1, nu=0), rules.sgd(lr=0.1)),
    "QHM with nu beta is NAG": (
        rules.qhm(lr=0.1, nu=0.9, beta=0.9),
        rules.nag(lr=0.1 * (1 - 0.9), gamma=0.9),
    ),
    "AggMo with one beta is momentum": (
        rules.aggmo(lr=0.1, betas=(0.9,)),
        rules.momentum(lr=0.1, gamma=0.9, lr_inside=False),
    ),
    "AggMo with equal betas is momentum": (
        rules.aggmo(lr=0.1, betas=(0.9, 0.9, 0.9)),
        rules.momentum(lr=0.1, gamma=0.9),
    ),
    "AggMo with the beta 0 is SGD": (rules.aggmo(lr=0.1, betas=(0.0,)), rules.sgd(lr=0.1)),
    "momentum without velocity is SGD": (rules.momentum(lr=0.1, gamma=0), rules.sgd(lr=0.1)),
    "NAG without velocity is SGD": (rules.nag(lr=0.1, gamma=0), rules.sgd(lr=0.1)),
    "a constant lr may scale momentum's velocity or its input": (
        rules.momentum(lr=0.1, lr_inside=False),
        rules.momentum(lr=0.1),
    ),
    "a constant lr may scale NAG's velocity or its input": (
        rules.nag(lr=0.1, lr_inside=False),
        rules.nag(lr=0.1),
    ),
    "a constant lr may scale RMSprop's velocity or its input": (
        rules.rmsprop(momentum=0.9, lr_inside=False),
        rules.rmsprop(momentum=0.9),
    ),
    "AdamW is Adam and then decay": (
        rules.adamw(weight_decay=0.1),
        chain(rules.adam, rules.decay(0.1)),
    ),
    "a chain in a chain is one chain": (
        chain(rules.l2(0.1), chain(rules.adam, rules.decay(0.1))),
        chain(rules.l2(0.1), rules.adam, rules.decay(0.1)),
    ),
    "L2 is decay for SGD": (
        chain(rules.l2(0.1), rules.sgd(0.1)),
        chain(rules.sgd(0.1), rules.decay(0.1)),
    ),
    "a constant lr may scale decay or not": (
        chain(rules.adam(lr=0.1), rules.independent_decay(0.02)),
        chain(rules.adam(lr=0.1), rules.decay(0.2)),
    ),
    "clipping at a norm that is not reached is none": (
        chain(rules.clip_norm(1e9), rules.adam),
        rules.adam,
    ),
    "clipping at a value that is not reached is none": (
        chain(rules.clip_value(1e9), rules.adam),
        rules.adam,
    ),
    "RMSprop without velocity has nothing to look ahead to": (
        rules.rmsprop(nesterov=True),
        rules.rmsprop,
    ),
    "AMSGrad corrects nothing first if it corrects nothing": (
        rules.amsgrad(correct_first=True),
        rules.amsgrad,
    ),
    "noise without variance is none": (chain(rules.noise(0), rules.adam), rules.adam),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_same_path(pair: tuple[Rule, Rule]) -> None:
    assert_same_path(*pair)


DIFFERENT = {
    "L2 is not decay for Adam": (
        chain(rules.l2(0.1), rules.adam),
        chain(rules.adam, rules.decay(0.1)),
    ),
    "dampening": (rules.momentum(dampening=0.5), rules.momentum),
    "eps hat": (rules.adam(eps=0.1, eps_hat=True), rules.adam(eps=0.1)),
    "centered": (rules.rmsprop(centered=True), rules.rmsprop),
    "noise": (chain(rules.noise, rules.sgd), rules.sgd),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_the_comparison_sees_differences(pair: tuple[Rule, Rule]) -> None:
    with pytest.raises(AssertionError):
        assert_same_path(*pair)


def test_ascent_on_a_function_is_descent_on_its_negative() -> None:
    up, _ = walked(chain(rules.ascend, rules.adam), gradient=lambda theta: -gradient(theta))
    np.testing.assert_array_equal(up, walked(rules.adam)[0])


def test_amsgrad_is_adam_while_gradients_grow() -> None:
    grown = {"gradient": lambda theta: 2 * np.abs(theta) + 1, "lr": 0.01, "steps": 30}
    # Started below 0, the parameters run away from it and the gradients grow.
    path, _ = walked(chain(rules.ascend, rules.amsgrad), bias_correction=True, **grown)
    expected, _ = walked(chain(rules.ascend, rules.adam), **grown)
    assert np.all(np.diff(np.abs(path[:, 0])) > 0)
    np.testing.assert_allclose(path[:, 0], expected[:, 0], rtol=1e-12)


@pytest.mark.parametrize("lr_inside", [True, False])
def test_both_forms_of_nag_walk_one_path(lr_inside: bool) -> None:
    """Under phi = theta - gamma v, or theta - lr gamma v if the velocity has no lr in it."""
    settings = {"lr": 0.1, "gamma": 0.9, "lr_inside": lr_inside, "steps": 200}
    theta, states = walked(rules.nag, lookahead=True, **settings)
    phi, _ = walked(rules.nag, **settings)
    ahead = np.array([s["v"] for s in states]) * (0.9 if lr_inside else 0.1 * 0.9)
    np.testing.assert_allclose(theta - ahead, phi, rtol=1e-12, atol=1e-13)
    assert np.max(np.abs(theta - phi)) > 0.1


def graph(rule: Rule, **settings) -> Trace:
    return rule.trace(rule.settings(**settings))


@pytest.mark.parametrize("rule", [r for r in OPTIMIZERS.values() if len(r.links) == 1], ids=repr)
@pytest.mark.parametrize("stage", [rules.l2, rules.decay, rules.independent_decay], ids=repr)
def test_weight_decay_of_0_is_no_stage_at_all(rule: Rule, stage: Rule) -> None:
    staged = chain(stage, rule) if stage is rules.l2 else chain(rule, stage)
    off, bare = graph(staged, weight_decay=0), graph(rule)
    assert off.step is bare.step
    assert off.states == bare.states
    on = graph(staged, weight_decay=0.1)
    assert on.step is not bare.step


@pytest.mark.parametrize(
    ("rule", "settings", "kept"),
    [
        (rules.sgd, {}, set()),
        (rules.rmsprop, {}, {"E"}),
        (rules.rmsprop, {"centered": True}, {"E", "mean"}),
        (rules.rmsprop, {"momentum": 0.9}, {"E", "v"}),
        (rules.rmsprop, {"momentum": 0.9, "centered": True}, {"E", "mean", "v"}),
        (rules.nadam, {}, {"m", "v"}),
        (rules.nadam, {"schedule": True}, {"m", "v", "mu_product"}),
        (rules.aggmo, {"betas": (0.1, 0.2)}, {"v_1", "v_2"}),
    ],
)
def test_only_states_that_matter_are_kept(rule: Rule, settings: dict, kept: set[str]) -> None:
    trace = graph(rule, **settings)
    assert set(trace.states) == set(trace.declared) == kept


def test_equal_choices_give_one_graph() -> None:
    assert graph(rules.adam, lr=0.1) is graph(rules.adam, lr=0.2)
    assert graph(rules.adam, eps_hat=True) is not graph(rules.adam)
