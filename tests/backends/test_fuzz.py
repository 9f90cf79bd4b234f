"""Random runs with everything at once, each step held against the float64 reference.

A run has parameters of every type and layout in several groups, and between its steps happens what
may happen: data, gradients and states are replaced, loaded, copied, settings changed, groups added.
Each step starts from the real parameters, so that only its own rounding is between it and the
reference; the states and counts are the reference's own. All memory in which a parameter, gradient
or state lies is larger than that, and what is around it must stay as it is, to the bit.

`THALWEG_FUZZ=10` makes ten times as many runs.
"""

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from cases import CASES
from thalweg.backends import compilation, fused
from thalweg.batches import Batch
from thalweg.optim import CLASSES
from thalweg.rules.reference import evaluate, inputs

BLOCKS, RUNS = 12, 60 * int(os.environ.get("THALWEG_FUZZ", "1"))
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ROUNDING = {  # of storing, relative to the element
    torch.float32: 1e-7,
    torch.float64: 1e-15,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-10,
}
COMPUTING = {True: 1e-10, False: 3e-5}
"""Relative to the largest element, by whether it is done in float64."""

if not compilation.has_float16():
    DTYPES.remove(torch.float16)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Even the smallest tensors are worth several chunks and threads."""
    monkeypatch.setattr(fused, "_ALONE", 64)
    monkeypatch.setattr(fused, "_LEAST_CHUNK", 16)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


Random = np.random.Generator


# Tensors


def drawn_shape(rng: Random) -> tuple[int, ...]:
    kind = rng.integers(10)
    if kind == 0:
        return ()
    if kind == 1:
        return (int(rng.integers(1, 700)),)
    sizes = [int(n) for n in rng.integers(1, 6, rng.integers(1, 6))]
    if kind == 2:
        sizes[rng.integers(len(sizes))] = 0
    if kind == 3:
        sizes[rng.integers(len(sizes))] = 1
    return tuple(sizes)


def guarded(rng: Random, shape: tuple[int, ...], dtype: torch.dtype, *, plain: bool) -> Tensor:
    """A tensor in the midst of memory of its own, dense or with gaps, in any order."""
    strides = [0] * len(shape)
    reach = 1
    order = range(len(shape))[::-1] if plain else rng.permutation(len(shape))
    for d in order:
        strides[d] = reach
        if shape[d] == 1 and not plain:
            strides[d] = int(rng.integers(1, 50))
        elif shape[d] > 1:
            if not plain and rng.random() < 0.3:
                strides[d] = reach = reach * int(rng.integers(1, 4)) + int(rng.integers(2))
            reach *= shape[d]
    before, after = (int(n) for n in rng.integers(0, 20, 2))
    held = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
    memory = torch.tensor(rng.normal(size=before + held + after)).to(dtype)
    return memory.as_strided(shape, strides, before)


def interleaved(rng: Random, dtype: torch.dtype, count: int) -> list[Tensor]:
    """Every so-manieth element each of one memory."""
    memory = torch.tensor(rng.normal(size=count * 7 + 5)).to(dtype)
    return [memory[2 + i : 2 + i + count * 7 : count][:7] for i in range(count)]


def adjacent(rng: Random, dtype: torch.dtype, count: int) -> list[Tensor]:
    """One behind the other in one memory, as a flattened model's parameters are."""
    memory = torch.tensor(rng.normal(size=count * 12 + 5)).to(dtype)
    return [memory[3 + 12 * i : 15 + 12 * i].view(3, 4) for i in range(count)]


def overlapping(rng: Random, dtype: torch.dtype, count: int) -> list[Tensor]:
    """Each with some elements of the one before, or all of them."""
    memory = torch.tensor(rng.normal(size=60)).to(dtype)
    shift = int(rng.integers(0, 6))
    return [memory[4 + shift * i :].as_strided((3, 4), (4, 1)) for i in range(count)]


def memory_of(x: Tensor) -> Tensor:
    """All that a tensor's storage holds."""
    return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())


def viewed(memory: np.ndarray, like: Tensor) -> np.ndarray:
    """Where a tensor lies in a copy of its storage."""
    strides = [8 * n for n in like.stride()]
    return np.lib.stride_tricks.as_strided(memory[like.storage_offset() :], like.shape, strides)


def bits(x: Tensor) -> bytes:
    return memory_of(x).view(torch.uint8).numpy().tobytes()


# The reference


@dataclass
class Known:
    """What the reference keeps of a parameter."""

    t: int = 0
    states: dict[str, Any] = field(default_factory=dict)


def settings_of(optimizer: tw.Optimizer, group: dict[str, Any]) -> tuple[Any, Any]:
    rule = optimizer._rule_of(group)
    return rule, optimizer._settings_of(group, rule)


@dataclass
class Run:
    """An optimizer and what the reference knows of it."""

    rng: Random
    optimizer: tw.Optimizer
    params: list[Tensor]
    known: list[Known]
    shared: bool
    kept: list[tuple[Tensor, bytes]] = field(default_factory=list)

    @property
    def keys(self) -> dict[str, str]:
        """The keys of states that torch calls otherwise."""
        mirror = getattr(self.optimizer, "mirror", None)
        return {} if mirror is None else mirror.states

    def groups(self) -> list[tuple[dict[str, Any], list[int]]]:
        places = iter(range(len(self.params)))
        return [(g, [next(places) for _ in g["params"]]) for g in self.optimizer.param_groups]

    def leave(self, params: list[Tensor]) -> None:
        """From now on nothing writes to where these lie, if no others lie there too."""
        others = {
            p.untyped_storage().data_ptr() for p in self.params if all(p is not q for q in params)
        }
        self.kept += [
            (p.data, bits(p.data)) for p in params if p.untyped_storage().data_ptr() not in others
        ]

    def step(self) -> None:
        """One step of both, and everything compared."""
        looking = any(group.get("lookahead") for group in self.optimizer.param_groups)
        grads = [p.grad for p in self.params]
        memories = {p.untyped_storage().data_ptr(): memory_of(p) for p in self.params}
        before = {at: x.clone() for at, x in memories.items()}
        written = {at: np.zeros(len(x), np.float64) for at, x in memories.items()}
        expected = {at: x.double().numpy().copy() for at, x in memories.items()}
        held = [(g, bits(g)) for g in grads if g is not None]
        for group, places in self.groups():
            rule, settings = settings_of(self.optimizer, group)
            for i in places:
                p, g = self.params[i], grads[i]
                if g is not None and p.numel():
                    at = p.untyped_storage().data_ptr()
                    self.expect(i, rule, settings, viewed(expected[at], p), g)
                    viewed(written[at], p)[...] = 1
                elif g is not None:
                    self.known[i].t += 1
        if looking:
            for p in self.params:
                p.grad = None

            def closure() -> None:
                for p, g in zip(self.params, grads, strict=True):
                    p.grad = g

            self.optimizer.step(closure)
        else:
            self.optimizer.step()
        for g, same in held:
            assert bits(g) == same, "a gradient was written to"
        for at, x in memories.items():
            beside = torch.from_numpy(written[at] == 0)
            assert torch.equal(x[beside], before[at][beside]), "memory beside a parameter was hit"
            close(x, expected[at])
        for x, same in self.kept:
            assert bits(x) == same, "memory that is not used any more was written to"

    def expect(self, i: int, rule: Any, settings: Any, theta: np.ndarray, g: Tensor) -> None:
        trace, known = rule.trace(settings), self.known[i]
        norms = [q.grad.double().norm().item() for q in self.params if q.grad is not None]
        numbers = {**inputs(settings), "norm": math.hypot(*norms)}
        known.t += 1
        for s in trace.declared.values():
            if s.name not in known.states:
                init = numbers[s.init] if isinstance(s.init, str) else s.init
                known.states[s.name] = init if s.scalar else np.full(theta.shape, float(init))
        values = {**numbers, **known.states, "t": known.t, "theta": theta, "g": g.double().numpy()}
        with np.errstate(all="ignore"):
            new = evaluate({"theta step": trace.step, **trace.states}, values, stream=i)
        theta[...] = theta - new.pop("theta step")
        known.states |= new

    def compare_states(self) -> None:
        for group, places in self.groups():
            rule, settings = settings_of(self.optimizer, group)
            scalar = {s.name for s in rule.trace(settings).declared.values() if s.scalar}
            for i in places:
                known, state = self.known[i], self.optimizer.state[self.params[i]]
                # torch's SGD does not count.
                assert float(state.get("step", known.t)) == known.t
                for name, value in known.states.items():
                    found = state[self.keys.get(name, name)]
                    if name in scalar:
                        assert found.item() == pytest.approx(value, rel=1e-12)
                    else:
                        assert found.shape == self.params[i].shape
                        close(found, value)


def close(x: Tensor, y: np.ndarray) -> None:
    found = x.detach().double().numpy()
    if found.size:
        scale = max(1.0, float(np.abs(y).max()))
        margin = ROUNDING[x.dtype] * np.abs(y) + COMPUTING[x.dtype is torch.float64] * scale
        wrong = ~(np.abs(found - y) <= margin)
        assert not wrong.any(), (x.dtype, found[wrong][:5], y[wrong][:5])


# What happens between steps


def new_gradients(run: Run) -> None:
    """Each kept and overwritten, replaced by one of any layout, or taken away."""
    rng = run.rng
    for p in run.params:
        how = rng.random()
        if how < 0.15 and not run.shared:
            p.grad = None
            continue
        values = torch.tensor(rng.normal(size=p.shape)).to(p.dtype)
        if how < 0.5 and p.grad is not None and p.grad.numel() and p.grad.stride().count(0) == 0:
            p.grad.copy_(values)
        elif how < 0.55 and run.optimizer.backend == "auto" and not run.shared and p.dim():
            p.grad = values.flatten()[:1].clone().expand(p.shape) if p.numel() else values
        else:
            g = guarded(rng, tuple(p.shape), p.dtype, plain=rng.random() < 0.6)
            p.grad = g.copy_(values)


def data_replaced(run: Run) -> None:
    if not run.shared:
        p = run.params[run.rng.integers(len(run.params))]
        run.leave([p])
        p.data = guarded(run.rng, tuple(p.shape), p.dtype, plain=False).copy_(p.data)


def data_changed_in_place(run: Run) -> None:
    p = run.params[run.rng.integers(len(run.params))]
    with torch.no_grad():
        p.mul_(0.5)


def state_replaced(run: Run) -> None:
    i = int(run.rng.integers(len(run.params)))
    state = run.optimizer.state.get(run.params[i], {})
    for key, x in [*state.items()]:
        if key != "step" and x.dim() == run.params[i].dim() and x.shape == run.params[i].shape:
            if x.dim() == 0 and x.dtype is torch.float64 and run.params[i].dtype is not x.dtype:
                continue
            if x.untyped_storage().nbytes() == 8 * len(run.params):
                continue
            run.kept.append((x, bits(x)))
            state[key] = guarded(run.rng, tuple(x.shape), x.dtype, plain=False).copy_(x)


def state_data_replaced(run: Run) -> None:
    i = int(run.rng.integers(len(run.params)))
    for key, x in run.optimizer.state.get(run.params[i], {}).items():
        if key != "step":
            x.data = x.data.clone()


def state_loaded(run: Run) -> None:
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


def state_loaded_as_it_is(run: Run) -> None:
    run.optimizer.load_state_dict(run.optimizer.state_dict())


def copied(run: Run) -> None:
    if not run.shared:
        grads = [p.grad for p in run.params]
        for p in run.params:
            p.grad = None
        run.leave(run.params)
        run.params, run.optimizer = copy.deepcopy((run.params, run.optimizer))
        for p, g in zip(run.params, grads, strict=True):
            p.grad = g


def seen(run: Run) -> None:
    run.compare_states()


def count_replaced(run: Run) -> None:
    for state in run.optimizer.state.values():
        if "step" in state and run.rng.random() < 0.5:
            state["step"] = state["step"].clone()


def lr_changed(run: Run) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] *= float(run.rng.uniform(0.5, 1.2))


def weight_decay_changed(run: Run) -> None:
    for group in run.optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = float(run.rng.choice([0.0, 0.05]))


def group_added(run: Run) -> None:
    if not run.shared and len(run.params) < 9:
        added = parameters(run.rng)
        run.optimizer.add_param_group({"params": added})
        run.params += added
        run.known += [Known() for _ in added]
        new_gradients(run)


def backend_changed(run: Run) -> None:
    if not any(p.grad is not None and 0 in p.grad.stride() for p in run.params) and not run.shared:
        run.optimizer.backend = str(run.rng.choice(["fused", "auto", "eager"]))


def threads_changed(run: Run) -> None:
    torch.set_num_threads(int(run.rng.integers(1, 5)))


def refused(run: Run) -> None:
    """A step with something wrong in it changes nothing, and does no harm later."""
    some = [p for p in run.params if p.grad is not None and p.grad.numel() and p.grad.dim()]
    if some:
        p = some[run.rng.integers(len(some))]
        g = p.grad
        p.grad = None
        good, p.data = p.data, p.data.new_ones(3, 3, 3, 3, 3, 3)
        p.grad = torch.ones_like(p)
        p.data = good
        before = [bits(q) for q in run.params]
        with pytest.raises(tw.UsageError, match="shape"):
            run.optimizer.step(lambda: None)
        assert [bits(q) for q in run.params] == before
        p.grad = g


EVENTS: list[Callable[[Run], None]] = [
    data_replaced,
    data_changed_in_place,
    state_replaced,
    state_data_replaced,
    state_loaded,
    state_loaded_as_it_is,
    copied,
    seen,
    count_replaced,
    lr_changed,
    weight_decay_changed,
    group_added,
    backend_changed,
    threads_changed,
    refused,
]


# Runs


def parameters(rng: Random, *, shared: bool = False) -> list[Tensor]:
    if shared:
        # What two of them write is rounded twice.
        dtype = DTYPES[rng.integers(2)]
        tensors = overlapping(rng, dtype, int(rng.integers(2, 4)))
        tensors += [guarded(rng, drawn_shape(rng), dtype, plain=True)]
    else:
        tensors = []
        for _ in range(rng.integers(1, 4)):
            dtype = DTYPES[rng.integers(len(DTYPES))]
            kind = rng.random()
            if kind < 0.1:
                tensors += interleaved(rng, dtype, int(rng.integers(2, 4)))
            elif kind < 0.2:
                tensors += adjacent(rng, dtype, int(rng.integers(2, 4)))
            else:
                tensors.append(guarded(rng, drawn_shape(rng), dtype, plain=rng.random() < 0.4))
    if rng.random() < 0.5:
        return [torch.nn.Parameter(x) for x in tensors]
    return [x.requires_grad_() for x in (y.detach() for y in tensors)]


OPTIONS = {
    "weight_decay": [0.0, 0.03],
    "momentum": [0.0, 0.8],
    "nesterov": [False, True],
    "dampening": [0.0, 0.2],
    "maximize": [False, True],
    "amsgrad": [False, True],
    "decoupled_weight_decay": [False, True],
    "lr": [0.01, 0.1],
    "eps": [1e-3, 1e-1],
    "betas": [(0.9, 0.99), (0.5, 0.7)],
}


def optimizer(rng: Random, params: Any, backend: str) -> tw.Optimizer:
    """One of the classes with some options, or a row of the case table with drawn numbers."""
    if rng.random() < 0.5:
        case = CASES[rng.integers(len(CASES))]
        # A difference of nearly equal averages under a root has no digits in float32.
        if "centered" not in case.name:
            settings = {**case.drawn(rng)}
            if "eps" in settings:
                settings["eps"] = 1e-2
            return tw.Optimizer(
                params, case.rule, convention=case.convention, backend=backend, **settings
            )
    made = CLASSES[str(rng.choice([*CLASSES]))]
    known = getattr(made, "signature", None)
    names = set(known.parameters) if known else {"lr"}
    chosen: dict[str, Any] = {
        name: values[rng.integers(len(values))]
        for name, values in OPTIONS.items()
        if name in names and rng.random() < 0.5
    }
    if "eps" in names:
        chosen.setdefault("eps", 1e-2)
    if chosen.get("nesterov"):
        chosen |= {"momentum": 0.7, "dampening": 0.0}
    return made(params, backend=backend, **chosen)


def started(rng: Random) -> Run:
    shared = rng.random() < 0.1
    params = parameters(rng, shared=shared)
    given: Any = params
    if len(params) > 2 and not shared and rng.random() < 0.4:
        cut = int(rng.integers(1, len(params)))
        given = [{"params": params[:cut]}, {"params": params[cut:], "lr": 0.02}]
    backend = "fused" if shared or rng.random() < 0.7 else "auto"
    made = optimizer(rng, given, backend)
    if shared and any(g.get("lookahead") for g in made.param_groups):
        made = tw.SGD(params, lr=0.1, backend=backend)
    return Run(rng, made, params, [Known() for _ in params], shared)


def taken(number: int) -> None:
    """The run of that number."""
    rng = np.random.default_rng(number)
    run = started(rng)
    happened: list[str] = []
    try:
        for _ in range(rng.integers(2, 7)):
            new_gradients(run)
            happened.append("step")
            run.step()
            while rng.random() < 0.4:
                event = EVENTS[rng.integers(len(EVENTS))]
                happened.append(event.__name__)
                event(run)
        run.compare_states()
    except AssertionError as error:
        raise AssertionError(f"run {number}: {happened}\n{run.optimizer!r}\n{error}") from error


def several(numbers: range) -> None:
    for number in numbers:
        taken(number)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_random_run_follows_the_reference(block: int) -> None:
    several(range(block * RUNS, (block + 1) * RUNS))


def last_element_forgotten(patch: pytest.MonkeyPatch) -> None:
    chunked = fused.Pass._chunked

    def forgetful(*arguments: Any) -> Any:
        chunks = chunked(*arguments)
        chunks[-1:, 2] -= 1
        return chunks

    patch.setattr(fused.Pass, "_chunked", forgetful)


def everything_taken_for_dense(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fused.memory, "layout", lambda *_, **__: None)


def counts_left_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batch, "counted", lambda _: True)
    step = Batch._step

    def uncounted(batch: Batch, run: Any, values: Any) -> None:
        step(batch, run, {**values, "t": values["t"] - 1})

    patch.setattr(Batch, "_step", uncounted)


@pytest.mark.parametrize(
    "broken", [last_element_forgotten, everything_taken_for_dense, counts_left_behind]
)
def test_a_fault_is_found_soon(broken, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError, match="run"):
        several(range(20))
