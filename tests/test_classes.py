"""What every class has beside torch's arguments: whose convention, and how weights decay."""

import copy
import pickle
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg import rules
from thalweg.optim import CLASSES
from thalweg.rules import OPTIMIZERS, Rule, chain
from thalweg.rules.decaying import DECAYS
from thalweg.rules.rule import CONVENTIONS
from torch_parity.paths import MIRRORS, assert_close, assert_fused, copies, parameters, walk

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A class with some arguments, and the rule that it then is."""

    name: str
    rule: Rule
    arguments: Arguments = field(default_factory=dict)
    settings: Arguments = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}-{self.rule.name}"

    def made(self, params: Any, **more: Any) -> tw.Optimizer:
        return CLASSES[self.name](params, **self.arguments, **more)


_VELOCITY = {"momentum": 0.8}
ROWS = [
    # AdamW's rule has a decay of its own, and the others' stage takes its place.
    *(Row(n, rules.adam if n == "AdamW" else r) for r in OPTIMIZERS.values() for n in [r.title]),
    Row("SGD", rules.momentum, {**_VELOCITY, "dampening": 0.3}, {"gamma": 0.8, "dampening": 0.3}),
    Row("SGD", rules.nag, {**_VELOCITY, "nesterov": True}, {"gamma": 0.8}),
    Row("RMSprop", rules.rmsprop(centered=True, momentum=0.8), {**_VELOCITY, "centered": True}),
    Row("Adam", rules.amsgrad, {"amsgrad": True}),
    Row("AdamW", rules.amsgrad, {"amsgrad": True}),
]


def staged(rule: Rule, decay: str) -> Rule:
    match decay:
        case "l2":
            return chain(rules.l2, rule)
        case "decoupled":
            return chain(rule, rules.decay)
        case _:
            return chain(rule, rules.independent_decay)


def default_decay(name: str, convention: str) -> str:
    return "decoupled" if name == "AdamW" or convention == "keras" else "l2"


def walked(optimizer: tw.Optimizer, steps: range = range(6)) -> Tensor:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    path = walk(params, optimizer, steps)
    assert_fused(optimizer)
    return path


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_class_is_its_rule_with_a_stage_for_the_decay(row: Row, convention: str) -> None:
    given = {"lr": 0.1, "weight_decay": 0.2, "convention": convention}
    paths = {}
    for decay in DECAYS:
        rule = staged(row.rule, decay)
        expected = walked(tw.Optimizer(parameters(), rule, **given, **row.settings))
        paths[decay] = walked(row.made(parameters(), decay=decay, **given))
        assert torch.equal(paths[decay], expected)
    by_default = walked(row.made(parameters(), **given))
    assert torch.equal(by_default, paths[default_decay(row.name, convention)])
    # For plain SGD the first two are the same.
    for one, other in list(combinations(DECAYS, 2))[row.rule is rules.sgd :]:
        assert not torch.equal(paths[one], paths[other])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_is_not_given_is_the_conventions(row: Row, convention: str) -> None:
    rule, given = row.rule, {}
    if row.name == "AdamW":
        own = rules.adamw.settings(convention).hypers["weight_decay"]
        rule, given = staged(rule, "decoupled"), {"weight_decay": own}
    expected = tw.Optimizer(parameters(), rule, convention=convention, **row.settings, **given)
    assert torch.equal(walked(row.made(parameters(), convention=convention)), walked(expected))


# A class, a convention, what is given, and what that is among the rule's settings.
GIVEN: list[tuple[str, str, Arguments, Arguments]] = [
    ("SGD", "keras", {"lr": 0.001}, {"lr": 0.001}),
    ("Adagrad", "keras", {"initial_accumulator_value": 0}, {"initial_accumulator_value": 0}),
    ("Adagrad", "keras", {"lr": 0.01}, {"lr": 0.01}),
    ("Adadelta", "keras", {"lr": 1.0}, {"lr": 1.0}),
    ("Adadelta", "paper", {"rho": 0.9}, {"rho": 0.9}),
    ("RMSprop", "keras", {"alpha": 0.99}, {"rho": 0.99}),
    ("RMSprop", "keras", {"eps": 1e-8}, {"eps": 1e-8}),
    ("Adam", "keras", {"eps": 1e-8}, {"eps": 1e-8}),
    ("Adam", "keras", {"betas": (0.9, 0.99)}, {"beta2": 0.99}),
    ("AdamW", "keras", {"weight_decay": 0.01}, {"weight_decay": 0.01}),
    ("Adamax", "keras", {"lr": 2e-3}, {"lr": 2e-3}),
    ("NAdam", "keras", {"momentum_decay": 4e-3}, {"momentum_decay": 4e-3}),
    ("Rprop", "paper", {"etas": (0.5, 1.1)}, {"eta_plus": 1.1}),
    ("AMSGrad", "keras", {"eps": 1e-8}, {"eps": 1e-8}),
    ("AMSGrad", "torch", {"bias_correction": False}, {"bias_correction": False}),
    ("NAG", "keras", {"lr_inside": False}, {"lr_inside": False}),
]


@pytest.mark.parametrize(("name", "convention", "arguments", "settings"), GIVEN, ids=str)
def test_what_is_given_wins_over_the_convention(
    name: str, convention: str, arguments: Arguments, settings: Arguments
) -> None:
    made = CLASSES[name]
    (rule,) = (r for r in OPTIMIZERS.values() if r.title == name)
    expected = walked(tw.Optimizer(parameters(), rule, convention=convention, **settings))
    found = walked(made(parameters(), convention=convention, **arguments))
    in_a_group = [{"params": parameters(), **arguments}]
    assert torch.equal(found, expected)
    assert not torch.equal(found, walked(made(parameters(), convention=convention)))
    # What the states start with is the class's alone, here as in torch.
    if "initial_accumulator_value" not in arguments:
        assert torch.equal(walked(made(in_a_group, convention=convention)), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_groups_decay_as_they_say(name: str) -> None:
    ways = [*DECAYS, None]
    together = [(p,) for p in parameters()]
    groups = [
        {"params": list(params)} | ({"decay": way} if way else {})
        for params, way in zip(together, ways, strict=True)
    ]
    # The last does as the class does; another way is given for that than the class's own.
    path = walked(CLASSES[name](groups, lr=0.1, weight_decay=0.2, decay="independent"))
    for i, way in enumerate(ways):
        alone = parameters()
        walked(CLASSES[name](alone, lr=0.1, weight_decay=0.2, decay=way or "independent"))
        assert torch.equal(together[i][0], alone[i])
    assert path.isfinite().all()


@pytest.mark.parametrize("name", CLASSES)
def test_a_group_alone_may_decay(name: str) -> None:
    params, plain = parameters(), parameters()
    groups = [{"params": params[:2], "weight_decay": 0.2}, {"params": params[2:]}]
    walked(CLASSES[name](groups, lr=0.1, weight_decay=0.0))
    walked(CLASSES[name](plain, lr=0.1, weight_decay=0.0))
    assert [torch.equal(p, q) for p, q in zip(params, plain, strict=True)] == [0, 0, 1, 1]


@pytest.mark.parametrize("name", CLASSES)
def test_decay_by_a_share_is_none_where_the_learning_rate_is_0(name: str) -> None:
    start, still = parameters(), parameters()
    path = walked(CLASSES[name](still, lr=0.0, weight_decay=0.2, decay="independent"))
    assert torch.equal(path, walked(CLASSES[name](start, lr=0.0, weight_decay=0.0)))
    # The learning rate of Rprop is the step size it starts with.
    assert all(map(torch.equal, still, parameters())) == (name != "Rprop")
    moved = walked(CLASSES[name](parameters(), lr=1e-30, weight_decay=0.2, decay="independent"))
    assert not torch.equal(moved, path)


@pytest.mark.parametrize("name", MIRRORS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_groups_hold_torchs_settings_and_no_more(name: str, convention: str) -> None:
    torchs = getattr(torch.optim, name)(parameters()).state_dict()["param_groups"]
    for decay in (None, "l2"):
        optimizer = CLASSES[name](parameters(), convention=convention, decay=decay)
        (group,) = optimizer.state_dict()["param_groups"]
        assert {*group} == {*torchs[0]} | ({"decay"} if decay else set())


def by_pickle(optimizer: tw.Optimizer) -> tw.Optimizer:
    return pickle.loads(pickle.dumps(optimizer))


def by_state_dict(optimizer: tw.Optimizer) -> tw.Optimizer:
    """Into one that has the convention, which is no setting of a group, and no decay."""
    params = copies([p for group in optimizer.param_groups for p in group["params"]])
    convention = getattr(optimizer, "convention", "keras")
    other = type(optimizer)(params, convention=convention)  # pyright: ignore
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other


@pytest.mark.parametrize("again", [by_pickle, copy.deepcopy, by_state_dict])
@pytest.mark.parametrize("name", CLASSES)
def test_convention_and_decay_are_kept(name: str, again) -> None:
    given = {"lr": 0.1, "weight_decay": 0.2, "decay": "independent"}
    optimizer = CLASSES[name](parameters(), convention="keras", **given)
    walked(optimizer)
    other = again(optimizer)
    assert torch.equal(walked(other, range(6, 9)), walked(optimizer, range(6, 9)))
    assert other.param_groups[0]["decay"] == "independent"


@pytest.mark.parametrize("name", MIRRORS)
def test_a_checkpoint_without_a_decay_leaves_the_one_that_was_given(name: str) -> None:
    given = {} if name == "Rprop" else {"weight_decay": 0.2}
    torchs = parameters()
    theirs = getattr(torch.optim, name)(torchs, lr=0.1, **given)
    walk(torchs, theirs, range(3))
    paths = {}
    for decay in DECAYS:
        optimizer = CLASSES[name](copies(torchs), weight_decay=0.2, decay=decay)
        optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
        paths[decay] = walked(optimizer, range(3, 6))
    for one, other in list(combinations(DECAYS, 2))[name == "SGD" :]:
        assert not torch.equal(paths[one], paths[other])


WRONG = {
    "decay": ({"decay": "decopled"}, "unknown decay 'decopled'. Did you mean decoupled "),
    "convention": ({"convention": "kears"}, "unknown convention 'kears'. Did you mean keras?"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", CLASSES)
def test_a_misspelt_name_is_told_with_the_nearest(name: str, arguments: Arguments, message) -> None:
    with pytest.raises(tw.UsageError) as error:
        CLASSES[name](parameters(), **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("name", CLASSES)
def test_a_groups_decay_is_checked(name: str) -> None:
    message = "Did you mean independent"
    with pytest.raises(tw.UsageError, match=message):
        CLASSES[name]([{"params": parameters(), "decay": "independant"}])
    params = parameters()
    optimizer = CLASSES[name](params)
    optimizer.param_groups[0]["decay"] = "independant"
    with pytest.raises(tw.UsageError, match=message):
        walk(params, optimizer, range(1))
    assert all(map(torch.equal, params, parameters()))


CLIPPED = {
    # With an eps that shows how long the gradient is.
    "Adam": (rules.adam, {"eps": 0.1}, {"eps": 0.1}),
    "SGD": (rules.momentum, {"gamma": 0.9}, {"momentum": 0.9}),
}


@pytest.mark.parametrize("limit", [0.5, 2.0, 100.0])
@pytest.mark.parametrize(
    ("stage", "clip"),
    [
        (rules.clip_norm, torch.nn.utils.clip_grad_norm_),
        (rules.clip_value, torch.nn.utils.clip_grad_value_),
    ],
    ids=["norm", "value"],
)
@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_inside_the_step_is_clipping_before_torchs(name, stage, clip, limit) -> None:
    rule, settings, arguments = CLIPPED[name]
    ours, torchs, apart = parameters(), parameters(), parameters()

    def groups(params: list[Tensor]) -> list[dict]:
        return [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.3}]

    def torchs_path(params: list[Tensor], together: bool) -> Tensor:
        optimizer = getattr(torch.optim, name)(groups(params), **arguments)
        parts = [params] if together else [params[:2], params[2:]]
        optimizer.register_step_pre_hook(lambda *_: [clip(part, limit) for part in parts] and None)
        return walk(params, optimizer, range(10))

    convention = {"convention": "torch"}
    optimizer = tw.Optimizer(groups(ours), chain(stage(limit), rule), **convention, **settings)
    found = walked(optimizer, range(10))
    expected = torchs_path(torchs, together=True)
    assert_close(found, expected, 1e-6)
    # There is one norm for all groups: another for each would show.
    shows = stage is rules.clip_norm and limit < 100
    assert torch.allclose(expected, torchs_path(apart, together=False)) != shows
    plain = walked(tw.Optimizer(groups(parameters()), rule, **convention, **settings), range(10))
    assert torch.equal(found, plain) == (limit == 100)


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam"])
def test_decay_that_is_said_not_to_be_decoupled_is_l2(name: str) -> None:
    given = {"lr": 0.1, "weight_decay": 0.2, "convention": "keras"}
    found = walked(CLASSES[name](parameters(), decoupled_weight_decay=False, **given))
    assert torch.equal(found, walked(CLASSES[name](parameters(), decay="l2", **given)))


def test_a_group_has_no_convention_of_its_own() -> None:
    with pytest.raises(tw.UsageError, match="one convention holds for a whole optimizer"):
        tw.Adam([{"params": parameters(), "convention": "keras"}])


@pytest.mark.parametrize("convention", ["keras", "torch"])
def test_sparse_adam_adds_epsilon_where_keras_does(convention: str) -> None:
    """Before the bias is corrected, unlike `torch.optim.Adam`."""
    ours, torchs = (torch.ones(6, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = CLASSES["Adam"]([ours], lr=0.1, eps=0.01, convention=convention)
    twin = torch.optim.SparseAdam([torchs], lr=0.1, eps=0.01)
    generator = torch.Generator().manual_seed(0)
    for t in range(10):
        values = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        rows = torch.tensor([[t % 6, 1, 2]])
        for p in (ours, torchs):
            p.grad = torch.sparse_coo_tensor(rows, values, p.shape, check_invariants=True)
        optimizer.step()
        twin.step()
    gap = (ours - torchs).detach().abs().max()
    assert gap < 1e-12 if convention == "keras" else gap > 1e-3


def test_gradients_that_have_no_norm_are_refused_where_it_is_needed() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.tensor([1.0, torch.nan, 1.0])
    with pytest.raises(tw.UsageError, match="the norm of all gradients is nan"):
        tw.Optimizer([p], tw.chain(tw.clip_norm(1.0), tw.sgd), lr=0.1).step()
    assert torch.equal(p.detach(), torch.ones(3))
