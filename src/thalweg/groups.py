"""Parameters in groups: those whose weights decay, and those that are left out of it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from thalweg.errors import UsageError

__all__ = ["decay_groups"]


def decay_groups(
    model: nn.Module, weight_decay: float, *, skip: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """The model's parameters in two groups, of which the second has no weight decay.

    They are for any optimizer, of this package or torch's, that has a `weight_decay`:
    `AdamW(decay_groups(model, 0.1), lr=1e-3)`. Left out of the decay are

    - biases: parameters with the word `bias` in their own name, such as `in_proj_bias`;
    - what normalization layers hold: modules of a class that is, or derives from, one called
      `...Norm` or `...Norm2d`, of torch or your own;
    - other parameters of fewer than two dimensions, such as the scales of layers;
    - what `skip` names.

    nanoGPT and timm go by dimensions, and for common models the groups are the same. Dimensions
    alone would let a `LayerNorm` over several of them decay, and a table of biases; layers alone
    would let scales decay, whose size is no sign of a large function. A vector of weights counts as
    a scale: make it a matrix of one row if it is to decay.

    Args:
        model: whose parameters; frozen ones too, so that they may be thawed later.
        weight_decay: the first group's.
        skip: names of further parameters, or patterns of the shell such as `"*.embedding.weight"`,
            which must match the whole name. One that is shared may be called by any of its names.

    Returns:
        Groups with named parameters, in the model's order, each parameter once. A group that
        would be empty is not there.

    Raises:
        UsageError: `model` is no module, or a pattern of `skip` matches no parameter.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"model is {model!r}, but must be a torch.nn.Module: pass the model itself, whose "
            "layers tell what its parameters are."
        )
    left_out = {
        p
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if "bias" in name.split("_") or p.ndim < 2 or _normalizes(module)
    }
    named = list(model.named_parameters(remove_duplicate=False))
    for pattern in [skip] if isinstance(skip, str) else skip:
        matched = {p for name, p in named if fnmatchcase(name, pattern)}
        if not matched:
            near = get_close_matches(pattern, [name for name, _ in named], n=1, cutoff=0)
            raise UsageError(
                f"skip has {pattern!r}, which matches no parameter of the model. The nearest is "
                f"{near[0]!r}; a pattern must match a whole name, and * stands for any part of it."
                if near
                else f"skip has {pattern!r}, but the model has no parameters."
            )
        left_out |= matched
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for name, p in model.named_parameters():
        groups[p in left_out]["params"].append((name, p))
    return [group for group in groups if group["params"]]


def _normalizes(module: nn.Module) -> bool:
    return any(re.search(r"Norm(\dd)?$", cls.__name__) for cls in type(module).__mro__)
