"""What differs between the identities of two runs, in words."""

from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["Identity", "differences"]

Identity: TypeAlias = dict[str, dict[str, str]]


def differences(
    old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """What differs between two identities, a line for each part of them that does.

    A line names the first thing that differs: `model: 0.weight was 64x3 float32, is 32x3 float32`.
    For environments, give `{"environment": ...}`.
    """
    lines: list[str] = []
    for part in {**old, **new}:
        was, now = old.get(part, {}), new.get(part, {})
        found = [
            _change(n, was.get(n), now.get(n)) for n in {**was, **now} if was.get(n) != now.get(n)
        ]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            lines.append(f"{part}: {found[0]}{more}")
    return lines


def _change(name: str, was: str | None, now: str | None) -> str:
    if was is None:
        return f"{name} was not there, is {now}"
    return f"{name} was {was}, is {'not there any more' if now is None else now}"
