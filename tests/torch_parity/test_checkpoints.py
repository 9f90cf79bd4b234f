"""Checkpoints: ours and torch's are one, old ones load, and nothing in them is cast or mixed up."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.optim import CLASSES
from torch_parity.paths import MIRRORS, assert_close, assert_fused, copies, parameters, walk
from torch_parity.table import INFOS, Arguments, label, options, sign

MORE = {
    "SGD": [{"momentum": 0.9, "maximize": True}, {"momentum": 0.9, "nesterov": True}],
    "Adagrad": [{"lr_decay": 0.1, "maximize": True}],
    "RMSprop": [{"centered": True}, {"momentum": 0.9, "maximize": True}],
    "Adam": [{"amsgrad": True, "maximize": True}, {"decoupled_weight_decay": True}],
    "AdamW": [{"amsgrad": True, "maximize": True}],
}
CASES = [
    pytest.param(name, arguments, id=f"{name}-{label(arguments)}")
    for name in MIRRORS
    for arguments in [*options(name), *MORE.get(name, [])]
]
Maker = Callable[[list[Tensor]], torch.optim.Optimizer]


def makers(name: str, arguments: Arguments) -> tuple[Maker, Maker]:
    return (
        lambda params: CLASSES[name](params, **arguments),
        lambda params: getattr(torch.optim, name)(params, **arguments),
    )


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict from a file, which may hold tensors and plain values alone."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def tolerance(name: str) -> float:
    """torch keeps NAdam's product of momenta in float32."""
    return 1e-8 if name == "NAdam" else 1e-12


def begun(made: Maker, way: int = 1) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """Some steps on, the first parameter with one step less than the others."""
    params = parameters(torch.float64)
    optimizer = made(params)
    params[0].grad = None
    walk(params[1:], optimizer, range(1), sign=way)
    walk(params, optimizer, range(1, 4), sign=way)
    return params, optimizer


def resumed(
    made: Maker, params: list[Tensor], kept: dict[str, Any], way: int = 1
) -> tuple[Tensor, torch.optim.Optimizer]:
    optimizer = made(params)
    optimizer.load_state_dict(kept)
    return walk(params, optimizer, range(4, 10), sign=way), optimizer


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_either_goes_on_from_the_others_checkpoint(name: str, arguments, direction: str) -> None:
    ours, torchs = makers(name, arguments)
    first, second = (torchs, ours) if direction == "from torch" else (ours, torchs)
    params, optimizer = begun(first, sign(arguments))
    others = copies(params)
    found, other = resumed(second, others, saved(optimizer), sign(arguments))
    expected = walk(params, optimizer, range(4, 10), sign=sign(arguments))
    assert_close(found, expected, tolerance(name))
    assert_fused(other if second is ours else optimizer)
    # A checkpoint that is not loaded is noticed, unless there is no state that counts.
    fresh = second(copies(params)).state_dict()
    if saved(optimizer)["state"] and name != "SGD":
        assert not torch.allclose(resumed(second, copies(params), fresh)[0][0], found[0])


def kinds(kept: dict[str, Any]) -> dict[str, Any]:
    """What of a state dict has to be the same: all but the values of the states."""

    def kind(key: str, x: object) -> object:
        # NAdam's product of momenta is float64 here, and as torch rounds it there.
        dtype = x.dtype if isinstance(x, Tensor) and key != "mu_product" else None
        return (dtype, x.shape, x.device) if isinstance(x, Tensor) else x

    state = {i: {k: kind(k, x) for k, x in held.items()} for i, held in kept["state"].items()}
    return {**kept, "state": state}


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_checkpoint_is_laid_out_as_torchs(name: str, arguments: Arguments) -> None:
    """The same keys, in groups in the same order, and states of the same types and values."""
    ours, torchs = (begun(made)[1] for made in makers(name, arguments))
    assert kinds(ours.state_dict()) == kinds(torchs.state_dict())
    for i, held in torchs.state_dict()["state"].items():
        for key, value in held.items():
            if isinstance(value, Tensor):
                assert_close(ours.state_dict()["state"][i][key].to(value.dtype), value, 1e-6)
    for group, other in zip(ours.param_groups, torchs.param_groups, strict=True):
        assert [*group] == [*other]


@pytest.mark.parametrize("name", MIRRORS)
def test_complex_states_are_laid_out_as_torchs(name: str) -> None:
    optimizers = []
    for made in makers(name, {"momentum": 0.9} if name == "SGD" else {}):
        params = parameters(torch.complex64)
        optimizer = made(params)
        walk(params, optimizer, range(3))
        optimizers.append(optimizer.state_dict())
    ours, torchs = optimizers
    assert kinds(ours) == kinds(torchs)
    for i, held in torchs["state"].items():
        for key, value in held.items():
            assert_close(ours["state"][i][key].to(value.dtype), value, 1e-6)


FLAGS = [(name, flag) for name in MIRRORS for flag in (*INFOS[name].not_og_supported_flags, "all")]


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_what_was_saved_before_a_flag_was_there_is_loaded(name: str, flag: str) -> None:
    ours, torchs = makers(name, {"lr": 0.01})
    params, optimizer = begun(torchs)
    kept = saved(optimizer)
    gone = INFOS[name].not_og_supported_flags if flag == "all" else (flag,)
    for group in kept["param_groups"]:
        for key in gone:
            group.pop(key, None)
    expected, _ = resumed(torchs, copies(params), copy.deepcopy(kept))
    found, other = resumed(ours, params, kept)
    assert_close(found, expected, tolerance(name))
    assert other.param_groups[0].keys() == torchs(parameters()).param_groups[0].keys()


@pytest.mark.parametrize("name", [name for name in MIRRORS if name != "SGD"])
def test_a_count_that_is_a_plain_number_is_loaded(name: str) -> None:
    """As old versions of torch saved it."""
    ours, torchs = makers(name, {"lr": 0.01})
    params, optimizer = begun(torchs)
    kept = saved(optimizer)
    for held in kept["state"].values():
        held["step"] = held["step"].item()
    found, other = resumed(ours, copies(params), kept)
    expected = walk(params, optimizer, range(4, 10))
    assert_close(found, expected, tolerance(name))
    steps = [other.state_dict()["state"][i]["step"] for i in range(4)]
    assert all(isinstance(step, Tensor) and step.dtype == torch.float32 for step in steps)
    assert [float(step) for step in steps] == [9, 10, 10, 10]


def test_a_velocity_that_is_not_there_yet_is_loaded() -> None:
    """Old versions of torch saved None for it."""
    ours, torchs = makers("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5})
    params, optimizer = begun(torchs)
    kept = saved(optimizer)
    kept["state"][1]["momentum_buffer"] = None
    expected, _ = resumed(torchs, copies(params), copy.deepcopy(kept))
    found, _ = resumed(ours, params, kept)
    assert_close(found, expected, 1e-6)


TYPES = [
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
    (torch.float32, torch.float64),
    (torch.bfloat16, torch.bfloat16),
]


@pytest.mark.parametrize(("dtype", "kept_in"), TYPES, ids=str)
@pytest.mark.parametrize("name", MIRRORS)
def test_a_state_keeps_the_type_it_was_saved_in(name: str, dtype, kept_in) -> None:
    """torch casts it to the parameter's, and a bfloat16 average stands still."""
    arguments = {"momentum": 0.9} if name == "SGD" else {}
    ours, _ = makers(name, {"lr": 10.0, **arguments})
    first = parameters(kept_in)
    optimizer = ours(first)
    walk(first, optimizer, range(3))
    kept = optimizer.state_dict()
    for held in kept["state"].values():
        for key in held.keys() - {"step", "mu_product"}:
            held[key] = held[key].to(kept_in)
    kept = copy.deepcopy(kept)
    params = parameters(dtype)
    other = ours(params)
    other.load_state_dict(kept)
    loaded = other.state_dict()["state"]
    assert kinds({"state": loaded}) == kinds({"state": kept["state"]})
    for i, held in kept["state"].items():
        assert all(torch.equal(value, loaded[i][key]) for key, value in held.items())
    before = [p.detach().clone() for p in params]
    walk(params, other, range(3, 5))
    assert kinds({"state": other.state_dict()["state"]}) == kinds({"state": kept["state"]})
    assert not any(map(torch.equal, params, before))
    if kept_in is not torch.float64:
        assert_fused(other)


def named(order: str, names: str | None = None) -> list[tuple[str, Tensor]]:
    """Parameters of a shape, so that only their names tell them apart."""
    known = dict(zip("abcd", parameters(shapes=[(3,)] * 4), strict=True))
    return [(other, known[name]) for name, other in zip(order, names or order, strict=True)]


def by_name(name: str, order: str, grouped: bool) -> tuple[dict[str, Tensor], Any]:
    pairs = named(order)
    groups = [{"params": pairs[:2], "lr": 0.1}, {"params": pairs[2:]}] if grouped else pairs
    return dict(pairs), CLASSES[name](groups, lr=0.01)


def run(params: dict[str, Tensor], optimizer, steps: range) -> Tensor:
    return walk([params[name] for name in "abcd"], optimizer, steps)


@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "grouped"])
@pytest.mark.parametrize("name", ["Adam", "NAdam", "Adagrad"])
def test_states_follow_the_names(name: str, grouped: bool) -> None:
    params, optimizer = by_name(name, "abcd", grouped)
    run(params, optimizer, range(4))
    kept = saved(optimizer)
    others, other = by_name(name, "badc", grouped)
    for key, p in others.items():
        p.data = params[key].detach().clone()
    other.load_state_dict(kept)
    assert torch.equal(run(others, other, range(4, 8)), run(params, optimizer, range(4, 8)))
    names = [name for group in other.param_groups for name in group["param_names"]]
    assert names == [*"badc"]
    assert_fused(other)


WRAPPED = {
    "in a parallel wrapper": ["module.a", "module.b", "module.c", "module.d"],
    "compiled": ["_orig_mod.a", "_orig_mod.b", "_orig_mod.c", "_orig_mod.d"],
    "two that differ in a wrapper's name alone": ["x.w", "x.module.w", "y.w", "y.module.w"],
}


@pytest.mark.parametrize("case", WRAPPED)
def test_names_are_told_apart_and_found_behind_wrappers(case: str) -> None:
    first = tw.Adam(named("abcd", WRAPPED[case]), lr=0.1)
    walk(first.param_groups[0]["params"], first, range(2))
    names = WRAPPED[case] if case.startswith("two") else [*"abcd"]
    other = tw.Adam(named("abcd", names), lr=0.1)
    other.load_state_dict(saved(first))
    for p, q in zip(first.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert torch.equal(first.state[p]["exp_avg"], other.state[q]["exp_avg"])


def test_names_on_one_side_alone_leave_the_order() -> None:
    params, optimizer = by_name("Adam", "abcd", False)
    run(params, optimizer, range(4))
    values = copies([*params.values()])
    other = tw.Adam(values, lr=0.01)
    other.load_state_dict(saved(optimizer))
    assert torch.equal(walk(values, other, range(4, 8)), run(params, optimizer, range(4, 8)))


def test_a_name_that_was_not_saved_is_told_with_the_nearest() -> None:
    first = tw.Adam(named("abcd", ["in.weight", "in.bias", "out.weight", "out.bias"]))
    walk(first.param_groups[0]["params"], first, range(2))
    other = tw.Adam(named("abcd", ["in.weight", "in.bias", "out.weigth", "out.bias"]))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(tw.UsageError) as error:
        other.load_state_dict(saved(first))
    assert "'out.weigth'" in str(error.value)
    assert "Did you mean out.weight " in str(error.value)
    assert other.state_dict() == before


def test_a_saved_name_that_nobody_has_is_told() -> None:
    first = tw.Adam(named("abcd"))
    walk(first.param_groups[0]["params"], first, range(2))
    other = tw.Adam(named("abc"))
    with pytest.raises(tw.UsageError, match="has d, which the optimizer does not have"):
        other.load_state_dict(saved(first))


@pytest.mark.parametrize("made", [CLASSES["Adam"], torch.optim.Adam], ids=["ours", "torch"])
def test_what_does_not_fit_is_refused(made) -> None:
    optimizer = made(parameters())
    for kept, message in (
        (made(parameters()[:2]).state_dict(), "doesn't match the size of optimizer's group"),
        (
            made([{"params": p} for p in parameters()]).state_dict(),
            "different number of parameter groups",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(kept)


@pytest.mark.parametrize("name", MIRRORS)
def test_what_is_loaded_is_not_changed_and_saving_again_gives_the_same(name: str) -> None:
    ours, _ = makers(name, {"lr": 0.01})
    params, optimizer = begun(ours)
    kept = copy.deepcopy(optimizer.state_dict())
    other = ours(copies(params))
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(optimizer.state_dict(), kept, rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict(), kept, rtol=0, atol=0)
