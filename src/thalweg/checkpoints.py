"""What an optimizer takes from a `state_dict`: by name where there are names, in saved types."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from thalweg.errors import UsageError, unknown

__all__ = ["restored"]

Group: TypeAlias = dict[str, Any]

_WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
"""What torch.compile and the parallel wrappers put into the names of a model's parameters."""


def restored(
    saved: Mapping[str, Any], groups: Sequence[Group]
) -> tuple[list[Group], dict[Any, Any]]:
    """The groups and the state that `saved` holds, for the parameters of `groups`.

    Parameters are told by name if all groups have names on both sides, else by their order. Every
    state keeps the type it was saved in, and goes to its parameter's device.

    Args:
        saved: what `state_dict` of an optimizer has returned, ours or torch's.
        groups: the optimizer's groups as they are.

    Raises:
        UsageError: a parameter has no counterpart.
    """
    saved_groups: list[Group] = deepcopy(saved["param_groups"])
    if all(group.get("param_names") for group in (*groups, *saved_groups)):
        saved_groups = _by_name(saved_groups, groups)
    if len(groups) != len(saved_groups):
        raise UsageError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)}, and the optimizer has {len(groups)}."
        )
    for i, (group, other) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(other["params"]):
            raise UsageError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {i} has {len(other['params'])} parameters there and "
                f"{len(group['params'])} here."
            )
    places = chain.from_iterable(group["params"] for group in saved_groups)
    params = chain.from_iterable(group["params"] for group in groups)
    owners: dict[Any, Tensor] = dict(zip(places, params, strict=True))
    capturable = {p for group in saved_groups if group.get("capturable") for p in group["params"]}
    state: dict[Any, Any] = {
        owners.get(i, i): _placed(value, owners[i], "", i in capturable) if i in owners else value
        for i, value in saved["state"].items()
    }
    for group, other in zip(groups, saved_groups, strict=True):
        other["params"] = group["params"]
        if "param_names" in group:
            other.setdefault("param_names", group["param_names"])
        if "schedules" in group:
            other["schedules"] = group["schedules"]
            other.setdefault("steps", group["steps"])
        else:
            other.pop("steps", None)
    return saved_groups, state


def _placed(value: Any, p: Tensor, key: str, capturable: bool) -> Any:
    """The value on its parameter's device; the count stays on the host, unless it is captured."""
    if isinstance(value, Tensor):
        if key == "step":
            return value.to(p.device, torch.float32) if capturable else value
        return value.to(p.device)
    if isinstance(value, dict):
        held = cast("dict[str, Any]", value)
        # Old versions of torch saved None for a velocity that was not there yet.
        return {k: _placed(v, p, k, capturable) for k, v in held.items() if v is not None}
    if isinstance(value, list | tuple):
        parts = cast("list[Any]", value)
        return type(parts)(_placed(v, p, key, capturable) for v in parts)
    return value


def _by_name(saved: Sequence[Group], groups: Sequence[Group]) -> list[Group]:
    """The saved groups with their parameters in the order, and under the names, of `groups`."""
    names = [name for group in groups for name in group["param_names"]]
    where: dict[str, tuple[Group, Any]] = {
        name: (group, i)
        for group in saved
        for name, i in zip(group["param_names"], group["params"], strict=True)
    }
    plain = str
    if set(where) != set(names):
        bare = {_unwrapped(name): place for name, place in where.items()}
        if len(bare) == len(where) and len({*map(_unwrapped, names)}) == len(names):
            plain, where = _unwrapped, bare
    wanted = [plain(name) for name in names]
    for name in wanted:
        if name not in where:
            raise UsageError(
                f"the loaded state has nothing under the name of the parameter {name!r}. "
                f"{unknown('saved parameter', name, where)} Rename it there, or delete "
                "'param_names' from its groups to load by order."
            )
    left = sorted(set(where) - set(wanted))
    if left:
        raise UsageError(
            f"the loaded state has {', '.join(left)}, which the optimizer does not have: give it "
            "all parameters that were trained, or delete 'param_names' from the saved groups to "
            "load by order."
        )
    found: list[Group] = []
    for number, group in enumerate(groups):
        sources = [where[plain(name)] for name in group["param_names"]]
        options = [{k: v for k, v in g.items() if k not in _PLACES} for g, _ in sources]
        if any(other != options[0] for other in options):
            raise UsageError(
                f"the parameters of group {number} were saved in groups with different settings: "
                "make the groups as they were when it was saved."
            )
        places = {"params": [i for _, i in sources], "param_names": group["param_names"]}
        found.append({**options[0], **places})
    return found


_PLACES = ("params", "param_names")


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
