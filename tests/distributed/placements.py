"""Distributed tensors by themselves: what a kernel gets of them, and what it notices of changes."""

import weakref
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)

import thalweg as tw
from distributed.training import TOLERANCE, assert_fused, noisy, whole
from distributed.world import Check, World
from thalweg import batches

SHAPE = (5, 3)
PLACED: Mapping[str, Placement] = {
    "rows": Shard(0),
    "columns": Shard(1),
    "everywhere": Replicate(),
}


def values(t: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same numbers in every process."""
    return torch.randn(SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(t))


def placed(x: Tensor, how: Placement, world: World) -> DTensor:
    """A tensor distributed so; of a sum every process has a part."""
    if isinstance(how, Partial):
        part = x * (world.rank + 1) / (world.size * (world.size + 1) / 2)
        return DTensor.from_local(part, world.mesh, [how], run_check=False)
    return distribute_tensor(x, world.mesh, [how])


class Pair:
    """A parameter that is distributed, and the same in one process."""

    def __init__(
        self, world: World, how: Placement, *, dtype: torch.dtype = torch.float64, made=tw.Adam
    ) -> None:
        self.world, self.dtype, self.t = world, dtype, 0
        self.p = torch.nn.Parameter(placed(values(0, dtype), how, world))
        self.q = torch.nn.Parameter(values(0, dtype))
        self.optimizer, self.one = made([self.p]), made([self.q])

    def step(self, how: Placement) -> None:
        """Take one with a gradient that is placed so."""
        self.t += 1
        g = values(self.t, self.dtype)
        self.step_with(placed(g, how, self.world), g)

    def step_with(self, distributed: DTensor, g: Tensor) -> None:
        """Take one with a gradient that is given in both forms."""
        self.p.grad, self.q.grad = distributed, g
        self.optimizer.step()
        self.one.step()
        torch.testing.assert_close(whole(self.p.detach()), self.q.detach(), rtol=0, atol=TOLERANCE)


def any_gradient(name: str, world: World) -> None:
    """It is brought to where the parameter is, even if it comes to lie elsewhere between steps."""
    pair = Pair(world, PLACED[name])
    for how in (PLACED[name], Partial(), Partial(), Shard(0), Shard(1), Replicate(), PLACED[name]):
        pair.step(how)
        assert_fused(pair.optimizer)


def gradients_are_let_go(world: World) -> None:
    """As soon as nothing else has them."""
    pair = Pair(world, Replicate())
    for how in (Replicate(), Partial()):
        pair.step_with(g := placed(values(1), how, world), values(1))
        gone = weakref.ref(g)
        del g
        pair.p.grad = None
        assert gone() is None


def complex_numbers(name: str, world: World) -> None:
    pair = Pair(world, PLACED[name], dtype=torch.complex128)
    for _ in range(3):
        pair.step(PLACED[name])
        assert_fused(pair.optimizer)


def by_torch(name: str, world: World) -> None:
    pair = Pair(world, PLACED[name], made=partial(tw.NAdam, backend="eager"))
    for how in (PLACED[name], Partial(), PLACED[name]):
        pair.step(how)
        assert pair.optimizer.backend_of(pair.p) == "eager"


def noise(name: str, world: World, dtype: torch.dtype = torch.float64) -> None:
    """It is drawn by a kernel where each process has the whole."""
    pair = Pair(world, PLACED[name], dtype=dtype, made=noisy)
    for _ in range(3):
        pair.step(PLACED[name])
        by = "fused" if name == "everywhere" else "eager"
        assert pair.optimizer.backend_of(pair.p) == by


def on_its_way(world: World) -> None:
    """A gradient that is still being sent is waited for."""
    pair = Pair(world, Replicate())
    for t in range(3):
        late = placed(values(t), Partial(), world).redistribute(
            placements=[Replicate()], async_op=True
        )
        assert type(late._local_tensor) is not Tensor
        pair.step_with(late, values(t))
        assert_fused(pair.optimizer)


def beside_others(backend: str, world: World) -> None:
    """Some parameters of a group are distributed, in one way or another, and some are not."""
    ends = []
    for ways in ([None] * 4, [Shard(0), None, Shard(1), Replicate()]):
        params = [
            torch.nn.Parameter(values(i) if how is None else placed(values(i), how, world))
            for i, how in enumerate(ways)
        ]
        optimizer = tw.AdamW(params, backend=backend)
        for t in range(3):
            for i, (p, how) in enumerate(zip(params, ways, strict=True)):
                g = values(10 * t + i)
                p.grad = g if how is None else placed(g, how, world)
            optimizer.step()
        by = "eager" if backend == "eager" else "fused"
        assert [optimizer.backend_of(p) for p in params] == [by] * 4
        ends.append([whole(p.detach()) for p in params])
    torch.testing.assert_close(*ends, rtol=0, atol=TOLERANCE)


def lookahead(world: World) -> None:
    """The gradient is taken elsewhere than where the parameter is."""
    pair = Pair(world, Shard(0), made=lambda p: tw.Optimizer(p, tw.nag, lr=0.1, lookahead=True))
    ends = []
    for p, optimizer in ((pair.p, pair.optimizer), (pair.q, pair.one)):

        def closure(p: Tensor = p, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (p - 1).square().sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends.append(whole(p.detach()))
    torch.testing.assert_close(*ends, rtol=0, atol=TOLERANCE)
    assert_fused(pair.optimizer)


def learned_through(name: str, world: World) -> None:
    """Gradients flow through a step, and noise is that of one process."""
    rule = tw.chain(tw.noise, tw.adam) if name == "noise" else tw.adam
    found: list[tuple[Tensor, Tensor]] = []
    for start in (placed(values(0), Shard(0), world), values(0)):
        start.requires_grad_()
        p = start.square()
        p.grad = 2 * p.detach()
        tw.Optimizer([p], rule, lr=0.1, differentiable=True).step()
        whole(p).pow(3).sum().backward()
        found.append((whole(p.detach()), whole(start.grad)))
    torch.testing.assert_close(*found, rtol=0, atol=TOLERANCE)


def changes_are_noticed(world: World) -> None:
    """What is put in place of a shard, or of a state, is what is trained from then on."""
    pair = Pair(world, Shard(0))
    pair.step(Shard(0))
    # As FSDP does it: to set a distributed tensor's data changes nothing.
    old = pair.p._local_tensor
    kept = old.clone()
    pair.p._local_tensor = placed(values(100), Shard(0), world).to_local()
    pair.q.data = values(100)
    pair.step(Shard(0))
    assert torch.equal(old, kept)
    for optimizer, p in ((pair.optimizer, pair.p), (pair.one, pair.q)):
        state = optimizer.state[p]
        state["exp_avg"] = state["exp_avg"] + 1
    pair.step(Shard(0))
    pair.optimizer.state[pair.p]["exp_avg"].to_local().zero_()
    pair.one.state[pair.q]["exp_avg"].zero_()
    pair.step(Shard(0))
    assert_fused(pair.optimizer)


def one_process_may_look(world: World) -> None:
    """It binds anew, the others do not, and none waits for another."""
    pair = Pair(world, Replicate())
    for t in range(4):
        if t == 2 and world.rank == 0:
            assert pair.optimizer.state
        pair.step(Partial())


def bound_once(world: World) -> None:
    """Gradients are new each time, and what is bound stays so."""
    made = []

    class Counted(batches.Bound):
        def __init__(self, *args, **kwargs) -> None:
            made.append(self)
            super().__init__(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "Bound", Counted)
        pair = Pair(world, Shard(0), made=tw.SGD)
        for how in [Shard(0)] * 4 + [Partial()] * 4:
            pair.step(how)
    # Two optimizers, and once more where sums have to be brought.
    assert len(made) == 3


def stale_values_are_known(world: World) -> None:
    """Backward refuses them."""
    pair = Pair(world, Replicate())
    for how in (Replicate(), Partial()):
        loss = pair.p.square().sum()
        pair.step(how)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def misplaced_is_an_error(world: World) -> None:
    """It names what it is, and nothing is changed."""
    pair = Pair(world, Shard(0))
    pair.step(Shard(0))
    state = pair.optimizer.state[pair.p]
    kept, before = state["exp_avg"], whole(pair.p.detach()).clone()
    for wrong, says in (
        (placed(values(0), Replicate(), world), "is placed as .*Replicate"),
        (values(0), "is a Tensor, and the parameter a DTensor"),
        (placed(values(0).to(torch.complex128), Shard(0), world), "is of torch.complex128"),
    ):
        state["exp_avg"] = wrong
        with pytest.raises(tw.UsageError, match=rf"^the state '\w+' of parameter 0 .* {says}"):
            pair.optimizer.step()
    state["exp_avg"] = kept
    pair.p.grad = values(0)
    with pytest.raises(tw.UsageError, match=r"^the gradient of parameter 0 .* is a Tensor, and"):
        pair.optimizer.step()
    assert torch.equal(whole(pair.p.detach()), before)
    pair.step(Shard(0))
    p = torch.nn.Parameter(placed(values(0), Partial(), world))
    p.grad = placed(values(0), Partial(), world)
    with pytest.raises(tw.UsageError, match=r"^parameter 0 .* is placed as .*Partial"):
        tw.SGD([p], lr=0.1).step()


_OF_EACH = {
    "any gradient": any_gradient,
    "complex": complex_numbers,
    "by torch": by_torch,
    "noise": noise,
}
CHECKS: Mapping[str, Check] = {
    **{
        f"{what}, {name}": partial(check, name)
        for what, check in _OF_EACH.items()
        for name in PLACED
    },
    "complex noise": partial(noise, "rows", dtype=torch.complex128),
    "gradients are let go": gradients_are_let_go,
    "on its way": on_its_way,
    "beside others": partial(beside_others, "fused"),
    "beside others, by torch": partial(beside_others, "eager"),
    "lookahead": lookahead,
    "learned through": partial(learned_through, "Adam"),
    "learned through, noise": partial(learned_through, "noise"),
    "changes are noticed": changes_are_noticed,
    "one process may look": one_process_may_look,
    "bound once": bound_once,
    "stale values are known": stale_values_are_known,
    "misplaced is an error": misplaced_is_an_error,
}
