"""What every optimizer of torch's does beside its steps, by each class with each of its options."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from thalweg.optim import CLASSES
from torch_parity.paths import (
    MIRRORS,
    assert_close,
    assert_fused,
    copies,
    parameters,
    set_gradients,
    walk,
)
from torch_parity.table import Arguments, constructor_cases, label, options, plain, sign

CASES = [
    pytest.param(name, arguments, id=f"{name}-{label(arguments)}")
    for name in MIRRORS
    for arguments in options(name)
]
WITH_DECAY = [name for name in MIRRORS if any("weight_decay" in o for o in options(name))]


def both(name: str, params, **arguments) -> Iterator[torch.optim.Optimizer]:
    """Ours, then torch's, each for parameters of its own."""
    for made in (CLASSES[name], getattr(torch.optim, name)):
        yield made(params(), **arguments)


def held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_it_is_printed_as_torchs(name: str, arguments: Arguments) -> None:
    ours, torchs = both(name, parameters, **arguments)
    assert repr(ours) == repr(torchs)
    ours, torchs = both(name, lambda: [{"params": parameters(), "lr": 0.5}], **arguments)
    assert repr(ours) == repr(torchs)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_step_without_gradients_does_nothing(name: str, arguments: Arguments) -> None:
    ours, torchs = both(name, parameters, **arguments)
    assert ours.step() is torchs.step() is None
    assert all(map(torch.equal, held(ours), parameters()))
    # torch's Adagrad has a state from the start.
    assert str(ours.state_dict()) == str(torchs.state_dict())


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_only_decay_moves_what_has_a_zero_gradient(name: str, arguments: Arguments) -> None:
    ours, torchs = both(name, parameters, **arguments)
    for optimizer in (ours, torchs):
        for _ in range(3):
            for p in held(optimizer):
                p.grad = torch.zeros_like(p)
            optimizer.step()
    decays = ours.defaults.get("weight_decay", 0) != 0
    for p, q, before in zip(held(ours), held(torchs), parameters(), strict=True):
        assert_close(p, q, 1e-6)
        assert torch.equal(p, before) != decays
    assert_fused(ours)


def test_what_ran_is_still_known_when_the_state_has_been_seen() -> None:
    optimizer = CLASSES["Adam"](parameters())
    assert {optimizer.backend_of(p) for p in held(optimizer)} == {None}
    walk(held(optimizer), optimizer, range(2))
    assert_fused(optimizer)
    assert len(optimizer.state) == len(held(optimizer))
    assert_fused(optimizer)


def groups(setting: str) -> list[Arguments]:
    first, *others = parameters()
    return [{"params": first}, {"params": others, setting: 0.2}]


@pytest.mark.parametrize(
    ("name", "setting"),
    [*((name, "lr") for name in MIRRORS), *((name, "weight_decay") for name in WITH_DECAY)],
)
def test_groups_have_settings_of_their_own(name: str, setting: str) -> None:
    ours, torchs = both(name, lambda: groups(setting))
    found = walk(held(ours), ours, range(8))
    assert_close(found, walk(held(torchs), torchs, range(8)), 1e-6)
    alike = CLASSES[name](parameters())
    assert found[-1, 7:].ne(walk(held(alike), alike, range(8))[-1, 7:]).all()
    assert_fused(ours)


@pytest.mark.parametrize("name", MIRRORS)
def test_a_group_may_be_added_on_the_way(name: str) -> None:
    paths = []
    for optimizer in both(name, lambda: parameters()[:2]):
        first = walk(held(optimizer), optimizer, range(4))
        optimizer.add_param_group({"params": parameters()[2:], "lr": 0.03})
        paths.append(
            torch.cat([first.flatten(), walk(held(optimizer), optimizer, range(4, 8))[-1]])
        )
    assert_close(paths[0], paths[1], 1e-6)


def forms_of_parameters() -> dict:
    a, b = parameters()[:2]
    return {
        "a generator": lambda: (p for p in (a, b)),
        "names": lambda: iter([("a", a), ("b", b)]),
        "a group": lambda: [{"params": a}, {"params": [b]}],
        "a generator of groups": lambda: ({"params": [p]} for p in (a, b)),
        "a group with names": lambda: [{"params": iter([("a", a), ("b", b)]), "lr": 0.1}],
        "a dict's values": lambda: {"a": a, "b": b}.values(),
    }


@pytest.mark.parametrize("form", forms_of_parameters())
def test_parameters_come_in_every_form(form: str) -> None:
    made = forms_of_parameters()[form]
    ours, torchs = both("Adam", made, lr=0.1)
    assert ours.state_dict() == torchs.state_dict()
    assert len(held(ours)) == 2
    assert all(p is q for p, q in zip(held(ours), held(torchs), strict=True))


def test_a_set_of_parameters_has_no_order() -> None:
    for made in (CLASSES["Adam"], torch.optim.Adam):
        with pytest.raises(TypeError, match="ordered collections"):
            made([{"params": {*parameters()}}])


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_deep_copy_has_all_that_is_public_and_goes_on_alone(name: str, arguments) -> None:
    optimizer = CLASSES[name](parameters(), **arguments)
    walk(held(optimizer), optimizer, range(3))
    other = copy.deepcopy(optimizer)
    public = [{key for key in vars(o) if not key.startswith("_")} for o in (optimizer, other)]
    assert public[0] == public[1]
    found = walk(held(other), other, range(3, 6), sign=sign(arguments))
    expected = walk(held(optimizer), optimizer, range(3, 6), sign=sign(arguments))
    assert torch.equal(found, expected)


TENSOR_RATES = [
    pytest.param(name, i, id=f"{name}-{label(arguments)}")
    for name in MIRRORS
    for i, arguments in enumerate(constructor_cases(name))
    if isinstance(arguments.get("lr"), Tensor) and not arguments.get("differentiable")
]


@pytest.mark.parametrize(("name", "i"), TENSOR_RATES)
def test_a_rate_that_is_a_tensor_may_be_changed_in_place(name: str, i: int) -> None:
    arguments = constructor_cases(name)[i]
    paths = []
    for optimizer in (
        CLASSES[name](parameters(), **arguments),
        getattr(torch.optim, name)(parameters(), **plain(arguments)),
    ):

        def halve(t: int, group=optimizer.param_groups[0]) -> None:
            group["lr"] *= 0.5  # in place where it is a tensor

        paths.append(walk(held(optimizer), optimizer, range(5), after=halve))
    assert arguments["lr"].item() == pytest.approx(0.001 / 2**5)
    assert_close(paths[0], paths[1], 1e-6)


@pytest.mark.parametrize("name", MIRRORS)
def test_types_may_be_mixed(name: str) -> None:
    """Each parameter moves as it would among its own kind."""
    kinds = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    mixed = [parameters(dtype, [(4, 3)])[0] for dtype in kinds]
    alone = copies(mixed)
    optimizer = CLASSES[name](mixed, lr=0.01)
    others = [CLASSES[name]([p], lr=0.01) for p in alone]
    for t in range(5):
        for params in (mixed, *([p] for p in alone)):
            set_gradients(params, 0)
            for p in params:
                p.grad = torch.full_like(p, 0.5 - t % 3)
        for made in (optimizer, *others):
            made.step()
    assert all(map(torch.equal, mixed, alone))
    torchs = parameters(torch.float64, [(4, 3)])
    twin = getattr(torch.optim, name)(torchs, lr=0.01)
    for t in range(5):
        torchs[0].grad = torch.full_like(torchs[0], 0.5 - t % 3)
        twin.step()
    for p in mixed:
        rounding = 5 * torch.finfo(p.dtype).eps
        assert_close(p.double(), torchs[0], max(rounding, 1e-6))
    assert_fused(optimizer)


HOOKS = {
    "state_dict pre": ("register_state_dict_pre_hook", lambda o: o.state_dict()),
    "state_dict post": ("register_state_dict_post_hook", lambda o: o.state_dict()),
    "load pre": ("register_load_state_dict_pre_hook", lambda o: o.load_state_dict(o.state_dict())),
    "load post": (
        "register_load_state_dict_post_hook",
        lambda o: o.load_state_dict(o.state_dict()),
    ),
}


@pytest.mark.parametrize("name", MIRRORS)
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_are_called_in_order_until_they_are_removed(name: str, hook: str) -> None:
    register, act = HOOKS[hook]
    optimizer = CLASSES[name](parameters())
    walk(held(optimizer), optimizer, range(2))
    calls = []
    handles = [
        getattr(optimizer, register)(lambda o, *args, n=n: calls.append((n, o)), prepend=n == 2)
        for n in range(3)
    ]
    act(optimizer)
    assert calls == [(n, optimizer) for n in (2, 0, 1)]
    for handle in handles:
        handle.remove()
    act(optimizer)
    assert len(calls) == 3


@pytest.mark.parametrize("name", MIRRORS)
def test_hooks_may_exchange_what_is_saved_and_loaded(name: str) -> None:
    def marked(optimizer, saved: dict) -> dict:
        return saved | {"note": "kept"}

    def quartered(optimizer, saved: dict) -> dict:
        assert saved["note"] == "kept"
        changed = [group | {"lr": group["lr"] / 4} for group in saved["param_groups"]]
        return saved | {"param_groups": changed}

    optimizer = CLASSES[name](parameters(), lr=0.04)
    optimizer.register_state_dict_post_hook(marked)
    optimizer.register_load_state_dict_pre_hook(quartered)
    walk(held(optimizer), optimizer, range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.01
    found = walk(held(optimizer), optimizer, range(1, 3))
    twin = getattr(torch.optim, name)(parameters(), lr=0.04)
    walk(held(twin), twin, range(1))
    twin.param_groups[0]["lr"] = 0.01
    assert_close(found, walk(held(twin), twin, range(1, 3)), 1e-6)


@pytest.mark.parametrize("name", MIRRORS)
def test_a_closures_gradients_are_those_of_the_step(name: str) -> None:
    losses = []
    for optimizer in both(name, lambda: parameters(torch.float64), lr=0.1):
        (p, *_) = held(optimizer)

        def closure(optimizer=optimizer, p=p) -> Tensor:
            optimizer.zero_grad()
            loss = (1 + p**2).log().sum()
            loss.backward()
            return loss

        with torch.no_grad():
            losses.append(torch.stack([optimizer.step(closure).detach() for _ in range(6)]))
    assert_close(losses[0], losses[1], 1e-12 if name != "NAdam" else 1e-7)
    assert losses[0][-1] < losses[0][0]
