"""The convention of optax against optax, in float64."""

import inspect
from functools import cache

import numpy as np
import pytest

import thalweg as tw
from peers.walks import (
    DECAY,
    RATES,
    START,
    Peer,
    Walk,
    Walker,
    data,
    elsewhere,
    faults,
    gradient,
    in_numpy,
    in_torch,
    needed,
)
from thalweg.rules import Rule, chain
from thalweg.rules.rule import Setting

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

_ADAM = {"beta1": "b1", "beta2": "b2", "eps": "eps"}
_ADAMW = {**_ADAM, "weight_decay": "weight_decay"}
_ADAGRAD = {"eps": "eps", "initial_accumulator_value": "initial_accumulator_value"}
_ADADELTA = {"rho": "rho", "eps": "eps"}
_MOMENTUM = {"gamma": "momentum"}
_VELOCITY = {"momentum": "momentum", "nesterov": "nesterov"}
_RPROP = {
    "lr": "learning_rate",
    "eta_minus": "eta_minus",
    "eta_plus": "eta_plus",
    "delta_min": "min_step_size",
    "delta_max": "max_step_size",
}
_RMSPROP = {
    "rho": "decay",
    "eps": "eps",
    "initial_accumulator_value": "initial_scale",
    "eps_inside": "eps_in_sqrt",
    "centered": "centered",
    "bias_correction": "bias_correction",
}


def _peer(
    name: str,
    rule: Rule,
    theirs: str,
    names: dict[str, str],
    given: dict[str, Setting] | None = None,
    **fixed: object,
) -> Peer:
    stage = None if "weight_decay" in names else tw.l2
    return Peer(name, rule, getattr(optax, theirs), names, given or {}, fixed, stage)


PEERS = {
    peer.name: peer
    for peer in (
        _peer("sgd", tw.sgd, "sgd", {}),
        _peer("momentum", tw.momentum, "sgd", _MOMENTUM, {"gamma": 0.8}),
        _peer("nag", tw.nag, "sgd", _MOMENTUM, {"gamma": 0.8}, nesterov=True),
        _peer("adagrad", tw.adagrad, "adagrad", _ADAGRAD),
        _peer("adadelta", tw.adadelta, "adadelta", _ADADELTA),
        _peer("rmsprop", tw.rmsprop, "rmsprop", _RMSPROP),
        _peer("rmsprop-eps-outside", tw.rmsprop, "rmsprop", _RMSPROP, {"eps_inside": False}),
        _peer("rmsprop-momentum", tw.rmsprop, "rmsprop", {**_RMSPROP, **_VELOCITY}),
        _peer(
            "rmsprop-nesterov",
            tw.rmsprop,
            "rmsprop",
            {**_RMSPROP, **_VELOCITY},
            {"momentum": 0.7, "nesterov": True},
        ),
        _peer(
            "rmsprop-bias-corrected",
            tw.rmsprop,
            "rmsprop",
            _RMSPROP,
            # Without a value to start with, the first variance is 0, but for rounding.
            {"centered": True, "bias_correction": True, "initial_accumulator_value": 0.3},
        ),
        _peer("rmsprop-centered", tw.rmsprop, "rmsprop", _RMSPROP, {"centered": True}),
        _peer("adam", tw.adam, "adam", _ADAM),
        _peer("adamw", tw.adamw, "adamw", _ADAMW),
        _peer("nadam", tw.nadam, "nadam", _ADAM),
        _peer("nadamw", chain(tw.nadam, tw.decay), "nadamw", _ADAMW),
        _peer("adamax", tw.adamax, "adamax", _ADAM),
        _peer("adamaxw", chain(tw.adamax, tw.decay), "adamaxw", _ADAMW),
        _peer("amsgrad", tw.amsgrad, "amsgrad", _ADAM),
        _peer("radam", tw.radam, "radam", _ADAM),
        _peer("rprop", tw.rprop, "rprop", _RPROP, {"lr": 0.05}),
    )
}


@cache
def walked(name: str, at_defaults: bool) -> Walk:
    """Optax's walk."""
    peer = PEERS[name]
    arguments = peer.arguments(peer.given if at_defaults else peer.settings)
    decays = peer.stage is not None and not at_defaults
    if decays and "weight_decay" in inspect.signature(peer.theirs).parameters:
        arguments["weight_decay"], decays = DECAY, False
    # Rprop's is the size of the first step, not a schedule.
    arguments.setdefault("learning_rate", jax.numpy.array(RATES).__getitem__)
    optimizer = peer.theirs(**arguments)
    if decays:
        optimizer = optax.chain(optax.add_decayed_weights(DECAY), optimizer)
    theta, update = jax.numpy.array(START), jax.jit(optimizer.update)
    state, path = optimizer.init(theta), []
    for t in range(len(RATES)):
        g = jax.numpy.array(gradient(np.asarray(theta), t))
        updates, state = update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
        path.append(np.array(theta))
    return path


@pytest.mark.parametrize("walker", [in_torch, in_numpy])
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_agrees(peer: Peer, walker: Walker) -> None:
    # There is no default learning rate.
    assert not faults(peer, "optax", walker, walked, RATES)


@pytest.mark.parametrize(("rule", "datum"), data("optax"), ids=str)
def test_every_datum_is_needed(rule: Rule, datum: str) -> None:
    assert needed(PEERS.values(), "optax", rule, datum, walked, RATES)


@pytest.mark.parametrize("peer", [p for p in PEERS.values() if p.stage], ids=lambda p: p.name)
def test_where_weight_decay_stands_is_seen(peer: Peer) -> None:
    found = faults(elsewhere(peer), "optax", in_numpy, walked, RATES)
    # For plain SGD there is no difference.
    assert bool(found) == (peer.name != "sgd")
