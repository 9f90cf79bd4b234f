"""The convention of torch against torch.optim, in float64."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch

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
from thalweg.rules import Rule, chain
from thalweg.rules.rule import Setting

_DEFAULT_RATES: Rates = [None] * STEPS
_LR = {"lr": "lr"}
_EPS = {**_LR, "eps": "eps"}
_ADAM = {**_EPS, "beta1": "betas", "beta2": "betas"}
_RMSPROP = {**_EPS, "rho": "alpha", "centered": "centered"}
_MOMENTUM = {**_LR, "gamma": "momentum"}


def _peer(
    name: str,
    rule: Rule,
    theirs: str,
    names: dict[str, str],
    given: dict[str, Setting] | None = None,
    stage: Rule | None = tw.l2,
    **fixed: object,
) -> Peer:
    return Peer(name, rule, getattr(torch.optim, theirs), names, given or {}, fixed, stage)


PEERS = {
    peer.name: peer
    for peer in (
        _peer("sgd", tw.sgd, "SGD", _LR),
        _peer(
            "momentum",
            tw.momentum,
            "SGD",
            {**_MOMENTUM, "dampening": "dampening"},
            {"gamma": 0.8},
        ),
        _peer("nag", tw.nag, "SGD", _MOMENTUM, {"gamma": 0.8}, nesterov=True),
        _peer(
            "adagrad",
            tw.adagrad,
            "Adagrad",
            {
                **_EPS,
                "lr_decay": "lr_decay",
                "initial_accumulator_value": "initial_accumulator_value",
            },
        ),
        _peer("adadelta", tw.adadelta, "Adadelta", {**_EPS, "rho": "rho"}),
        _peer("rmsprop", tw.rmsprop, "RMSprop", _RMSPROP),
        _peer("rmsprop-momentum", tw.rmsprop, "RMSprop", {**_RMSPROP, "momentum": "momentum"}),
        _peer("rmsprop-centered", tw.rmsprop, "RMSprop", _RMSPROP, {"centered": True}),
        _peer("adam", tw.adam, "Adam", _ADAM),
        _peer("amsgrad", tw.amsgrad, "Adam", _ADAM, amsgrad=True),
        _peer("adamw", tw.adamw, "AdamW", {**_ADAM, "weight_decay": "weight_decay"}, stage=None),
        _peer("adamax", tw.adamax, "Adamax", _ADAM),
        _peer("nadam", tw.nadam, "NAdam", {**_ADAM, "momentum_decay": "momentum_decay"}),
        _peer("nadamw", tw.nadam, "NAdam", _ADAM, stage=tw.decay, decoupled_weight_decay=True),
        _peer("radam", tw.radam, "RAdam", _ADAM),
        _peer("radamw", tw.radam, "RAdam", _ADAM, stage=tw.decay, decoupled_weight_decay=True),
        _peer(
            "rprop",
            tw.rprop,
            "Rprop",
            {
                **_LR,
                "eta_minus": "etas",
                "eta_plus": "etas",
                "delta_min": "step_sizes",
                "delta_max": "step_sizes",
            },
            {"lr": 0.05},
            # It has no weight decay.
            stage=None,
        ),
        _peer("rprop-lr", tw.rprop, "Rprop", _LR, stage=None),
    )
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """The default dtype too, in which torch keeps NAdam's product of momenta."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@cache
def walked(name: str, at_defaults: bool) -> Walk:
    """torch's walk."""
    peer = PEERS[name]
    arguments = peer.arguments(peer.given if at_defaults else peer.settings)
    if peer.stage is not None and not at_defaults:
        arguments["weight_decay"] = DECAY
    theta = torch.tensor(START, requires_grad=True)
    optimizer = peer.theirs([theta], **arguments)
    path = []
    for t, rate in enumerate(RATES):
        if not at_defaults and "lr" not in peer.given:
            optimizer.param_groups[0]["lr"] = rate
        theta.grad = torch.from_numpy(gradient(theta.detach().numpy(), t))
        optimizer.step()
        path.append(theta.detach().numpy().copy())
    return path


@pytest.mark.parametrize("walker", [in_torch, in_numpy])
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_agrees(peer: Peer, walker: Walker) -> None:
    assert not faults(peer, "torch", walker, walked, _DEFAULT_RATES)


@pytest.mark.parametrize(("rule", "datum"), data("torch"), ids=str)
def test_every_datum_is_needed(rule: Rule, datum: str) -> None:
    assert needed(PEERS.values(), "torch", rule, datum, walked, _DEFAULT_RATES)


@pytest.mark.parametrize("peer", [p for p in PEERS.values() if p.stage], ids=lambda p: p.name)
def test_where_weight_decay_stands_is_seen(peer: Peer) -> None:
    found = faults(elsewhere(peer), "torch", in_numpy, walked, _DEFAULT_RATES)
    # For plain SGD there is no difference.
    assert bool(found) == (peer.name != "sgd")


@pytest.mark.parametrize("limit", [0.5, 5.0, 50.0])
@pytest.mark.parametrize(
    ("stage", "clip"),
    [
        (tw.clip_norm, torch.nn.utils.clip_grad_norm_),
        (tw.clip_value, torch.nn.utils.clip_grad_value_),
    ],
    ids=["norm", "value"],
)
def test_clipping_is_torchs(stage: Rule, clip: Callable[..., object], limit: float) -> None:
    params = {"a": torch.zeros(5, requires_grad=True), "b": torch.zeros(2, 5, requires_grad=True)}
    for t, p in enumerate(params.values()):
        p.grad = torch.from_numpy(3 * gradient(START, t)).expand_as(p).clone()
    rule = chain(stage(limit), tw.sgd(1.0))
    grads = {name: p.grad.numpy().copy() for name, p in params.items()}
    stepped, _ = rule.step({name: p.detach().numpy() for name, p in params.items()}, grads)
    clip(params.values(), limit)
    for name, p in params.items():
        np.testing.assert_allclose(stepped[name], -p.grad.numpy(), rtol=1e-12)
    assert np.any(grads["a"] != params["a"].grad.numpy()) == (limit < 50)
