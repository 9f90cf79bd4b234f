"""A path that is saved by some processes and taken up by fewer, or by an optimizer of torch's."""

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from distributed.training import (
    OURS,
    STEPS,
    TORCHS,
    assert_equal,
    assert_fused,
    network,
    train,
)
from distributed.trajectories import sharded
from distributed.world import Check, World

MIDDLE = 3
"""After how many steps is saved."""
MAKERS = {"ours": OURS, "torch's": TORCHS}
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def saved(directory: Path, *what: object) -> Path:
    """Where it is."""
    return directory / "-".join(map(str, what))


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, options: StateDictOptions | None
) -> None:
    """Save both, as they are now."""
    of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
    checkpoint.save({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=path)


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, options: StateDictOptions | None
) -> None:
    """Load both, into a model and an optimizer that are new."""
    of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
    checkpoint.load({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=path)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=of_model,
        optim_state_dict=of_optimizer,
        options=options,
    )


def finish(whose: str, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, own) -> None:
    """Take the steps that are left, and see that the end is that of one process."""
    train(model, optimizer, own, steps=range(MIDDLE, STEPS))
    if whose == "ours":
        assert_fused(optimizer)
    one = network()
    train(one, TORCHS[name](one.parameters()))
    assert_equal(model, one)


def begins(whose: str, name: str, options: StateDictOptions | None, world: World) -> None:
    """To save changes nothing."""
    model = sharded(world)
    optimizer = MAKERS[whose][name](model.parameters())
    train(model, optimizer, world.own, steps=range(MIDDLE))
    save(saved(world.directory, whose, name, options is not None), model, optimizer, options)
    finish(whose, name, model, optimizer, world.own)


def goes_on(whose: str, by: str, name: str, options: StateDictOptions | None, world: World) -> None:
    """Half as many processes take up what others have saved."""
    model = sharded(world)
    optimizer = MAKERS[by][name](model.parameters())
    load(saved(world.directory, whose, name, options is not None), model, optimizer, options)
    if whose == by == "ours":
        save(saved(world.directory, "again", name, options is not None), model, optimizer, options)
    finish(by, name, model, optimizer, world.own)


def ends(name: str, options: StateDictOptions | None, directory: Path) -> None:
    """One process, which is of no group, takes up what two have saved."""
    model = network()
    optimizer = OURS[name](model.parameters())
    with warnings.catch_warnings():
        # It says that it takes the process for the only one.
        warnings.simplefilter("ignore")
        load(saved(directory, "again", name, options is not None), model, optimizer, options)
    finish("ours", name, model, optimizer, lambda examples: examples)


def bare(world: World) -> None:
    """What `state_dict` returns can be saved as it is; it is loaded into what is there."""
    path = saved(world.directory, "bare", world.size)
    model = sharded(world)
    optimizer = OURS["AdamW"](model.parameters())
    train(model, optimizer, world.own, steps=range(MIDDLE))
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint.save(kept, checkpoint_id=path)
    model = sharded(world)
    optimizer = OURS["AdamW"](model.parameters())
    train(model, optimizer, world.own, steps=range(1))
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint.load(states, checkpoint_id=path)
    optimizer.load_state_dict(states["optimizer"])
    model.load_state_dict(states["model"])
    finish("ours", "AdamW", model, optimizer, world.own)


FORMS: Mapping[str, tuple[StateDictOptions | None, Iterable[str]]] = {
    "": (None, OURS),
    # What differs is the names that torch gives to states, of which these have the most.
    ", flat": (FLAT, ["Adam", "NAdam"]),
}
IN_FOUR: Mapping[str, Check] = {
    f"{whose} {name} saved{form}": partial(begins, whose, name, options)
    for form, (options, names) in FORMS.items()
    for whose in MAKERS
    for name in names
}
IN_TWO: Mapping[str, Check] = {
    f"{whose} {name} taken up by {by}{form}": partial(goes_on, whose, by, name, options)
    for form, (options, names) in FORMS.items()
    for whose, by in (("ours", "ours"), ("ours", "torch's"), ("torch's", "ours"))
    for name in names
} | {"bare": bare}
