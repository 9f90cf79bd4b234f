"""What is wrong is said before anything is changed, and harms nothing once it is put right."""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg import rules
from thalweg.backends import compilation

BACKENDS = ["fused", "auto", "eager"]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Model:
    """Three groups of named parameters; what is wrong is wrong in the second, `b.weight`."""

    def __init__(self, backend: str, *, named: bool = True, made: Any = tw.Adam) -> None:
        shapes = {"a": (3, 4), "b.bias": (5,), "b.weight": (40, 5), "c": ()}
        self.params = {
            n: noise(*s, seed=i).requires_grad_() for i, (n, s) in enumerate(shapes.items())
        }
        members = {"0": ["a"], "1": ["b.bias", "b.weight"], "2": ["c"]}
        groups = [
            {"params": [(n, self.params[n]) if named else self.params[n] for n in names]}
            for names in members.values()
        ]
        self.optimizer = made(groups, lr=0.1, backend=backend)
        self.p = self.params["b.weight"]
        self.t = 0

    def gradients(self) -> None:
        """Into the same memory as before, where there is some."""
        self.t += 1
        for i, p in enumerate(self.params.values()):
            g = noise(*p.shape, seed=100 * self.t + i).to(p.dtype)
            if p.grad is None:
                p.grad = g
            else:
                p.grad.copy_(g)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.gradients()
            self.optimizer.step()

    def everything(self) -> list[bytes]:
        """All parameters, states and counts, to the bit; without having looked at the state."""
        states = self.optimizer.__dict__["state"]
        held = [*self.params.values()]
        held += [x for p in self.params.values() for x in states.get(p, {}).values()]
        return [bits(x) for x in held if isinstance(x, Tensor)]


def bits(x: Tensor) -> bytes:
    # Counts are parts of one tensor for all that have taken equal steps.
    if x.layout is not torch.strided or x.device.type == "meta" or not x.dim():
        return repr(x).encode()
    storage = x.untyped_storage()
    return ctypes.string_at(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else b""


# What is wrong, and how it is put right


def data_freed(model: Model) -> Callable[[], None]:
    storage, kept = model.p.untyped_storage(), model.p.detach().clone()
    size = storage.nbytes()
    storage.resize_(0)

    def repaired() -> None:
        storage.resize_(size)
        model.p.data.copy_(kept)

    return repaired


def gradient_freed(model: Model) -> Callable[[], None]:
    assert model.p.grad is not None
    storage, kept = model.p.grad.untyped_storage(), model.p.grad.clone()
    size = storage.nbytes()
    storage.resize_(0)

    def repaired() -> None:
        storage.resize_(size)
        model.p.grad.copy_(kept)

    return repaired


def gradient_freed_with_others(model: Model) -> Callable[[], None]:
    """As a part of a larger buffer: torch gives its offset there as its address."""
    kept = model.p.grad
    assert kept is not None
    flat = torch.ones(1000)
    model.p.grad = flat[300:500].view(40, 5)
    flat.untyped_storage().resize_(0)

    def repaired() -> None:
        model.p.grad = kept

    return repaired


def data_resized(model: Model) -> Callable[[], None]:
    kept = model.p.data
    model.p.data = kept.clone()
    model.p.requires_grad_(False).resize_(41, 5).requires_grad_()

    def repaired() -> None:
        model.p.data = kept

    return repaired


def gradient_resized(model: Model) -> Callable[[], None]:
    assert model.p.grad is not None
    kept = model.p.grad.clone()
    model.p.grad.resize_(3)

    def repaired() -> None:
        model.p.grad = kept

    return repaired


def gradient_of_another_shape(model: Model) -> Callable[[], None]:
    kept = model.p.grad
    assert kept is not None
    model.p.grad = kept.clone()
    model.p.grad.data = torch.ones(5, 40)

    def repaired() -> None:
        model.p.grad = kept

    return repaired


def gradient_of_another_dtype(model: Model) -> Callable[[], None]:
    kept = model.p.grad
    assert kept is not None
    model.p.grad = kept.clone()
    model.p.grad.data = kept.double()

    def repaired() -> None:
        model.p.grad = kept

    return repaired


def gradient_sparse_of_a_row_too_many(model: Model) -> Callable[[], None]:
    kept = model.p.grad
    assert kept is not None
    model.p.grad = torch.sparse_coo_tensor(
        torch.tensor([[3, 40]]), torch.ones(2, 5), (40, 5), check_invariants=False
    )

    def repaired() -> None:
        model.p.grad = kept

    return repaired


def data_of_another_shape(model: Model) -> Callable[[], None]:
    kept = model.p.data
    model.p.data = torch.ones(2, 3)

    def repaired() -> None:
        model.p.data = kept

    return repaired


def data_of_another_dtype(model: Model) -> Callable[[], None]:
    kept = model.p.data
    model.p.data = model.p.data.double()

    def repaired() -> None:
        model.p.data = kept

    return repaired


def state_replaced(
    change: Callable[[Tensor], Any], key: str = "exp_avg"
) -> Callable[[Model], Callable[[], None]]:
    def wrong(model: Model) -> Callable[[], None]:
        state = model.optimizer.state[model.p]
        kept = state[key]
        state[key] = change(kept)

        def repaired() -> None:
            state[key] = kept

        return repaired

    return wrong


def state_freed(model: Model) -> Callable[[], None]:
    x = model.optimizer.state[model.p]["exp_avg_sq"]
    storage, kept = x.untyped_storage(), x.clone()
    size = storage.nbytes()
    storage.resize_(0)

    def repaired() -> None:
        storage.resize_(size)
        x.copy_(kept)

    return repaired


def setting(name: str, value: Any) -> Callable[[Model], Callable[[], None]]:
    def wrong(model: Model) -> Callable[[], None]:
        group = model.optimizer.param_groups[1]
        kept = group[name]
        group[name] = value

        def repaired() -> None:
            group[name] = kept

        return repaired

    return wrong


@dataclass(frozen=True)
class Fault:
    """Something wrong, and what is said of it."""

    done: Callable[[Model], Callable[[], None]]
    says: str


THE_ONE = r"parameter 'b\.weight' of shape \(40, 5\)"
FAULTS = {
    "data freed": Fault(data_freed, rf"^{THE_ONE} has been freed: .* 0 bytes and 200 elements"),
    "gradient freed": Fault(gradient_freed, rf"^the gradient of {THE_ONE} has been freed"),
    "gradient freed with others": Fault(
        gradient_freed_with_others, rf"^the gradient of {THE_ONE} has been freed"
    ),
    "data resized": Fault(
        data_resized, r"of parameter 'b\.weight' of shape \(41, 5\) has shape \(40, 5\)"
    ),
    "gradient resized": Fault(
        gradient_resized, rf"^the gradient of {THE_ONE} has shape \(3,\), .* \(40, 5\)"
    ),
    "gradient of another shape": Fault(
        gradient_of_another_shape, rf"^the gradient of {THE_ONE} has shape \(5, 40\)"
    ),
    "gradient of another dtype": Fault(
        gradient_of_another_dtype,
        rf"^the gradient of {THE_ONE} is of torch.float64, .* of torch.float32",
    ),
    "gradient sparse, of a row too many": Fault(
        gradient_sparse_of_a_row_too_many, rf"^the gradient of {THE_ONE} has indices from"
    ),
    "data of another shape": Fault(
        data_of_another_shape,
        r"of parameter 'b\.weight' of shape \(2, 3\) has shape \(40, 5\), .* \(2, 3\)",
    ),
    "data of another dtype": Fault(
        data_of_another_dtype,
        rf"^the gradient of {THE_ONE} is of torch.float32, .* of torch.float64",
    ),
    "state freed": Fault(state_freed, rf"^the state 'v' of {THE_ONE} has been freed"),
    "state of another shape": Fault(
        state_replaced(lambda x: x[:2]), rf"^the state 'm' of {THE_ONE} has shape \(2, 5\)"
    ),
    "state on another device": Fault(
        state_replaced(lambda x: x.to("meta")), rf"^the state 'm' of {THE_ONE} is on meta"
    ),
    "state sparse": Fault(
        state_replaced(lambda x: x.to_sparse()), rf"^the state 'm' of {THE_ONE} is sparse"
    ),
    "state of whole numbers": Fault(
        state_replaced(lambda x: x.long()), rf"^the state 'm' of {THE_ONE} is of torch.int64"
    ),
    "state complex": Fault(
        state_replaced(lambda x: x + 1j), rf"^the state 'm' of {THE_ONE} is of torch.complex64"
    ),
    "state None": Fault(
        state_replaced(lambda x: None), rf"^the state 'm' of {THE_ONE} is None.* a tensor"
    ),
    "count of another shape": Fault(
        state_replaced(lambda x: torch.ones(2), "step"),
        rf"^the state 'step' of {THE_ONE} is of shape \(2,\).* one number",
    ),
    "count on another device": Fault(
        state_replaced(lambda x: x.to("meta"), "step"), rf"^the state 'step' of {THE_ONE} is "
    ),
    "count None": Fault(
        state_replaced(lambda x: None, "step"), rf"^the state 'step' of {THE_ONE} is None"
    ),
    "count nan": Fault(
        state_replaced(lambda x: x * float("nan"), "step"),
        rf"^the state 'step' of {THE_ONE} is tensor\(nan\)",
    ),
    "count negative": Fault(
        state_replaced(lambda x: -x, "step"), rf"^the state 'step' of {THE_ONE} is tensor\(-3"
    ),
    "lr nan": Fault(setting("lr", float("nan")), r"^lr is nan.*\[0, inf\)"),
    "lr infinite": Fault(setting("lr", float("inf")), r"^lr is inf.*\[0, inf\)"),
    "lr negative": Fault(setting("lr", -0.1), r"^lr is -0.1.*\[0, inf\)"),
    "lr a tensor of nan": Fault(setting("lr", torch.tensor(float("nan"))), r"^lr is nan"),
    "lr a tensor of two": Fault(setting("lr", torch.ones(2)), r"^lr is tensor\(\[1., 1.\]\)"),
    "lr a tensor on another device": Fault(
        setting("lr", torch.ones((), device="meta")), r"^lr is tensor\(.*meta"
    ),
    "lr a tensor beyond float32": Fault(
        setting("lr", torch.tensor(1e300, dtype=torch.float64)), r"cannot hold.*lr=1e\+300"
    ),
    "lr beyond float32": Fault(
        setting("lr", 1e300), r"number -\S+e\+30\d.*cannot hold.*lr=1e\+300"
    ),
    "lr a word": Fault(setting("lr", "small"), r"^lr is 'small'"),
    "lr None": Fault(setting("lr", None), r"^lr is None"),
    "beta1 1": Fault(setting("betas", (1.0, 0.9)), r"^beta1 is 1.0.*\[0, 1\)"),
    "betas None": Fault(setting("betas", None), r"^betas is None, .* two numbers"),
    "betas of one": Fault(setting("betas", (0.9,)), r"^betas is \(0.9,\), .* two numbers"),
    "beta2 nan": Fault(setting("betas", (0.9, float("nan"))), r"^beta2 is nan.*\[0, 1\)"),
    "eps -1": Fault(setting("eps", -1.0), r"^eps is -1.0.*\[0, inf\)"),
    "weight_decay infinite": Fault(setting("weight_decay", float("inf")), r"^weight_decay is inf"),
    "weight_decay beyond float32": Fault(setting("weight_decay", 1e39), r"cannot hold.*1e\+39"),
}


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_before_anything_changes(name: str, backend: str, seen: bool) -> None:
    model, twin = Model(backend), Model(backend)
    for one in (model, twin):
        if seen:
            assert not one.optimizer.state
        one.train(3)
        one.gradients()
    fault = FAULTS[name]
    repaired = fault.done(model)
    before = model.everything()
    for _ in range(2):
        with pytest.raises(tw.UsageError, match=fault.says):
            model.optimizer.step()
        assert model.everything() == before
    repaired()
    for one in (model, twin):
        one.optimizer.step()
        one.train(2)
    assert model.everything() == twin.everything()
    assert {float(s["step"]) for s in model.optimizer.state.values()} == {6}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [n for n in FAULTS if not n.startswith(("state", "count"))])
def test_a_fault_in_the_very_first_step_is_named_too(name: str, backend: str) -> None:
    model, twin = Model(backend), Model(backend)
    model.gradients()
    twin.gradients()
    repaired = FAULTS[name].done(model)
    params = [bits(p) for p in model.params.values()]
    with pytest.raises(tw.UsageError, match=FAULTS[name].says):
        model.optimizer.step()
    assert [bits(p) for p in model.params.values()] == params
    for state in model.optimizer.state.values():
        assert all(not x.any() for x in state.values())
    repaired()
    for one in (model, twin):
        one.optimizer.step()
        one.train(2)
    assert [bits(p) for p in model.params.values()] == [bits(p) for p in twin.params.values()]


class Marked(Tensor):
    """A tensor that may mean anything by its operations."""


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_beside_what_torch_runs_is_named_too(name: str, seen: bool) -> None:
    """A pass and torch's operations train the same group, and neither begins."""
    model, twin = Model("auto"), Model("auto")
    for one in (model, twin):
        bias = one.params["b.bias"]
        one.params["d"] = noise(4, seed=9).as_subclass(Marked).requires_grad_()
        one.optimizer.param_groups[1]["params"].insert(1, one.params["d"])
        one.optimizer.param_groups[1]["param_names"].insert(1, "d")
        assert one.optimizer.param_groups[1]["params"][0] is bias
        if seen:
            assert not one.optimizer.state
        one.train(3)
        one.gradients()
    repaired = FAULTS[name].done(model)
    before = model.everything()
    with pytest.raises(tw.UsageError, match=FAULTS[name].says):
        model.optimizer.step()
    assert model.everything() == before
    repaired()
    for one in (model, twin):
        one.optimizer.step()
        one.train(2)
    assert model.everything() == twin.everything()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_too_large_is_blamed_on_the_parameter_that_cannot_hold_it(backend: str) -> None:
    wide, narrow = torch.ones(2, dtype=torch.float64), torch.ones(3)
    named = {"wide": wide.requires_grad_(), "narrow": narrow.requires_grad_()}
    for p in named.values():
        p.grad = torch.ones_like(p)
    optimizer = tw.SGD(named.items(), lr=1e300, backend=backend)
    with pytest.raises(tw.UsageError, match=r"a step of parameter 'narrow' .* cannot hold"):
        optimizer.step()
    assert all(bool((p == 1).all()) for p in named.values())
    optimizer.param_groups[0]["params"].pop()
    optimizer.step()
    assert (wide == -1e300).all()


UNTRAINED = {
    "sparse": (lambda: torch.ones(3).to_sparse(), "is sparse"),
    "whole numbers": (lambda: torch.ones(3, dtype=torch.int64), "is of torch.int64"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("made", "says"), UNTRAINED.values(), ids=UNTRAINED)
def test_a_parameter_that_no_rule_trains_is_named(
    made: Callable[[], Tensor], says: str, backend: str
) -> None:
    plain, other = torch.ones(3).requires_grad_(), made()
    plain.grad, other.grad = torch.ones(3), made()
    groups = [{"params": [("plain", plain)]}, {"params": [("other", other)]}]
    optimizer = tw.Adam(groups, lr=0.1, backend=backend)
    with pytest.raises(tw.UsageError, match=rf"^parameter 'other' of shape \(3,\) {says}"):
        optimizer.step()
    assert (plain == 1).all()
    other.grad = None
    optimizer.step()
    torch.testing.assert_close(plain.detach(), torch.full((3,), 0.9))


def test_a_parameter_without_a_name_is_told_by_its_place() -> None:
    model = Model("fused", named=False)
    model.train(1)
    gradient_resized(model)
    with pytest.raises(tw.UsageError, match=r"parameter 1 of group 1 of shape \(40, 5\) has shape"):
        model.optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_freed_parameter_without_a_gradient_stands_still(backend: str) -> None:
    model = Model(backend)
    model.train(1)
    model.gradients()
    model.p.grad = None
    repaired = data_freed(model)
    before = bits(model.params["a"])
    model.optimizer.step()
    assert bits(model.params["a"]) != before
    repaired()
    model.train(1)


def ahead(params: Any, lr: float, backend: str) -> tw.Optimizer:
    return tw.Optimizer(params, rules.nag, lookahead=True, lr=lr, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (data_freed, "has been freed"),
        (data_of_another_shape, "has shape"),
        (setting("lr", 1e300), "cannot hold"),
        (setting("gamma", 2.0), "gamma is 2.0"),
    ],
    ids=["freed", "shape", "lr", "gamma"],
)
def test_a_step_that_looks_ahead_moves_nothing_before_all_is_right(
    wrong: Callable[[Model], Callable[[], None]], says: str, backend: str
) -> None:
    def closure(model: Model) -> Callable[[], None]:
        return lambda: model.gradients()

    model, twin = Model(backend, made=ahead), Model(backend, made=ahead)
    for one in (model, twin):
        for _ in range(3):
            one.optimizer.step(closure(one))
    repaired = wrong(model)
    before = model.everything()
    with pytest.raises(tw.UsageError, match=says):
        model.optimizer.step(closure(model))
    assert model.everything() == before
    repaired()
    for one in (model, twin):
        for _ in range(2):
            one.optimizer.step(closure(one))
    assert model.everything() == twin.everything()
    assert {float(s["step"]) for s in model.optimizer.state.values()} == {5}


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_come_back_if_the_closure_fails(backend: str) -> None:
    model = Model(backend, made=ahead)
    model.optimizer.step(model.gradients)
    before = model.everything()
    with pytest.raises(ZeroDivisionError):
        model.optimizer.step(lambda: 1 / 0)
    assert model.everything() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_of_mixed_types_trains_each_as_if_it_were_alone(backend: str) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float64]
    if backend != "fused" or compilation.has_float16():
        dtypes.insert(2, torch.float16)

    def made() -> list[Tensor]:
        return [noise(7, 3, seed=i).to(d).requires_grad_() for i, d in enumerate(dtypes)]

    together, alone = made(), made()
    optimizers = [tw.Adam(together, lr=0.1, backend=backend)]
    optimizers += [tw.Adam([p], lr=0.1, backend=backend) for p in alone]
    for t in range(5):
        for params in (together, alone):
            for i, p in enumerate(params):
                p.grad = noise(7, 3, seed=10 * t + i).to(p.dtype)
        for optimizer in optimizers:
            optimizer.step()
    assert all(map(torch.equal, together, alone))
    assert [p.dtype for p in together] == dtypes


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [(torch.float64, "auto"), (torch.bfloat16, "auto"), (torch.bfloat16, "fused")],
    ids=str,
)
def test_a_state_may_be_kept_in_another_type(dtype: torch.dtype, backend: str) -> None:
    model, twin = Model(backend), Model("eager")
    for one in (model, twin):
        one.train(2)
        state = one.optimizer.state[one.p]
        state["exp_avg"] = state["exp_avg"].to(dtype)
        one.train(3)
        assert state["exp_avg"].dtype is dtype
    margin = 1e-6 if dtype is torch.float64 else 1e-2
    for p, q in zip(model.params.values(), twin.params.values(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=margin)


def test_a_state_with_more_digits_than_its_parameter_is_for_torch_alone() -> None:
    model = Model("fused")
    model.train(2)
    state = model.optimizer.state[model.p]
    state["exp_avg"] = state["exp_avg"].double()
    before = model.everything()
    with pytest.raises(tw.UsageError, match=rf"cannot take {THE_ONE}: .* of torch.float64"):
        model.train(1)
    assert model.everything() == before


OTHERS = {
    "meta": (lambda: torch.empty(3, device="meta"), "it is on meta"),
    "subclass": (lambda: torch.ones(3).as_subclass(Marked), "it is a Marked"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_kernel_takes_is_named_and_else_trained_by_torch(name: str) -> None:
    made, says = OTHERS[name]
    for backend in ("fused", "auto"):
        plain, other = torch.ones(3).requires_grad_(), made().requires_grad_()
        plain.grad = torch.ones(3)
        other.grad = made()
        optimizer = tw.Adam([("plain", plain), ("other", other)], lr=0.1, backend=backend)
        if backend == "fused":
            with pytest.raises(
                tw.UsageError, match=rf"cannot take parameter 'other' of shape \(3,\): {says}"
            ):
                optimizer.step()
            assert torch.equal(plain.detach(), torch.ones(3))
        else:
            optimizer.step()
            torch.testing.assert_close(plain.detach(), torch.full((3,), 0.9))
            if name != "meta":
                assert (other.detach() != 1).all()


def test_a_gradient_is_seen_to_be_there_before_its_norm_is_taken() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = tw.Optimizer([p], tw.chain(tw.clip_norm, tw.sgd), lr=1.0)
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
        before = p.detach().clone()
        p.grad.untyped_storage().resize_(0)
        with pytest.raises(tw.UsageError, match=r"the gradient of parameter 0 .* has been freed"):
            optimizer.step()
        assert torch.equal(p.detach(), before)


@pytest.mark.parametrize("made", [tw.RMSprop, tw.QHAdam, lambda p: tw.Adam(p, weight_decay=0.1)])
def test_a_sparse_gradient_of_what_is_not_defined_for_it_is_refused(made: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(tw.UsageError, match=r"gradient of parameter 0 .* is sparse, .* dense"):
        made([p]).step()
    assert torch.equal(p.detach(), torch.ones(3))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam"])
def test_complex_numbers_are_trained_as_torch_trains_them(name: str) -> None:
    ends = []
    for made in (getattr(tw, name), getattr(torch.optim, name)):
        p = torch.view_as_complex(noise(6, 2, seed=0)).requires_grad_()
        optimizer = made([p], lr=0.1)
        for t in range(5):
            p.grad = torch.view_as_complex(noise(6, 2, seed=1 + t)) + 0.1 * p.detach()
            optimizer.step()
        ends.append(torch.view_as_real(p.detach()))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


# What could end the process is tried in another one.

READ_ONLY = """
import mmap, sys, warnings
from pathlib import Path
import numpy as np
import torch
import thalweg
from thalweg import rules

warnings.simplefilter("ignore")
path = Path(sys.argv[1])
np.arange(6000, dtype=np.float32).tofile(path)


def locked(how):
    match how:
        case "memmap":
            return torch.from_numpy(np.memmap(path, np.float32, "r"))
        case "mmap":
            with path.open("rb") as file:
                return torch.frombuffer(
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=torch.float32
                )
        case "part":
            # Only the last pages cannot be written.
            area = np.memmap(path, np.float32, "c")
            import ctypes
            at = area.ctypes.data + 4096 * 4
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), 4096, mmap.PROT_READ) == 0
            return torch.from_numpy(area)


def tried(how, backend, which):
    def said(what):
        print(how, backend, which, what, sep="|", flush=True)

    free = torch.ones(5000).requires_grad_()
    held = (torch.ones(6000) if which in ("state", "later") else locked(how)).requires_grad_()
    held.grad, free.grad = torch.ones(6000), torch.ones(5000)
    groups = [{"params": [("free", free)]}, {"params": [("held", held)], "lr": 0.2}]
    if which == "ahead":
        optimizer = thalweg.Optimizer(groups, rules.nag, lookahead=True, lr=0.1, backend=backend)
    else:
        optimizer = thalweg.Adam(groups, lr=0.1, backend=backend)
    if which == "state":
        optimizer.step()
        kept = optimizer.state[held]["exp_avg"]
        optimizer.state[held]["exp_avg"] = locked(how)
    if which == "later":
        for _ in range(3):
            optimizer.step()
        held.data = locked(how)
    before = free.detach().clone(), held.detach().clone()
    for _ in range(2):
        try:
            optimizer.step(lambda: None)
            said("no error")
        except thalweg.UsageError as error:
            said(error)
        assert torch.equal(free, before[0]) and torch.equal(held, before[1])
    if which == "state":
        optimizer.state[held]["exp_avg"] = kept
    else:
        held.data = held.data.clone()
    optimizer.step(lambda: None)
    assert not torch.equal(free, before[0]) and not torch.equal(held, before[1])
    said({int(s["step"]) for s in optimizer.state.values()})


for case in sys.argv[2:]:
    tried(*case.split("|"))
"""


CASES = [
    "memmap|fused|parameter",
    "memmap|eager|parameter",
    "memmap|auto|ahead",
    "memmap|fused|state",
    "memmap|eager|state",
    "memmap|fused|later",
    "memmap|eager|later",
    "mmap|auto|parameter",
    "part|fused|parameter",
]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.parametrize("case", CASES)
def test_memory_that_cannot_be_written_is_named(case: str, told: dict[str, list[str]]) -> None:
    lines = told["read only"]
    said = [line.removeprefix(f"{case}|") for line in lines if line.startswith(f"{case}|")]
    assert len(said) == 3
    first, second, counts = said
    assert "the memory of parameter 'held' of shape (6000,) is read-only" in first
    assert "clone" in first
    assert second == first
    assert counts == {"state": "{2}", "later": "{4}"}.get(case.split("|")[2], "{1}")


ONLY_READ = """
import sys, warnings
from pathlib import Path
import numpy as np
import torch
import thalweg

warnings.simplefilter("ignore")
path = Path(sys.argv[1])
for backend in sys.argv[2:]:
    np.ones(6000, dtype=np.float32).tofile(path)
    p = torch.ones(6000).requires_grad_()
    optimizer = thalweg.SGD([p], lr=0.25, backend=backend)
    p.grad = torch.ones(6000)
    optimizer.step()
    p.grad = torch.from_numpy(np.memmap(path, np.float32, "r"))
    optimizer.step()
    print(p[0].item(), p[-1].item())
    for shared in (False, True):
        p = torch.from_file(str(path), shared=shared, size=6000).requires_grad_()
        p.grad = torch.ones(6000)
        thalweg.SGD([p], lr=0.25, backend=backend).step()
        print(p[-1].item(), np.fromfile(path, np.float32)[-1])
"""


def test_memory_that_is_only_read_need_not_be_writable(told: dict[str, list[str]]) -> None:
    assert told["only read"] == ["0.5 0.5", "0.75 1.0", "0.75 0.75"] * len(BACKENDS)


LOADED = """
import torch, thalweg
p, q = (torch.ones(5000).requires_grad_() for _ in range(2))
one, other = (thalweg.Adam([x], lr=0.1, backend="fused") for x in (p, q))
p.grad = q.grad = torch.ones(5000)
one.step()
saved = one.state_dict()
# torch does not copy what it loads.
other.load_state_dict(saved)
other.step()
saved["state"][0]["exp_avg"].data = torch.full((5000,), 100.0)
other.step()
print(other.state[q]["exp_avg"][0].item())
saved["state"][0]["exp_avg"].untyped_storage().resize_(0)
try:
    other.step()
except thalweg.UsageError as error:
    print(error)
"""


SCRIPTS = {
    "only read": (ONLY_READ, BACKENDS),
    "loaded": (LOADED, []),
    "read only": (READ_ONLY, CASES),
}
ONE_BY_ONE = """
import json, sys
for name, code, arguments in json.loads(sys.argv[1]):
    print("#", name, flush=True)
    sys.argv = ["", *arguments]
    exec(code, {})
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each script prints; if one ends the process, nothing of what comes after it."""
    path = str(tmp_path_factory.mktemp("read_only") / "numbers")
    given = json.dumps([(name, code, [path, *more]) for name, (code, more) in SCRIPTS.items()])
    command = [sys.executable, "-c", ONE_BY_ONE, given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    # pytest shows it where a test fails.
    print(done.returncode, done.stderr)
    parts = (part.splitlines() for part in f"\n{done.stdout}".split("\n# ")[1:])
    return {name: lines for name, *lines in parts}


def test_a_state_that_was_loaded_may_be_changed_by_whoever_has_it(
    told: dict[str, list[str]],
) -> None:
    average, error = told["loaded"]
    assert float(average) == pytest.approx(0.9 * 100 + 0.1)
    assert "the state 'm' of parameter 0 of group 0" in error
    assert "has been freed" in error
