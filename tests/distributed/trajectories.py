"""A model that several processes train together walks the path of one process."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import thalweg as tw
from distributed.training import (
    OURS,
    STEPS,
    TOLERANCE,
    TORCHS,
    Maker,
    assert_equal,
    assert_fused,
    backward,
    batch,
    network,
    noisy,
    train,
    whole,
)
from distributed.world import Check, World


def sharded(world: World, **options: object) -> nn.Sequential:
    """The network with each layer's parameters cut along their first dimension."""
    model = network()
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=world.mesh, **options)
    return model


def _alone(maker: Maker, **options: object) -> nn.Sequential:
    one = network()
    train(one, maker(one.parameters()), **options)
    return one


def ddp(name: str, world: World) -> None:
    model = network()
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = OURS[name](model.parameters())
    train(parallel, optimizer, world.own)
    assert_fused(optimizer)
    assert_equal(model, _alone(TORCHS[name]))


def fsdp(name: str, world: World) -> None:
    model = sharded(world)
    optimizer = OURS[name](model.parameters())
    train(model, optimizer, world.own)
    assert_fused(optimizer)
    assert_equal(model, _alone(TORCHS[name]))
    for p in model.parameters():
        kept = [x for key, x in optimizer.state[p].items() if key not in ("step", "mu_product")]
        assert kept
        assert all(isinstance(x, DTensor) and x.placements == (Shard(0),) for x in kept)


def fsdp_otherwise(options: Mapping[str, object], world: World) -> None:
    """With options that change where weights are between steps."""
    model = sharded(world, **options)
    optimizer = OURS["AdamW"](model.parameters())
    train(model, optimizer, world.own)
    assert_fused(optimizer)
    assert_equal(model, _alone(TORCHS["AdamW"]))


def fsdp_accumulated(world: World) -> None:
    """Gradients of half a batch stay in their process until those of the other are there."""
    model, one = sharded(world), network()
    optimizer, alone = OURS["AdamW"](model.parameters()), TORCHS["AdamW"](one.parameters())
    for t in range(STEPS):
        model.zero_grad()
        for last, half in enumerate(world.own(batch(t)).chunk(2)):
            for layer in model.modules():
                if isinstance(layer, FSDPModule):
                    layer.set_requires_gradient_sync(bool(last))
            ((model(half).squeeze(1) - half.prod(1)).square().mean() / 2).backward()
        optimizer.step()
        backward(one, batch(t))
        alone.step()
    assert_fused(optimizer)
    assert_equal(model, one)


def fsdp_partly(world: World) -> None:
    """One layer is cut and one is not, and some of each is frozen."""
    ends: list[nn.Module] = []
    for maker in (OURS["AdamW"], TORCHS["AdamW"]):
        model = network()
        model[0].bias.requires_grad_(False)
        model[2].weight.requires_grad_(False)
        if not ends:
            fully_shard(model[0], mesh=world.mesh)
        optimizer = maker(model.parameters())
        for t in range(STEPS):
            backward(model, batch(t))
            optimizer.step()
        ends.append(model)
    for p, q in zip(*(model.parameters() for model in ends), strict=True):
        torch.testing.assert_close(whole(p.detach()), q.detach(), rtol=0, atol=TOLERANCE)


def fsdp_compiled(world: World) -> None:
    """A compiler leaves the step alone where parameters are distributed."""
    model = sharded(world)
    optimizer = OURS["AdamW"](model.parameters())
    compiled = torch.compile(lambda: optimizer.step(), backend="eager")
    for t in range(STEPS):
        backward(model, world.own(batch(t)))
        compiled()
    assert_fused(optimizer)
    assert_equal(model, _alone(TORCHS["AdamW"]))


def fsdp_has_shards_of_nothing(world: World) -> None:
    """Otherwise what is said of them would not be tested."""
    shards = [p.to_local().numel() for p in sharded(world).parameters()]
    assert (0 in shards) is (world.rank > 0)


def fsdp_clipped(world: World) -> None:
    def clip(model: nn.Module) -> Tensor:
        return nn.utils.clip_grad_norm_(model.parameters(), 0.1)

    model = sharded(world)
    optimizer = OURS["SGD"](model.parameters())
    train(model, optimizer, world.own, before=clip)
    assert_fused(optimizer)
    assert_equal(model, _alone(TORCHS["SGD"], before=clip))


def _clips(params: Iterable[Any]) -> tw.Optimizer:
    return tw.Optimizer(params, tw.chain(tw.clip_norm(0.1), tw.momentum), lr=0.01)


def clipped_inside(model_of: Callable[[World], nn.Module], world: World) -> None:
    """By the norm of all gradients, wherever they are and even if they have still to be summed."""
    model = model_of(world)
    optimizer = _clips(model.parameters())
    train(model, optimizer, world.own if model_of is sharded else lambda examples: examples)
    assert_fused(optimizer)
    assert_equal(model, _alone(_clips))


def fsdp_of_fewer_digits(world: World) -> None:
    """Gradients are what bfloat16 makes of them; given those, the steps are those of one process.

    One step in float32 rounds some ten times by 6e-8, relative to weights below 1.
    """
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = network().float()
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=world.mesh, mp_policy=policy)
    one = network().float()
    optimizer, alone = (
        tw.AdamW(model.parameters(), lr=0.01),
        torch.optim.AdamW(one.parameters(), lr=0.01),
    )
    for t in range(STEPS):
        backward(model, world.own(batch(t).bfloat16()))
        for p, q in zip(model.parameters(), one.parameters(), strict=True):
            q.grad = whole(p.grad).clone()
        optimizer.step()
        alone.step()
        for p, q in zip(model.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(whole(p), q, rtol=0, atol=STEPS * 1e-6)
    assert_fused(optimizer)


def fsdp_with_noise(world: World) -> None:
    """What is drawn for a weight does not depend on where it is."""
    model = sharded(world)
    train(model, noisy(model.parameters()), world.own)
    assert_equal(model, _alone(noisy))


def by_layer(world: World) -> nn.Sequential:
    """The network with layers cut along either dimension."""
    model = network()
    plan = {
        "0": ColwiseParallel(output_layouts=Shard(0), use_local_output=True),
        "2": SequenceParallel(sequence_dim=0, use_local_output=True),
        "3": RowwiseParallel(input_layouts=Shard(0)),
    }
    parallelize_module(model, world.mesh, plan)
    cuts = [p.placements for p in model.parameters()]
    assert {(Shard(0),), (Shard(1),), (Replicate(),)} <= set(cuts)
    return model


def tensor_parallel(name: str, world: World) -> None:
    """Of some parameters each process has a part of a sum as its gradient."""
    model = by_layer(world)
    optimizer = OURS[name](model.parameters())
    train(model, optimizer)
    assert any(q.is_partial() for p in model.parameters() for q in p.grad.placements)
    assert_fused(optimizer)
    assert_equal(model, _alone(TORCHS[name]))


def two_dimensions(name: str, world: World) -> None:
    """Layers cut over one half of the processes, and each part over the other."""
    mesh = init_device_mesh("cpu", (2, world.size // 2), mesh_dim_names=("data", "layer"))
    model = network()
    parallelize_module(model[0], mesh["layer"], ColwiseParallel(output_layouts=Replicate()))
    fully_shard(model, mesh=mesh["data"])
    maker, alone = (noisy, noisy) if name == "noise" else (OURS[name], TORCHS[name])
    optimizer = maker(model.parameters())
    half = mesh["data"].get_local_rank()
    train(model, optimizer, lambda examples: examples.chunk(2)[half])
    if maker is not noisy:
        assert_fused(optimizer)
    assert_equal(model, _alone(alone))


def _table() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(12, 1)).double()


def ddp_of_rows(name: str, settings: Mapping[str, float], world: World) -> None:
    """The gradient of a table has the rows that any process has looked up."""
    model, one = _table(), _table()
    parallel = DistributedDataParallel(model)
    optimizer = getattr(tw, name)(model.parameters(), lr=0.1, **settings)
    alone = getattr(torch.optim, name)(one.parameters(), lr=0.1, **settings)
    for t in range(STEPS):
        words = torch.randint(20, (8, 3), generator=torch.Generator().manual_seed(t))
        for net, trainer, own in ((parallel, optimizer, world.own(words)), (one, alone, words)):
            net.zero_grad()
            net(own).square().mean().backward()
            trainer.step()
    assert model[0].weight.grad.is_sparse
    assert_fused(optimizer)
    for p, q, start in zip(
        model.parameters(), one.parameters(), _table().parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=0, atol=TOLERANCE)
        assert not torch.equal(q, start)


def zero_redundancy(world: World) -> None:
    """Each process keeps the states of a part of the parameters."""
    # It warns of torch's own when it is loaded.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = network()
    parallel = DistributedDataParallel(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=tw.AdamW, lr=0.01, weight_decay=0.1
        )
    train(parallel, optimizer, world.own)
    assert_fused(optimizer.optim)
    assert_equal(model, _alone(TORCHS["AdamW"]))


_OF_EACH: Mapping[str, Callable[[str, World], None]] = {
    "ddp": ddp,
    "fsdp": fsdp,
    "tensor parallel": tensor_parallel,
}
CHECKS: Mapping[str, Check] = {
    **{f"{way}, {name}": partial(check, name) for way, check in _OF_EACH.items() for name in OURS},
    "fsdp has shards of nothing": fsdp_has_shards_of_nothing,
    "fsdp, clipped": fsdp_clipped,
    "fsdp, bfloat16": fsdp_of_fewer_digits,
    "fsdp, noise": fsdp_with_noise,
    "fsdp, not cut again": partial(fsdp_otherwise, {"reshard_after_forward": False}),
    "fsdp, offloaded": partial(
        fsdp_otherwise, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}
    ),
    "fsdp, accumulated": fsdp_accumulated,
    "fsdp of a part": fsdp_partly,
    "fsdp, compiled": fsdp_compiled,
    "fsdp, clipped inside": partial(clipped_inside, sharded),
    "tensor parallel, clipped inside": partial(clipped_inside, by_layer),
    "ddp, rows, SGD": partial(ddp_of_rows, "SGD", {}),
    "ddp, rows, Momentum": partial(ddp_of_rows, "SGD", {"momentum": 0.9}),
    "ddp, rows, Adagrad": partial(ddp_of_rows, "Adagrad", {}),
    "zero redundancy": zero_redundancy,
}
IN_FOUR: Mapping[str, Check] = {
    f"two dimensions, {name}": partial(two_dimensions, name) for name in ("AdamW", "noise")
}
