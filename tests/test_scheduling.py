"""Settings of optimizers that are schedules: the path of one whose settings are set by hand."""

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw
from cases import CASES, Case
from thalweg import UsageError, scheduling
from thalweg.optim import CLASSES
from thalweg.schedules import linear

STEPS = 6
MIRRORS = [name for name in CLASSES if hasattr(torch.optim, name)]


def parameters(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(7,), (3, 4), (2, 1, 5)][:count]
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


def give(optimizer: torch.optim.Optimizer, t: int) -> None:
    """Gradients that depend on the parameters and on the step."""
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            generator = torch.Generator().manual_seed(100 * t + i)
            p.grad = torch.randn(p.shape, generator=generator) + torch.tanh(p.detach())


def take(optimizer: torch.optim.Optimizer, t: int) -> None:
    """A step, with a closure for those that take the gradient elsewhere."""

    def closure() -> float:
        give(optimizer, t)
        return 0.0

    optimizer.step(closure)


def weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]


def assert_equal(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for p, q in zip(found, expected, strict=True):
        assert torch.equal(p, q)


def shrinking(value: float, step: int) -> float:
    return value * (1 - 0.1 / (step + 1))


def scheduled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {n: partial(shrinking, v) if type(v) is float else v for n, v in settings.items()}


def at(settings: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {n: shrinking(v, step) if type(v) is float else v for n, v in settings.items()}


def assert_follows(
    made: torch.optim.Optimizer, by_hand: torch.optim.Optimizer, changes: Callable[[int], Any]
) -> None:
    """Every step is that of the optimizer whose settings are changed by hand before it."""
    start = weights(made)
    for t in range(STEPS):
        for group in by_hand.param_groups:
            group.update(changes(t))
        for optimizer in (made, by_hand):
            take(optimizer, t)
        assert_equal(weights(made), weights(by_hand))
    assert any(p.ne(q).any() for p, q in zip(weights(made), start, strict=True))


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_setting_of_a_rule_follows_its_schedule(case: Case, backend: str) -> None:
    make = partial(
        tw.Optimizer, parameters(), case.rule, convention=case.convention, backend=backend
    )
    by_hand = tw.Optimizer(
        parameters(),
        case.rule,
        convention=case.convention,
        backend=backend,
        **at(case.settings, 0),
    )
    assert_follows(make(**scheduled(case.settings)), by_hand, partial(at, case.settings))


TWINS = [case for case in CASES if case.torch is not None]


@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_the_parts_of_torchs_pairs_are_settings_of_their_own(case: Case) -> None:
    assert case.torch is not None
    cls = CLASSES[case.torch.name]
    named = {case.torch.names.get(n, n): v for n, v in case.settings.items()}
    made = cls(parameters(), **{**scheduled(named), **case.torch.fixed}, backend="eager")
    by_hand = cls(parameters(), **case.torch.arguments(at(case.settings, 0)), backend="eager")
    assert_follows(made, by_hand, lambda t: case.torch.arguments(at(case.settings, t)))


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    group = optimizer.param_groups[0]
    names = ("lr", "weight_decay", "momentum", "beta1", "beta2")
    return {n: float(group[n]) for n in names if type(group.get(n)) is float and group[n]}


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_follows_schedules(name: str) -> None:
    cls: Any = CLASSES[name]
    settings = settings_of(cls(parameters())) | {"weight_decay": 0.01}
    made = cls(parameters(), **scheduled(settings), backend="eager")
    by_hand = cls(parameters(), **settings, backend="eager")
    assert_follows(made, by_hand, partial(at, settings))
    assert settings_of(made) == at(settings, STEPS - 1)


def test_a_class_takes_beta1_beside_betas_only_once() -> None:
    with pytest.raises(UsageError, match=r"beta1 is .* but betas is given too"):
        tw.Adam(parameters(), beta1=linear(0.9, 0.8, 5), betas=(0.9, 0.99))


LR = linear(0.1, 0.01, STEPS + 10)
BETA = linear(0.9, 0.5, STEPS + 10)


def adam(params: Any = None, **more: Any) -> Any:
    return tw.Adam(parameters() if params is None else params, lr=LR, beta1=BETA, **more)


def torchs(optimizer: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam([p.requires_grad_() for p in weights(optimizer)])


def go_on(optimizer: Any, steps: range) -> list[Tensor]:
    for t in steps:
        take(optimizer, t)
    return weights(optimizer)


def test_groups_have_schedules_and_constants_of_their_own() -> None:
    p, q, r = parameters()
    groups = [
        {"params": [p]},
        {"params": [q], "lr": linear(1.0, 0.5, 20), "beta1": 0.25},
        {"params": [r], "lr": 0.125, "beta2": linear(0.9, 0.8, 20)},
    ]
    optimizer = adam(groups)
    for t in range(3):
        take(optimizer, t)
        found = [(g["lr"], g["betas"]) for g in optimizer.param_groups]
        assert found == [
            (LR(t), (BETA(t), 0.999)),
            (linear(1.0, 0.5, 20)(t), (0.25, 0.999)),
            (0.125, (BETA(t), linear(0.9, 0.8, 20)(t))),
        ]


def test_a_groups_schedule_needs_none_of_the_whole() -> None:
    p, q, _ = parameters()
    optimizer = tw.SGD([{"params": [p]}, {"params": [q], "lr": LR}], lr=0.5)
    go_on(optimizer, range(3))
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, LR(2)]


def test_momentum_is_the_setting_of_that_kind_under_any_name() -> None:
    for cls, key in ((tw.Adam, "betas"), (tw.SGD, "momentum"), (tw.NAG, "gamma")):
        group = cls(parameters(), lr=0.1).param_groups[0]
        where = scheduling.place(group, "momentum")
        assert where[0] == key
        before = group[key]
        scheduling.put(group, where, 0.375)
        assert group[key] == ((0.375, before[1]) if key == "betas" else 0.375)
    with pytest.raises(UsageError, match="momentum"):
        scheduling.place(tw.Adagrad(parameters()).param_groups[0], "momentum")


def test_a_learning_rate_that_is_a_tensor_is_changed_in_place() -> None:
    lr = torch.tensor(0.5)
    group = {"params": [], "lr": lr}
    scheduling.put(group, ("lr", None), 0.25)
    assert group["lr"] is lr
    assert float(lr) == 0.25


@pytest.mark.parametrize("make", [adam, partial(tw.NAG, lr=LR, gamma=BETA)], ids=["adam", "nag"])
def test_a_saved_optimizer_goes_on_at_the_right_step(make: Any) -> None:
    whole = go_on(make(parameters()), range(6))
    begun = make(parameters())
    params = [p.clone().requires_grad_() for p in go_on(begun, range(3))]
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert "schedules" not in saved["param_groups"][0]
    after = make(params)
    after.load_state_dict(saved)
    assert_equal(go_on(after, range(3, 6)), whole)
    # What was saved is as it was, and so is the optimizer that it came from.
    assert_equal(go_on(begun, range(3, 6)), whole)


def test_checkpoints_go_to_torchs_class_and_come_from_it() -> None:
    ours = adam()
    go_on(ours, range(3))
    torchs_own = torchs(ours)
    # What is loaded is not copied, by torch neither.
    torchs_own.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert torchs_own.param_groups[0]["lr"] == LR(2)
    assert torchs_own.param_groups[0]["betas"] == (BETA(2), 0.999)
    again = adam([p.requires_grad_() for p in weights(torchs_own)])
    again.load_state_dict(torchs_own.state_dict())
    assert_equal(go_on(again, range(3, 6)), go_on(ours, range(3, 6)))


def test_a_checkpoint_with_a_count_of_steps_fits_an_optimizer_without_schedules() -> None:
    begun = adam()
    go_on(begun, range(3))
    plain = tw.Adam(parameters())
    plain.load_state_dict(begun.state_dict())
    take(plain, 3)
    assert plain.param_groups[0]["lr"] == LR(2)
    assert "steps" not in plain.param_groups[0]


def test_without_a_schedule_nothing_of_it_is_in_a_group() -> None:
    optimizer = tw.Adam(parameters(), lr=0.1)
    assert not {"schedules", "steps"} & optimizer.param_groups[0].keys()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_on_by_itself(copied: Callable[[Any], Any]) -> None:
    whole = go_on(adam(), range(6))
    begun = adam()
    go_on(begun, range(3))
    other = copied(begun)
    assert_equal(go_on(other, range(3, 6)), whole)
    assert begun.param_groups[0]["steps"] == 3
    assert_equal(go_on(begun, range(3, 6)), whole)


def test_a_compiled_step_follows_and_is_compiled_once() -> None:
    whole = go_on(adam(), range(6))
    optimizer, compiled = adam(), 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch.compiler.reset()
    step = torch.compile(optimizer.step, backend=count)
    for t in range(6):
        give(optimizer, t)
        step()
    assert_equal(weights(optimizer), whole)
    assert optimizer.param_groups[0]["lr"] == LR(5)
    assert compiled == 1


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_leaves_out_does_not_count(fused: bool) -> None:
    optimizer = adam(fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for t, broken in enumerate((False, True, False)):
        loss = sum((p * p).sum() for p in optimizer.param_groups[0]["params"])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if broken:
            optimizer.param_groups[0]["params"][1].grad[0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.param_groups[0]["steps"] == (1, 1, 2)[t]
    assert optimizer.param_groups[0]["lr"] == LR(1)


def test_a_closure_that_is_called_more_than_once_is_one_step() -> None:
    optimizer = adam()
    seen: list[float] = []

    def closure() -> float:
        seen.append(optimizer.param_groups[0]["lr"])
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        return 0.0

    def twice() -> float:
        return closure() + closure()

    for _ in range(3):
        optimizer.step(twice)
    assert seen == [LR(0), LR(0), LR(1), LR(1), LR(2), LR(2)]
    assert optimizer.param_groups[0]["steps"] == 3


def test_a_group_that_comes_later_begins_its_schedule_then() -> None:
    p, q, _ = parameters()
    optimizer = adam([p])
    go_on(optimizer, range(2))
    optimizer.add_param_group({"params": [q]})
    take(optimizer, 2)
    assert [g["lr"] for g in optimizer.param_groups] == [LR(2), LR(0)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"lr": lambda step: 0.1 if step < 2 else math.nan}, "lr is nan"),
        ({"lr": lambda step: 0.1 if step < 2 else -1.0}, r"lr is -1\.0"),
        ({"beta1": lambda step: 0.9 if step < 2 else 1.0}, r"beta1 is 1\.0"),
        ({"lr": lambda step: 0.1 if step < 2 else "high"}, "lr is 'high'"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_step(wrong: Any, says: str) -> None:
    optimizer = tw.Adam(parameters(), **wrong)
    before = go_on(optimizer, range(2))
    with pytest.raises(UsageError, match=rf"at step 2.*{says}"):
        take(optimizer, 2)
    assert_equal(weights(optimizer), before)


def test_a_value_out_of_range_at_the_start_is_found_at_once() -> None:
    with pytest.raises(UsageError, match="lr"):
        tw.Adam(parameters(), lr=linear(-1.0, 1.0, 5))


def test_a_schedule_that_is_over_is_an_error() -> None:
    optimizer = tw.Adam(parameters(), lr=tw.one_cycle(0.1, steps=3))
    before = go_on(optimizer, range(3))
    with pytest.raises(UsageError, match="covers 3 steps"):
        take(optimizer, 3)
    assert_equal(weights(optimizer), before)
