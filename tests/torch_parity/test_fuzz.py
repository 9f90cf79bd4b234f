"""Whatever is done to an optimizer, in any order: ours and torch's stay the same."""

import copy
import io
import pickle
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.optim import CLASSES
from torch_parity.paths import MIRRORS, assert_close

SHAPES = [(), (3,), (2, 3), (0,), (2, 1, 3), (17,)]
OPTIONS: Mapping[str, Mapping[str, list[Any]]] = {
    "SGD": {"momentum": [0, 0.5, 0.9], "dampening": [0, 0.1]},
    "Adagrad": {"lr_decay": [0, 0.1], "eps": [1e-10, 1e-3]},
    "Adadelta": {"rho": [0.9, 0.5], "eps": [1e-6, 1e-2]},
    "RMSprop": {"alpha": [0.99, 0.5], "eps": [1e-3]},
    "Adam": {"betas": [(0.9, 0.99), (0.0, 0.9)], "decoupled_weight_decay": [False, True]},
    "AdamW": {"betas": [(0.9, 0.99), (0.5, 0.6)], "eps": [1e-8, 1e-3]},
    "Adamax": {"betas": [(0.9, 0.99), (0.5, 0.6)], "eps": [1e-3]},
    "NAdam": {"momentum_decay": [4e-3, 1.0], "decoupled_weight_decay": [False, True]},
    "RAdam": {"decoupled_weight_decay": [False, True], "betas": [(0.9, 0.99), (0.5, 0.6)]},
    "Rprop": {"etas": [(0.5, 1.2), (0.3, 1.5)], "step_sizes": [(1e-6, 50), (1e-3, 0.1)]},
}
FIXED: Mapping[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"nesterov": True, "momentum": 0.9}],
    "RMSprop": [{}, {"momentum": 0.9}],
    "Adam": [{}, {"amsgrad": True}],
    "AdamW": [{}, {"amsgrad": True}],
}


class Pair:
    """An optimizer of ours and torch's twin, to which all is done alike."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.random = name, random.Random(f"{name} {seed}")
        draw = self.random
        self.dtype = torch.complex128 if draw.random() < 0.2 else torch.float64
        self.fixed = {**draw.choice(FIXED.get(name, [{}]))}
        self.fixed |= draw.choice([{}, {"maximize": True}])
        self.fixed |= draw.choice([{}, {"weight_decay": 0.1}]) if name != "Rprop" else {}
        self.named = draw.random() < 0.3
        drawn = [self.tensor(draw.choice(SHAPES)) for _ in range(draw.randint(1, 4))]
        self.params = [[x.clone().requires_grad_() for x in drawn] for _ in range(2)]
        kinds = (CLASSES[name], getattr(torch.optim, name))
        settings = self.settings(0.6) | self.fixed
        self.both = [
            kind(self.form(params), **settings)
            for kind, params in zip(kinds, self.params, strict=True)
        ]

    def tensor(self, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(self.random.randrange(1 << 30))
        x = torch.randn(shape, generator=generator, dtype=self.dtype)
        turned = len(shape) > 1 and self.random.random() < 0.4
        return x.mT.contiguous().mT if turned else x

    def form(self, params: list[Tensor]) -> Any:
        return [(f"p{i}", p) for i, p in enumerate(params)] if self.named else params

    def settings(self, share: float) -> dict[str, Any]:
        return {
            key: self.random.choice(values)
            for key, values in OPTIONS[self.name].items()
            if self.random.random() < share and not self.fixed.get("nesterov")
        }

    def group(self) -> list[dict[str, Any]]:
        at = self.random.randrange(len(self.both[0].param_groups))
        return [optimizer.param_groups[at] for optimizer in self.both]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [*zip(*self.params, strict=True)]


def step(pair: Pair) -> None:
    for params in pair.pairs():
        new, what = pair.tensor(params[0].shape), pair.random.random()
        for p in params:
            if what < 0.1:
                p.grad = None
            elif what < 0.2:
                pass
            elif what < 0.5 and p.grad is not None:
                p.grad.add_(new)
            elif what < 0.6:
                p.grad = torch.zeros_like(p)
            else:
                p.grad = new.clone()
    for optimizer in pair.both:
        optimizer.step()


def rate(pair: Pair) -> None:
    value, as_tensor = pair.random.choice([0.1, 0.3, 0.0]), pair.random.random() < 0.3
    for group in pair.group():
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = torch.tensor(value, dtype=torch.float64) if as_tensor else value


def setting(pair: Pair) -> None:
    chosen = pair.settings(0.5) | {"maximize": pair.random.random() < 0.5}
    for group in pair.group():
        # torch does not begin a velocity on the way.
        group.update({k: v for k, v in chosen.items() if k != "momentum"})


def add(pair: Pair) -> None:
    new = pair.tensor(pair.random.choice(SHAPES))
    for params, optimizer in zip(pair.params, pair.both, strict=True):
        params.append(new.clone().requires_grad_())
        named = [(f"p{len(params) - 1}", params[-1])]
        optimizer.add_param_group({"params": named if pair.named else params[-1:], "lr": 0.05})


def clear(pair: Pair) -> None:
    to_none = pair.random.random() < 0.5
    for optimizer in pair.both:
        optimizer.zero_grad(set_to_none=to_none)


def edit(pair: Pair) -> None:
    """A state is changed where it is, or exchanged for another."""
    at, in_place = pair.random.randrange(len(pair.params[0])), pair.random.random() < 0.5
    key = pair.random.random()
    for params, optimizer in zip(pair.params, pair.both, strict=True):
        held = optimizer.state.get(params[at], {})
        keys = sorted(k for k, x in held.items() if isinstance(x, Tensor))
        if keys:
            chosen = keys[int(key * len(keys))]
            changed = held[chosen] + 2 if chosen == "step" else held[chosen] * 0.5
            held[chosen] = held[chosen].copy_(changed) if in_place else changed


def forget(pair: Pair) -> None:
    at = pair.random.randrange(len(pair.params[0]))
    for params, optimizer in zip(pair.params, pair.both, strict=True):
        if pair.name != "Adagrad":  # whose state torch makes but once
            optimizer.state.pop(params[at], None)


def exchange(pair: Pair) -> None:
    """Each goes on from what the other has saved."""
    kept = []
    for optimizer in pair.both:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        kept.append(torch.load(file, weights_only=True))
    for optimizer, saved in zip(pair.both, reversed(kept), strict=True):
        optimizer.load_state_dict(saved)


def copied(pair: Pair) -> None:
    again = pair.random.choice([copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    for i in range(2):
        pair.params[i], pair.both[i] = again((pair.params[i], pair.both[i]))


def replace(pair: Pair) -> None:
    at, in_place = pair.random.randrange(len(pair.params[0])), pair.random.random() < 0.5
    for params in pair.params:
        if in_place:
            params[at].data.mul_(0.9)
        else:
            params[at].data = params[at].data * 0.9


def freeze(pair: Pair) -> None:
    at = pair.random.randrange(len(pair.params[0]))
    for params in pair.params:
        params[at].requires_grad_(not params[at].requires_grad)


ACTS: list[Callable[[Pair], None]] = [
    *[step] * 6,
    *(rate, setting, add, clear, edit, forget, exchange, copied, replace, freeze),
]


def assert_same(pair: Pair) -> None:
    tolerance = 1e-6 if pair.name == "NAdam" else 1e-10
    for p, q in pair.pairs():
        if p.numel():
            assert_close(p, q, tolerance)
    ours, torchs = (optimizer.state_dict() for optimizer in pair.both)
    for group, other in zip(ours["param_groups"], torchs["param_groups"], strict=True):
        assert group == other
    assert ours["state"].keys() == torchs["state"].keys()
    for i, held in torchs["state"].items():
        assert ours["state"][i].keys() == held.keys()
        for key, x in held.items():
            y = ours["state"][i][key]
            if not isinstance(x, Tensor):
                assert x is y
            elif key == "mu_product":  # which torch rounds
                assert_close(y.float(), x.float(), 1e-5)
            else:
                assert (y.dtype, y.shape) == (x.dtype, x.shape)
                if x.numel():
                    assert_close(y, x, tolerance)


def walk(name: str, seed: int) -> list[str]:
    pair, done = Pair(name, seed), []
    for _ in range(20):
        act = pair.random.choice(ACTS)
        done.append(act.__name__)
        act(pair)
        try:
            assert_same(pair)
        except AssertionError as error:
            raise AssertionError(f"{name}, seed {seed}, after {', '.join(done)}: {error}") from None
    return done


def walks(name: str) -> list[str]:
    return [act for seed in range(12) for act in walk(name, seed)]


@pytest.mark.parametrize("name", MIRRORS)
def test_nothing_that_is_done_tells_ours_from_torchs(name: str) -> None:
    assert {*walks(name)} == {act.__name__ for act in ACTS}


def test_a_state_that_is_not_looked_at_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tw.Optimizer, "_same_states", lambda self: True)
    monkeypatch.setattr("thalweg.batches.Batch.counted", lambda self: True)
    with pytest.raises(AssertionError, match="after"):
        walks("Adam")
