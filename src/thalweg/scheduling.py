"""Schedules of an optimizer's settings: where a setting stands in a group, and what it is now."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, TypeAlias, cast

from thalweg.errors import unknown

__all__ = ["Place", "follow", "opened", "place", "put", "released", "split"]

Place: TypeAlias = tuple[str, int | None]
"""The key of a setting in a group, and its index there where the key holds several."""

# What one optimizer calls by a name of its own, another keeps under a common one.
_ELSEWHERE: Mapping[str, tuple[Place, ...]] = {
    "momentum": (("beta1", None), ("betas", 0), ("beta", None), ("gamma", None)),
    "gamma": (("momentum", None),),
    "rho": (("alpha", None),),
    "beta1": (("betas", 0),),
    "beta2": (("betas", 1),),
    "eta_minus": (("etas", 0),),
    "eta_plus": (("etas", 1),),
    "delta_min": (("step_sizes", 0),),
    "delta_max": (("step_sizes", 1),),
}
_PARTS = ("rho", "beta1", "beta2", "eta_minus", "eta_plus", "delta_min", "delta_max")

_LONG = 1_000_000


def place(group: Mapping[str, Any], name: str) -> Place:
    """Where a group keeps the setting of this name.

    Settings are found under their paper's names, under torch's, and the momentum of every optimizer
    that has one under `"momentum"`.

    Raises:
        UsageError: the group has no such setting.
    """
    for key, index in ((name, None), *_ELSEWHERE.get(name, ())):
        value = group.get(key)
        # AggMo has betas too, but not these two.
        several = isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) == 2
        if several if index is not None else _is_number(value):
            return key, index
    others = [key for key in group if key != "steps" and _is_number(group[key])]
    pairs = [n for n, places in _ELSEWHERE.items() if any(key in group for key, _ in places)]
    raise unknown("setting of the optimizer", name, (*others, *pairs))


def _is_number(value: Any) -> bool:
    return type(value) is not bool and (
        isinstance(value, Real) or getattr(value, "ndim", None) == 0
    )


def put(group: dict[str, Any], at: Place, value: float) -> None:
    """Set what stands at a place of a group; a tensor there is changed in place."""
    key, index = at
    if index is not None:
        old = group[key]
        group[key] = (*old[:index], value, *old[index + 1 :])
    elif hasattr(group[key], "fill_"):
        group[key].fill_(value)
    else:
        group[key] = value


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with numbers for schedules, those of the first step; and the schedules."""
    schedules = {name: value for name, value in settings.items() if callable(value)}
    return {**settings, **{name: _first(s) for name, s in schedules.items()}}, schedules


def _first(schedule: Any) -> float:
    """What a schedule begins with. One whose length is still open will know it when it is used."""
    return schedule.over(_LONG)(0) if getattr(schedule, "open", False) else schedule(0)


def opened(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A group in which numbers stand for schedules, those of its first step.

    The schedules are kept under `"schedules"`, by name, and how many steps have been taken under
    `"steps"`. A group without any, its own or by default, has neither.
    """
    own = {n: v for n, v in group.items() if callable(v) and n != "params"}
    parts = {n: v for n, v in group.items() if n in _PARTS and n not in {*defaults, *own}}
    made = {n: v for n, v in group.items() if n not in {*own, *parts}}
    held = {**defaults, **made}
    for name, value in {**parts, **{n: _first(s) for n, s in own.items()}}.items():
        key, index = place(held, name)
        made.setdefault(key, held[key])
        put(made, (key, index), value)
    inherited: Mapping[str, Any] = defaults.get("schedules", {})
    if not own and not inherited:
        return made
    kept = {n: s for n, s in inherited.items() if not {n, place(held, n)[0]} & group.keys()}
    return {**made, "schedules": {**kept, **own}, "steps": 0}


def follow(group: dict[str, Any]) -> None:
    """Set a group's settings to what its schedules say of the step that comes."""
    step = group["steps"]
    for name, schedule in group["schedules"].items():
        put(group, place(group, name), schedule(step))


def released(optimizer: Any) -> list[dict[str, Callable[[int], float]]]:
    """The schedules of each group of an optimizer, which does not follow them from now on."""
    for held in (*optimizer.param_groups, optimizer.defaults):
        held.pop("steps", None)
    optimizer.defaults.pop("schedules", None)
    return [group.pop("schedules", {}) for group in optimizer.param_groups]
