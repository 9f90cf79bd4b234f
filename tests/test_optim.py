"""The torch classes: torch's own trajectories, and everything else a torch optimizer does."""

import copy
import gc
import inspect
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import thalweg as tw
from cases import CASES, Case
from thalweg import optim, rules
from thalweg.optim import CLASSES

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
MIRRORS = [name for name in CLASSES if hasattr(torch.optim, name)]
OWN = [name for name in CLASSES if name not in MIRRORS]
Optimizers = Callable[[list[Tensor]], torch.optim.Optimizer]


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """The default dtype too, in which torch keeps NAdam's product of momenta."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def parameters(seed: int = 0, dtype: torch.dtype | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(7,), (3, 4), (), (2, 1, 5)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@cache
def noise(t: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(shape, generator=generator, dtype=dtype)


def train(
    params: list[Tensor], optimizer: torch.optim.Optimizer, steps: range, sign: int = 1
) -> None:
    """Steps along gradients that depend on the parameters and on the step.

    They are those of a convex function and of noise, so that a rounding error does not grow.
    """
    for t in steps:
        for p in params:
            p.grad = sign * (noise(t, p.shape, p.dtype) + 0.1 * torch.tanh(p.detach()))
        optimizer.step()


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    scale = max(1.0, *(q.detach().abs().max().item() for q in expected))
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=tolerance * scale)


def assert_parity(
    ours: Optimizers, torchs: Optimizers, seed: int, dtype: torch.dtype, *, climb: bool = False
) -> None:
    """Both walk the same path, to a rounding error of the largest parameter on the way."""
    paths = []
    for made in (ours, torchs):
        params, path = parameters(seed), []
        optimizer = made(params)
        for t in range(100):
            train(params, optimizer, range(t, t + 1), -1 if climb else 1)
            path.append(torch.cat([p.detach().flatten() for p in params]))
        paths.append(torch.stack(path))
    assert_close([paths[0]], [paths[1]], TOLERANCE[dtype])
    assert paths[0][-1].ne(paths[0][0]).any()


def eagerly(made: Callable[[list[Tensor]], tw.Optimizer]) -> Optimizers:
    """The same with torch's own operations, for tests with so many rules that compiling shows."""

    def make(params: list[Tensor]) -> tw.Optimizer:
        optimizer = made(params)
        optimizer.backend = "eager"
        return optimizer

    return make


TWINS = [case for case in CASES if case.torch is not None]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_a_rule_walks_its_torch_twins_path(case: Case, seed: int, dtype: torch.dtype) -> None:
    assert case.torch is not None
    settings = case.drawn(np.random.default_rng(seed))
    twin, arguments = getattr(torch.optim, case.torch.name), case.torch.arguments(settings)
    assert_parity(
        lambda params: tw.Optimizer(params, case.rule, backend="eager", **settings),
        lambda params: twin(params, **arguments),
        seed,
        dtype,
        climb=bool(arguments.get("maximize")),
    )


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"maximize": True}], ids=str)
@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_a_class_walks_its_torch_twins_path(case: Case, options: dict, dtype: torch.dtype) -> None:
    assert case.torch is not None
    settings = case.drawn(np.random.default_rng(10))
    ours, torchs = CLASSES[case.torch.name], getattr(torch.optim, case.torch.name)
    # torch's Rprop has no weight decay.
    known = inspect.signature(torchs).parameters
    arguments = case.torch.arguments(settings) | {n: v for n, v in options.items() if n in known}
    assert_parity(
        eagerly(lambda params: ours(params, **arguments)),
        lambda params: torchs(params, **arguments),
        0,
        dtype,
        climb=bool(arguments.get("maximize")),
    )


def test_every_class_of_torchs_has_a_twin_in_the_table() -> None:
    assert {case.torch.name for case in TWINS if case.torch} == set(MIRRORS)


@pytest.mark.parametrize("name", MIRRORS)
def test_defaults_walk_torchs_path(name: str, dtype: torch.dtype) -> None:
    assert_parity(CLASSES[name], getattr(torch.optim, name), 0, dtype)


def test_the_comparison_sees_a_difference() -> None:
    with pytest.raises(AssertionError):
        assert_parity(
            lambda params: tw.Adam(params, eps=1e-8),
            lambda params: torch.optim.Adam(params, eps=1e-3),
            0,
            torch.float32,
        )


@pytest.mark.parametrize("name", MIRRORS)
def test_constructors_are_torchs(name: str) -> None:
    ours = inspect.signature(CLASSES[name]).parameters
    torchs = inspect.signature(getattr(torch.optim, name)).parameters
    more = {n: p for n, p in ours.items() if n not in torchs}
    assert [p for n, p in ours.items() if n in torchs] == [*torchs.values()]
    assert {*more} == {"convention", "decay", "backend"}
    assert all(p.kind is p.KEYWORD_ONLY for p in more.values())
    defaults = getattr(torch.optim, name)(parameters()).defaults
    assert CLASSES[name](parameters()).defaults == defaults


@pytest.mark.parametrize("name", OWN)
def test_classes_torch_lacks_take_the_rules_settings(name: str) -> None:
    rule = next(r for r in rules.OPTIMIZERS.values() if r.title == name)
    optimizer = CLASSES[name](parameters(), 0.25)
    expected = rule.settings("torch", lr=0.25)
    decay = {"weight_decay": 0.0, "decay": "l2"}
    assert optimizer.defaults == {**expected.hypers, **expected.flags, **decay}


def test_classes_have_the_names_of_the_rules() -> None:
    assert set(CLASSES) == {rule.title for rule in rules.OPTIMIZERS.values()}
    assert all(getattr(optim, name) is CLASSES[name] for name in CLASSES)
    assert all(getattr(tw, name) is CLASSES[name] for name in CLASSES)
    with pytest.raises(AttributeError, match="Did you mean Adam"):
        optim.__getattr__("adam")


def test_groups_have_settings_of_their_own() -> None:
    ours, torchs = parameters(), parameters()

    def groups(params: list[Tensor]) -> list[dict]:
        return [
            {"params": params[:2], "lr": 0.1, "momentum": 0.5},
            {"params": params[2:], "nesterov": True, "momentum": 0.9},
        ]

    train(ours, tw.SGD(groups(ours), lr=0.01), range(20))
    train(torchs, torch.optim.SGD(groups(torchs), lr=0.01), range(20))
    assert_close(ours, torchs, 1e-6)


def test_a_group_added_on_the_way_starts_from_the_beginning() -> None:
    ours, torchs = parameters(), parameters()
    for params, made in ((ours, tw.Adam), (torchs, torch.optim.Adam)):
        optimizer = made(params[:2], lr=0.1)
        train(params[:2], optimizer, range(5))
        optimizer.add_param_group({"params": params[2:], "lr": 0.3})
        train(params, optimizer, range(5, 10))
    assert_close(ours, torchs, 1e-6)


@pytest.mark.parametrize("name", MIRRORS)
def test_parameters_without_gradient_stand_still(name: str) -> None:
    ours, torchs = parameters(), parameters()
    counts = []
    for params, made in ((ours, CLASSES[name]), (torchs, getattr(torch.optim, name))):
        params[0].requires_grad_(False)
        optimizer = made(params)
        for t in range(12):
            train(params, optimizer, range(t, t + 1))
            for i, p in enumerate(params):
                generator = torch.Generator().manual_seed(100 * t + i)
                p.grad = (
                    None
                    if (t + i) % 3 == 0 or i == 0
                    else torch.randn(p.shape, generator=generator)
                )
            optimizer.step()
            params[0].grad = None
        counts.append([float(optimizer.state[p].get("step", -1)) for p in params])
    assert_close(ours, torchs, 1e-6)
    assert len(set(counts[0])) > 1 or name == "SGD"
    assert counts[0] == counts[1]


def test_frozen_parameters_are_left_alone() -> None:
    params = parameters()
    params[0].requires_grad_(False)
    before = params[0].clone()
    optimizer = tw.Adam(params)
    train(params[1:], optimizer, range(3))
    assert torch.equal(params[0], before)
    assert params[0] not in optimizer.state


def test_a_closure_is_called_once_with_gradients_on() -> None:
    (p, *_), calls = parameters(), []
    optimizer = tw.SGD([p], lr=0.1)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    before = p.detach().clone()
    loss = optimizer.step(closure)
    assert calls == [True]
    assert loss == (before**2).sum()
    torch.testing.assert_close(p.detach(), before - 0.1 * 2 * before)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_learning_rate_schedulers_work(name: str) -> None:
    ours, torchs = parameters(), parameters()
    for params, made in ((ours, CLASSES[name]), (torchs, getattr(torch.optim, name))):
        optimizer = made(params, lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        for t in range(10):
            train(params, optimizer, range(t, t + 1))
            scheduler.step()
    assert_close(ours, torchs, 1e-6)


def test_one_cycle_changes_the_betas_too() -> None:
    ours, torchs = parameters(), parameters()
    for params, made in ((ours, tw.Adam), (torchs, torch.optim.Adam)):
        optimizer = made(params, lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
        for t in range(10):
            train(params, optimizer, range(t, t + 1))
            scheduler.step()
    assert_close(ours, torchs, 1e-6)


def adams(backend: str) -> list[Optimizers]:
    """Ours and torch's."""
    return [
        lambda params: tw.Adam(params, lr=0.1, amsgrad=True, backend=backend),
        lambda params: torch.optim.Adam(params, lr=0.1, amsgrad=True),
    ]


def doubled(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state[p]["exp_avg"] = 2 * optimizer.state[p]["exp_avg"]


def doubled_in_place(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state[p]["exp_avg"].mul_(2)


def doubled_data(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state[p]["exp_avg"].data = 2 * optimizer.state[p]["exp_avg"].data


def counted_anew(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state[p]["step"] = torch.tensor(0.0)


def counted_anew_in_place(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state[p]["step"].zero_()


def begun_anew(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    del optimizer.state[p]


def all_begun_anew(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state.clear()


def put_in_place(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    copied = {name: x.clone() for name, x in optimizer.state[p].items()}
    optimizer.state[p] = copied | {"exp_avg": torch.ones_like(p)}


def reloaded(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    kept = copy.deepcopy(optimizer.state_dict())
    kept["state"][1]["exp_avg"] *= 2
    optimizer.load_state_dict(kept)


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize(
    "change",
    [
        doubled,
        doubled_in_place,
        doubled_data,
        counted_anew,
        counted_anew_in_place,
        begun_anew,
        all_begun_anew,
        put_in_place,
        reloaded,
    ],
)
def test_what_a_user_does_to_the_state_counts(change, backend: str) -> None:
    ends = []
    for made in (*adams(backend), adams(backend)[0]):
        params = parameters(dtype=torch.float64)
        optimizer = made(params)
        train(params, optimizer, range(5))
        if len(ends) < 2:
            change(optimizer, params[1])
        train(params, optimizer, range(5, 10))
        ends.append(params)
    changed, torchs, unchanged = ends
    assert_close(changed, torchs, 1e-12)
    assert (changed[1] - unchanged[1]).abs().max() > 1e-3


def test_what_a_closure_does_to_groups_counts_in_its_step() -> None:
    ends = []
    for made in (tw.SGD, torch.optim.SGD):
        params = parameters()
        optimizer = made(params[:1], lr=0.1)

        def closure(params=params, optimizer=optimizer) -> float:
            optimizer.param_groups[0]["lr"] *= 0.5
            if len(optimizer.param_groups) == 1:
                optimizer.add_param_group({"params": params[1:]})
            for p in params:
                p.grad = torch.ones_like(p)
            return 1.0

        for _ in range(3):
            optimizer.step(closure)
        ends.append(params)
    assert_close(*ends, 1e-6)


def test_a_group_that_is_taken_out_is_let_go() -> None:
    params = parameters()
    optimizer = tw.Adam([{"params": params[:1]}, {"params": params[1:]}])
    train(params, optimizer, range(2))
    kept = [weakref.ref(p) for p in params[1:]]
    del optimizer.param_groups[1]
    for p in params[1:]:
        del optimizer.state[p]
    del params[1:], p
    train(params, optimizer, range(1))
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def test_a_parameter_may_be_exchanged_for_another() -> None:
    ours, torchs = parameters(), parameters()
    for params, made in ((ours, adams("fused")[0]), (torchs, adams("fused")[1])):
        optimizer = made(params)
        train(params, optimizer, range(3))
        before = params[1].detach().clone()
        old = params[1]
        params[1] = optimizer.param_groups[0]["params"][1] = torch.ones(3, 4, requires_grad=True)
        train(params, optimizer, range(3, 6))
        assert torch.equal(old, before)
    assert_close(ours, torchs, 1e-6)


def test_steps_are_views_of_one_tensor() -> None:
    params = parameters()
    optimizer = tw.Adam(params)
    train(params, optimizer, range(3))
    steps = [optimizer.state[p]["step"] for p in params]
    assert [s.item() for s in steps] == [3] * len(params)
    assert len({s.untyped_storage().data_ptr() for s in steps}) == 1
    assert len({s.data_ptr() for s in steps}) == len(params)
    params[0].grad = None
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 4, 4, 4]


def test_a_run_may_go_back_to_where_it_was() -> None:
    params = parameters(dtype=torch.float64)
    optimizer = tw.Adam(params, lr=0.1)
    train(params, optimizer, range(3))
    kept = copy.deepcopy(optimizer.state_dict())
    start = [p.detach().clone() for p in params]
    ends = []
    for _ in range(2):
        with torch.no_grad():
            for p, q in zip(params, start, strict=True):
                p.copy_(q)
        optimizer.load_state_dict(copy.deepcopy(kept))
        train(params, optimizer, range(3, 8))
        ends.append([p.detach().clone() for p in params])
    assert all(map(torch.equal, *ends))
    assert {float(s["step"]) for s in kept["state"].values()} == {3}


class Calls(list[str]):
    """Which optimizers have called a hook, and whether it was before their step or after."""

    def __init__(self, p: Tensor) -> None:
        self.p, self.start = p, p.detach().clone()

    def hook(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        when = "before" if torch.equal(self.p, self.start) else "after"
        self.append(f"{when} {type(optimizer).__name__}")
        self.start = self.p.detach().clone()


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_are_called(when: str) -> None:
    """One kind at a time: each alone must be enough to have hooks at all."""
    params = parameters()
    calls = Calls(params[0])
    optimizer, other = tw.Adam(params), tw.Adam(parameters())
    register = {
        "before": optimizer.register_step_pre_hook,
        "after": optimizer.register_step_post_hook,
    }[when]
    handle = register(calls.hook)
    train(params, optimizer, range(1))
    train(parameters(), other, range(1))
    assert calls == [f"{when} Adam"]
    handle.remove()
    train(params, optimizer, range(1))
    assert calls == [f"{when} Adam"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_of_all_optimizers_are_called(when: str) -> None:
    register = {
        "before": register_optimizer_step_pre_hook,
        "after": register_optimizer_step_post_hook,
    }[when]
    names = []
    for made in (tw.Adam, tw.QHM, torch.optim.SGD):
        params = parameters()
        calls, optimizer = Calls(params[0]), made(params)
        handle = register(calls.hook)
        try:
            train(params, optimizer, range(1))
        finally:
            handle.remove()
        train(params, optimizer, range(1))
        names += calls
    assert names == [f"{when} Adam", f"{when} QHM", f"{when} SGD"]


def test_a_hook_may_change_the_arguments() -> None:
    params, calls = parameters(), []
    optimizer = tw.Adam(params)

    def closure() -> float:
        calls.append("closure")
        return 1.0

    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, closure), {}))
    assert optimizer.step() == 1.0
    assert calls == ["closure"]


@pytest.mark.parametrize("made", [tw.Adam, tw.QHM, torch.optim.Adam], ids=lambda made: str(made))
def test_a_profiler_sees_the_steps(made) -> None:
    params = parameters()
    optimizer = made(params)
    train(params, optimizer, range(2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(params, optimizer, range(3))
        optimizer.zero_grad()
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts[f"Optimizer.step#{made.__name__}.step"] == 3
    assert counts[f"Optimizer.zero_grad#{made.__name__}.zero_grad"] == 1


CHAIN = rules.chain(rules.l2(1e-2), rules.noise(seed=3), rules.nadam, rules.decay(0.1))
MAKERS: dict[str, Optimizers] = {
    **{name: eagerly(made) for name, made in CLASSES.items()},
    "compiled": tw.NAdam,
    "SGD with momentum": lambda params: tw.SGD(params, lr=0.1, momentum=0.9, dampening=0.5),
    "chain": lambda params: tw.Optimizer(params, CHAIN, lr=0.01),
}


def saved(optimizer: torch.optim.Optimizer) -> dict:
    """The state dict from a file, which may hold tensors and plain values alone."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def by_state_dict(optimizer: torch.optim.Optimizer, made: Optimizers, params: list[Tensor]):
    other = made(params)
    other.load_state_dict(saved(optimizer))
    return params, other


def by_deepcopy(optimizer: torch.optim.Optimizer, made: Optimizers, params: list[Tensor]):
    other = copy.deepcopy(optimizer)
    return [p for group in other.param_groups for p in group["params"]], other


def by_pickle(optimizer: torch.optim.Optimizer, made: Optimizers, params: list[Tensor]):
    other = pickle.loads(pickle.dumps(optimizer))
    return [p for group in other.param_groups for p in group["params"]], other


@pytest.mark.parametrize("resumed", [by_state_dict, by_deepcopy, by_pickle])
@pytest.mark.parametrize("name", MAKERS)
def test_a_run_that_is_interrupted_goes_on_as_it_would_have(name: str, resumed) -> None:
    made = MAKERS[name]
    params = parameters(dtype=torch.float64)
    optimizer = made(params)
    train(params, optimizer, range(5))
    copies = [p.detach().clone().requires_grad_() for p in params]
    others, other = resumed(optimizer, made, copies)
    assert type(other) is type(optimizer)
    train(params, optimizer, range(5, 10))
    train(others, other, range(5, 10))
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


TORCHS = [
    *((name, {}) for name in MIRRORS),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
]


def assert_other_goes_on(first: Optimizers, second: Optimizers) -> None:
    """`second` goes on from `first`'s checkpoint as `first` does.

    One parameter has no gradient at first, so that not all have taken equally many steps.
    """
    params = parameters(dtype=torch.float64)
    optimizer = first(params)
    train(params[1:], optimizer, range(1))
    train(params, optimizer, range(1, 5))
    others = [p.detach().clone().requires_grad_() for p in params]
    other = second(others)
    other.load_state_dict(saved(optimizer))
    train(params, optimizer, range(5, 10))
    train(others, other, range(5, 10))
    # torch holds NAdam's product of momenta in float32.
    assert_close(others, params, 1e-12 if type(optimizer).__name__ != "NAdam" else 1e-9)


@pytest.mark.parametrize(("name", "arguments"), TORCHS, ids=str)
def test_torchs_checkpoints_are_loaded(name: str, arguments: dict) -> None:
    assert_other_goes_on(
        lambda params: getattr(torch.optim, name)(params, lr=0.1, **arguments),
        lambda params: CLASSES[name](params, lr=0.1, **arguments),
    )


@pytest.mark.parametrize(("name", "arguments"), TORCHS, ids=str)
def test_torch_loads_our_checkpoints(name: str, arguments: dict) -> None:
    assert_other_goes_on(
        lambda params: CLASSES[name](params, lr=0.1, **arguments),
        lambda params: getattr(torch.optim, name)(params, lr=0.1, **arguments),
    )


def test_state_has_torchs_names() -> None:
    for name, arguments in TORCHS:
        ours, torchs = parameters(), parameters()
        held = CLASSES[name](ours, lr=0.1, **arguments)
        theirs = getattr(torch.optim, name)(torchs, lr=0.1, **arguments)
        train(ours, held, range(1))
        train(torchs, theirs, range(1))
        for p, q in zip(ours, torchs, strict=True):
            assert {*theirs.state.get(q, {})} == {*held.state.get(p, {})}
        assert len(theirs.state) == len(held.state)


OUT_OF_RANGE = [
    ("SGD", {"lr": -1.0}, "lr is -1.0"),
    ("SGD", {"momentum": -1.0}, "Invalid momentum value: -1.0: gamma is -1.0"),
    ("SGD", {"nesterov": True}, "requires a momentum"),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "zero dampening"),
    ("Adam", {"betas": (0.9, 1.0)}, "beta2 is 1.0"),
    ("Adam", {"eps": -1.0}, "eps is -1.0"),
    ("Adam", {"lr": float("inf")}, "lr is inf"),
    ("Adam", {"decay": "decoupled_"}, "Did you mean decoupled"),
    ("AdamW", {"weight_decay": -1}, "weight_decay is -1"),
    ("Adam", {"convention": "pytorch"}, "Did you mean torch"),
    ("QHM", {"nu": 2}, "nu is 2"),
    ("AggMo", {"betas": ()}, "betas is ()"),
    ("QHAdam", {"nu": 1}, "Did you mean nu"),
    ("QHAdam", {"convention": "pytorch"}, "Did you mean torch"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), OUT_OF_RANGE, ids=str)
def test_what_is_out_of_range_is_refused_at_once(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(tw.UsageError) as error:
        CLASSES[name](parameters(), **arguments)
    assert message in str(error.value)


def test_a_group_is_checked_too() -> None:
    optimizer = tw.Adam(parameters()[:1])
    with pytest.raises(tw.UsageError, match="lr is -1"):
        optimizer.add_param_group({"params": parameters()[1:], "lr": -1})
    assert len(optimizer.param_groups) == 1


def test_a_group_without_parameters_is_refused_as_torch_refuses_it() -> None:
    for made in (tw.Adam, torch.optim.Adam):
        with pytest.raises(KeyError, match="params"):
            made([{"lr": 0.1}])


def test_a_value_set_on_the_way_is_checked_before_the_step() -> None:
    params = parameters()
    optimizer = tw.Adam(params)
    train(params, optimizer, range(1))
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = -1
    with pytest.raises(tw.UsageError, match="lr is -1"):
        train(params, optimizer, range(1))
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_a_stage_is_no_optimizer() -> None:
    with pytest.raises(tw.UsageError, match="a stage, which moves nothing"):
        tw.Optimizer(parameters(), rules.l2)


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_velocity_moves_rows_without_a_gradient_too(nesterov: bool, backend: str) -> None:
    """As torch's does, from which a sparse gradient takes nothing but memory."""
    ends = []
    for kind, more in ((torch.optim.SGD, {}), (tw.SGD, {"backend": backend})):
        generator = torch.Generator().manual_seed(3)
        table = torch.randn(50, 40, generator=generator).requires_grad_()
        bias = torch.randn(40, generator=generator).requires_grad_()
        optimizer = kind([bias, table], lr=0.1, momentum=0.9, nesterov=nesterov, **more)
        for _ in range(6):
            rows = torch.randint(50, (1, 7), generator=generator)
            values = torch.randn(7, 40, generator=generator)
            table.grad = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=True)
            bias.grad = torch.randn(40, generator=generator)
            optimizer.step()
        ends.append([table, bias])
        if kind is tw.SGD:
            assert {optimizer.backend_of(p) for p in (table, bias)} == {backend}
    assert_close(ends[1], ends[0], 1e-6)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=str)
def test_the_learning_rate_may_be_a_tensor(lr) -> None:
    ours, plain = parameters(), parameters()
    train(ours, tw.Adam(ours, lr=lr), range(3))
    train(plain, tw.Adam(plain, lr=0.1), range(3))
    assert_close(ours, plain, 1e-12)


def test_settings_in_a_list_may_be_changed_in_place() -> None:
    ends = []
    for made in (tw.NAdam, torch.optim.NAdam):
        params = parameters()
        optimizer = made(params)
        (group,) = optimizer.param_groups
        group["betas"] = [0.9, 0.999]
        train(params, optimizer, range(2))
        group["betas"][0] = 0.1
        train(params, optimizer, range(2, 4))
        ends.append(params)
    assert_close(*ends, 1e-6)


def reference(rule: tw.rules.Rule, steps: range, **settings) -> list[np.ndarray]:
    """What `train` does, by the reference."""
    params = parameters(dtype=torch.float64)
    arrays = {str(i): p.detach().numpy() for i, p in enumerate(params)}
    state = None
    for t in steps:
        grads = {
            n: noise(t, p.shape, torch.float64).numpy() + 0.1 * np.tanh(p)
            for n, p in arrays.items()
        }
        arrays, state = rule.step(arrays, grads, state, convention="torch", **settings)
    return list(arrays.values())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_chain_with_noise_walks_the_references_path(groups: int) -> None:
    params = parameters(dtype=torch.float64)
    parts = [params] if groups == 1 else [params[:1], params[1:]]
    optimizer = tw.Optimizer([{"params": part} for part in parts], CHAIN, lr=0.02)
    train(params, optimizer, range(20))
    for p, q in zip(params, reference(CHAIN, range(20), lr=0.02), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-10, atol=1e-12)


def lookahead(params: list[Tensor], **settings) -> tw.Optimizer:
    return tw.Optimizer(params, rules.nag, lookahead=True, lr=0.1, **settings)


def test_lookahead_takes_the_gradient_ahead_and_comes_back() -> None:
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = lookahead([p], convention="paper", gamma=0.9)
    theta, state, points = p.detach().numpy().copy(), None, []
    for _ in range(10):

        def closure() -> Tensor:
            points.append(p.detach().numpy().copy())
            optimizer.zero_grad()
            loss = torch.log(torch.cosh(p)).sum()
            loss.backward()
            return loss

        seen = []

        def gradient(at: np.ndarray, seen=seen) -> np.ndarray:
            seen.append(at)
            return np.tanh(at)

        optimizer.step(closure)
        theta, state = rules.nag.step(theta, gradient, state, lookahead=True, lr=0.1, gamma=0.9)
        np.testing.assert_allclose(points[-1], seen[0], rtol=1e-12)
        np.testing.assert_allclose(p.detach().numpy(), theta, rtol=1e-12)


def test_lookahead_comes_back_when_the_closure_fails() -> None:
    params = parameters()
    optimizer = lookahead(params)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    optimizer.step(closure)
    before = [p.detach().clone() for p in params]
    seen = []

    def fails() -> Tensor:
        seen.extend(p.detach().clone() for p in params)
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        optimizer.step(fails)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert not torch.equal(seen[0], before[0])


def test_lookahead_needs_a_closure() -> None:
    with pytest.raises(tw.UsageError, match=r"step\(closure\)"):
        lookahead(parameters()).step()


def test_noise_follows_the_groups_order_whether_the_state_was_looked_at_or_not() -> None:
    ends = []
    for seen in (False, True):
        params = [torch.zeros(3).requires_grad_() for _ in range(2)]
        noisy = rules.chain(rules.noise, rules.sgd)
        optimizer = tw.Optimizer([{"params": [p]} for p in params], noisy, lr=0.1)
        for _ in range(2):
            for p in params:
                p.grad = torch.zeros(3)
            optimizer.step()
            optimizer.param_groups.reverse()
            assert not seen or optimizer.state
        ends.append(torch.stack(params).detach())
    assert torch.equal(*ends)
    assert len(ends[0].unique()) == 6


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam"])
def test_a_first_step_in_inference_mode_is_any_other(name: str) -> None:
    ends = []
    for mode in (torch.inference_mode, torch.no_grad):
        params = parameters()
        optimizer = CLASSES[name](params, lr=0.1)
        with mode():
            train(params, optimizer, range(2))
        train(params, optimizer, range(2, 5))
        ends.append(params)
    assert all(map(torch.equal, *ends))


def test_a_setting_that_makes_another_rule_counts_from_the_next_step_on() -> None:
    def walked(kind: type[torch.optim.Optimizer]) -> torch.Tensor:
        p = torch.tensor([1.0, -2.0], requires_grad=True)
        optimizer = kind([p], lr=0.1, momentum=0.9)  # pyright: ignore
        for change in ({}, {}, {"nesterov": True}, {}, {"differentiable": False}, {"lr": 0.05}):
            optimizer.param_groups[0].update(change)
            p.grad = p.detach().clone()
            optimizer.step()
        return p.detach()

    torch.testing.assert_close(walked(tw.SGD), walked(torch.optim.SGD), rtol=0, atol=1e-6)
