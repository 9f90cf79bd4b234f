"""The optimizers of timm that a rule and a stage of ours stand for, in float64."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from peers import timm_optim
from peers.walks import DECAY, RATES, START, TOLERANCE, Walk, distance, gradient

Arguments = dict[str, Any]


timm = timm_optim.module()


@dataclass(frozen=True)
class Pair:
    """An optimizer of timm's and ours, their arguments for the walk, and what differs if any."""

    theirs: Callable[..., torch.optim.Optimizer]
    ours: Callable[..., tw.Optimizer]
    arguments: Arguments
    decay: str
    renamed: dict[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    def our_arguments(self) -> Arguments:
        return {self.renamed.get(n, n): v for n, v in self.arguments.items()}


def rmsprop(
    params: list[Tensor],
    lr: float = 0.01,
    weight_decay: float = 0.0,
    *,
    stage: str = "l2",
    **settings: Any,
) -> tw.Optimizer:
    """RMSpropTF as a chain."""
    decay = {"l2": tw.l2, "decoupled": tw.decay}[stage](weight_decay)
    rule = tw.chain(decay, tw.rmsprop) if stage == "l2" else tw.chain(tw.rmsprop, decay)
    given = {"eps": 1e-10, "initial_accumulator_value": 1.0, "lr": lr, **settings}
    return tw.Optimizer(params, rule, convention="keras", **given)


_ADAM = {"betas": (0.8, 0.95), "eps": 1e-2}
_RMSPROP = {"alpha": 0.85, "eps": 1e-2}
_RHO = {"alpha": "rho", "lr_in_momentum": "lr_inside"}
_SGDW = partial(tw.SGD, decay="decoupled")
PAIRS = {
    "sgdw": Pair(timm.SGDW, _SGDW, {}, "decoupled"),
    "sgdw-momentum": Pair(timm.SGDW, _SGDW, {"momentum": 0.8, "dampening": 0.4}, "decoupled"),
    "sgdw-nesterov": Pair(timm.SGDW, _SGDW, {"momentum": 0.8, "nesterov": True}, "decoupled"),
    "adamw": Pair(timm.adamw.AdamWLegacy, tw.AdamW, _ADAM, "decoupled"),
    "adamw-amsgrad": Pair(
        timm.adamw.AdamWLegacy, tw.AdamW, {**_ADAM, "amsgrad": True}, "decoupled"
    ),
    "nadam": Pair(
        timm.nadam.NAdamLegacy,
        tw.NAdam,
        {**_ADAM, "schedule_decay": 0.05},
        "l2",
        {"schedule_decay": "momentum_decay"},
    ),
    "nadamw": Pair(
        timm.NAdamW,
        partial(tw.NAdam, lr=1e-3, weight_decay=0.01, convention="paper", decay="decoupled"),
        _ADAM,
        "decoupled",
    ),
    "radam": Pair(
        timm.radam.RAdamLegacy,
        partial(tw.RAdam, decoupled_weight_decay=True),
        _ADAM,
        "decoupled",
        # It computes in float32, whatever the parameter: 2e-7 of a weight, beside steps of 1e-3.
        tolerance=1e-4,
    ),
    "rmsprop": Pair(timm.RMSpropTF, rmsprop, _RMSPROP, "l2", _RHO),
    "rmsprop-decoupled": Pair(
        partial(timm.RMSpropTF, decoupled_decay=True),
        partial(rmsprop, stage="decoupled"),
        _RMSPROP,
        "decoupled",
        _RHO,
    ),
    "rmsprop-momentum": Pair(timm.RMSpropTF, rmsprop, {**_RMSPROP, "momentum": 0.7}, "l2", _RHO),
    "rmsprop-momentum-outside": Pair(
        timm.RMSpropTF,
        rmsprop,
        {**_RMSPROP, "momentum": 0.7, "lr_in_momentum": False},
        "l2",
        _RHO,
    ),
    "rmsprop-centered": Pair(timm.RMSpropTF, rmsprop, {**_RMSPROP, "centered": True}, "l2", _RHO),
}


def walked(made: Callable[..., torch.optim.Optimizer], *, at_defaults: bool = False) -> Walk:
    # Without a type of its own NAdam's product of momenta has the default's.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        theta = torch.tensor(START, requires_grad=True)
        optimizer, path = made([theta]), []
        for t, rate in enumerate(RATES):
            if not at_defaults:
                optimizer.param_groups[0]["lr"] = rate
            theta.grad = torch.from_numpy(gradient(theta.detach().numpy(), t))
            optimizer.step()
            path.append(theta.detach().numpy().copy())
    finally:
        torch.set_default_dtype(before)
    if isinstance(optimizer, tw.Optimizer):
        assert optimizer.backend_of(theta) == "fused"
    return path


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_agrees(pair: Pair) -> None:
    decay = {"weight_decay": DECAY}
    theirs = walked(partial(pair.theirs, **pair.arguments, **decay))
    ours = walked(partial(pair.ours, **pair.our_arguments(), **decay))
    assert distance(ours, theirs) < pair.tolerance


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_agrees_at_its_defaults(pair: Pair) -> None:
    theirs = walked(pair.theirs, at_defaults=True)
    assert distance(walked(pair.ours, at_defaults=True), theirs) < pair.tolerance


# What a name of timm's is not, though it looks like it.
OTHERS = {
    "RMSpropTF is not torch's RMSprop": ("rmsprop", tw.RMSprop),
    "RMSpropTF is not Keras's": ("rmsprop", partial(tw.RMSprop, convention="keras", eps=1e-10)),
    "SGDW is not SGD": ("sgdw-momentum", tw.SGD),
    "NAdamW has no schedule": ("nadamw", partial(tw.NAdam, decoupled_weight_decay=True)),
    "NAdamW is not optax's": (
        "nadamw",
        partial(tw.NAdam, convention="optax", decoupled_weight_decay=True),
    ),
    "RAdamLegacy does not decay as torch's RAdam": ("radam", tw.RAdam),
}


@pytest.mark.parametrize(("name", "other"), OTHERS.values(), ids=OTHERS)
def test_what_looks_alike_is_not(name: str, other: Callable[..., tw.Optimizer]) -> None:
    pair, decay = PAIRS[name], {"weight_decay": DECAY}
    theirs = walked(partial(pair.theirs, **pair.arguments, **decay))
    assert distance(walked(partial(other, **pair.arguments, **decay)), theirs) > 1e-3


# A name, the class that it stands for, and what it sets.
NAMES: dict[str, tuple[type[torch.optim.Optimizer], Arguments]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    "adagrad": (torch.optim.Adagrad, {"eps": 1e-8}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.9}),
    "rmsproptf": (timm.RMSpropTF, {"alpha": 0.9, "momentum": 0.9, "eps": 1e-10}),
    "sgdw": (timm.SGDW, {"momentum": 0.9, "nesterov": True}),
    "nadamw": (timm.NAdamW, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "adamax": (torch.optim.Adamax, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "radamw": (torch.optim.RAdam, {"decoupled_weight_decay": True}),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_name_stands_for(name: str) -> None:
    made, differs = NAMES[name]
    optimizer = timm.create_optimizer_v2(nn.Linear(2, 2), name)
    assert type(optimizer) is made
    own = inspect.signature(made).parameters
    (group,) = optimizer.param_groups
    settings = group.keys() & own.keys() - {"params"}
    # It decays only if it is told so.
    expected = {n: own[n].default for n in settings} | {"weight_decay": 0.0, **differs}
    assert {n: group[n] for n in settings} == expected


def names(groups: list[dict], model: nn.Module) -> dict[float, set[str]]:
    known = {p: name for name, p in model.named_parameters()}
    return {
        group["weight_decay"]: {known[p[1] if isinstance(p, tuple) else p] for p in group["params"]}
        for group in groups
    }


def both(model: nn.Module, skip: tuple[str, ...] = ()) -> list[dict[float, set[str]]]:
    ours = tw.decay_groups(model, 0.1, skip=skip)
    theirs = timm.param_groups_weight_decay(model, 0.1, no_weight_decay_list=skip)
    return [names(groups, model) for groups in (ours, theirs)]


NETWORKS: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "convolutions": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2)), ()),
    "transformer": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), ()),
    "patterns": (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)), ("0.*",)),
}


@pytest.mark.parametrize(("model", "skip"), NETWORKS.values(), ids=NETWORKS)
def test_the_same_parameters_decay(model: nn.Module, skip: tuple[str, ...]) -> None:
    ours, theirs = both(model, skip)
    assert ours == theirs
    assert {*ours} == {0.0, 0.1}


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((2, 3))
        self.table_bias = nn.Parameter(torch.zeros(3, 3))
        self.linear = nn.Linear(2, 2)


def test_norms_and_biases_of_several_dimensions_decay_there_alone() -> None:
    ours, theirs = both(Biased())
    assert theirs[0.1] - ours[0.1] == {"norm.weight", "table_bias"}
    assert not ours[0.1] - theirs[0.1]


def test_frozen_parameters_are_left_out_there_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    ours, theirs = both(model)
    assert ours[0.1] - theirs[0.1] == {"0.weight"}
    assert ours[0.0] - theirs[0.0] == {"0.bias"}


def test_a_pattern_that_matches_nothing_is_refused_here_alone() -> None:
    model = nn.Linear(2, 2)
    assert timm.param_groups_weight_decay(model, 0.1, no_weight_decay_list=("wieght",))
    with pytest.raises(tw.UsageError, match="'wieght', which matches no parameter"):
        tw.decay_groups(model, 0.1, skip=("wieght",))


def test_arguments_that_have_no_counterpart() -> None:
    theirs = inspect.signature(timm.NAdamW).parameters
    ours = inspect.signature(tw.NAdam).parameters
    beside = {"caution", "corrected_weight_decay", "clipping_threshold"}
    assert theirs.keys() - ours.keys() == beside
