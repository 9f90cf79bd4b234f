"""The convention of Keras against Keras 3, in float64 on its JAX backend."""

from functools import cache

import numpy as np
import pytest

import thalweg as tw
from peers.walks import (
    DECAY,
    RATES,
    START,
    STEPS,
    Peer,
    Rates,
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
from thalweg.rules import Rule
from thalweg.rules.rule import Setting

pytest.importorskip("jax")
keras = pytest.importorskip("keras")
keras.config.set_floatx("float64")

_DEFAULT_RATES: Rates = [None] * STEPS
_LR = {"lr": "learning_rate"}
_EPS = {**_LR, "eps": "epsilon"}
_ADAM = {**_EPS, "beta1": "beta_1", "beta2": "beta_2"}
_RMSPROP = {**_EPS, "rho": "rho", "centered": "centered"}
_MOMENTUM = {"gamma": "momentum"}


def _peer(
    name: str,
    rule: Rule,
    theirs: str,
    names: dict[str, str],
    given: dict[str, Setting] | None = None,
    **fixed: object,
) -> Peer:
    stage = None if "weight_decay" in names else tw.decay
    return Peer(name, rule, getattr(keras.optimizers, theirs), names, given or {}, fixed, stage)


PEERS = {
    peer.name: peer
    for peer in (
        _peer("sgd", tw.sgd, "SGD", _LR),
        _peer("momentum", tw.momentum, "SGD", {**_LR, **_MOMENTUM}, {"gamma": 0.8}),
        _peer("nag", tw.nag, "SGD", {**_LR, **_MOMENTUM}, {"gamma": 0.8}, nesterov=True),
        _peer(
            "adagrad",
            tw.adagrad,
            "Adagrad",
            {**_EPS, "initial_accumulator_value": "initial_accumulator_value"},
        ),
        _peer("adadelta", tw.adadelta, "Adadelta", {**_EPS, "rho": "rho"}),
        _peer("rmsprop", tw.rmsprop, "RMSprop", _RMSPROP),
        _peer("rmsprop-momentum", tw.rmsprop, "RMSprop", {**_RMSPROP, "momentum": "momentum"}),
        _peer("rmsprop-centered", tw.rmsprop, "RMSprop", _RMSPROP, {"centered": True}),
        _peer("adam", tw.adam, "Adam", _ADAM),
        _peer("amsgrad", tw.amsgrad, "Adam", _ADAM, amsgrad=True),
        _peer("adamw", tw.adamw, "AdamW", {**_ADAM, "weight_decay": "weight_decay"}),
        _peer("adamax", tw.adamax, "Adamax", _ADAM),
        _peer("nadam", tw.nadam, "Nadam", _ADAM),
    )
}


@cache
def walked(name: str, at_defaults: bool) -> Walk:
    """Keras's walk."""
    peer = PEERS[name]
    arguments = peer.arguments(peer.given if at_defaults else peer.settings)
    if peer.stage is not None and not at_defaults:
        arguments["weight_decay"] = DECAY
    optimizer = peer.theirs(**arguments)
    theta = keras.Variable(START, dtype="float64")
    path = []
    for t, rate in enumerate(RATES):
        if not at_defaults:
            optimizer.learning_rate = rate
        # Keras's own way to NumPy warns.
        g = gradient(np.asarray(theta.value), t)
        optimizer.apply([keras.ops.convert_to_tensor(g)], [theta])
        path.append(np.array(theta.value))
    return path


@pytest.mark.parametrize("walker", [in_torch, in_numpy])
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_agrees(peer: Peer, walker: Walker) -> None:
    assert not faults(peer, "keras", walker, walked, _DEFAULT_RATES)


@pytest.mark.parametrize(("rule", "datum"), data("keras"), ids=str)
def test_every_datum_is_needed(rule: Rule, datum: str) -> None:
    assert needed(PEERS.values(), "keras", rule, datum, walked, _DEFAULT_RATES)


@pytest.mark.parametrize("peer", [p for p in PEERS.values() if p.stage], ids=lambda p: p.name)
def test_where_weight_decay_stands_is_seen(peer: Peer) -> None:
    found = faults(elsewhere(peer), "keras", in_numpy, walked, _DEFAULT_RATES)
    # For plain SGD there is no difference.
    assert bool(found) == (peer.name != "sgd")
