"""Where a search looks: a range or some choices for each setting, and points spread over them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, TypeAlias

from thalweg.errors import UsageError
from thalweg.rules.declaration import Hyper, Setting

__all__ = ["Choice", "Range", "Space", "dimension_from_data", "drawn", "searched"]

# A best value so near to an end of its range may lie beyond it.
_EDGE = 0.05


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`.

    Attributes:
        scale: on which points are spread evenly: that of the logarithm of the value ("log"), or of
            its distance from 1 ("below 1"), or of the value itself ("linear").
        integer: whether only whole numbers are meant.
    """

    low: float
    high: float
    scale: Literal["log", "below 1", "linear"]
    integer: bool = False

    def at(self, share: float) -> float:
        """The value which that share of the range lies below; `share` is from 0 to 1."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        there = low + share * (high - low)
        if self.scale == "log":
            there = math.exp(there)
        elif self.scale == "below 1":
            there = 1 - math.exp(-there)
        there = min(max(there, self.low), self.high)
        return float(round(there)) if self.integer else there

    def share(self, value: float) -> float:
        """Which share of the range lies below a value: from 0 to 1."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def is_edge(self, value: float) -> bool:
        """Whether a value is so near to an end that a better one may lie beyond it."""
        return not _EDGE <= self.share(value) <= 1 - _EDGE

    def _scaled(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value)
        return value if self.scale == "linear" else -math.log(1 - value)

    def data(self) -> dict[str, Any]:
        """The range as JSON holds it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Choice:
    """Some values to choose from; the first is the default."""

    options: tuple[Setting, ...]

    def at(self, share: float) -> Setting:
        """The value at that share, from 0 to 1, of the way through the options."""
        return self.options[min(int(share * len(self.options)), len(self.options) - 1)]

    def data(self) -> dict[str, Any]:
        """The choice as JSON holds it."""
        return {"options": list(self.options)}


Space: TypeAlias = Mapping[str, Range | Choice]


def dimension_from_data(data: Mapping[str, Any]) -> Range | Choice:
    """What `Range.data` or `Choice.data` returned, as it was."""
    if "options" in data:
        return Choice(tuple(tuple(v) if isinstance(v, list) else v for v in data["options"]))  # pyright: ignore
    return Range(**data)


def searched(name: str, hyper: Hyper, low: float, high: float) -> Range:
    """The range of a hyperparameter between two values of it, on the scale that suits it.

    Raises:
        UsageError: a value is not valid, or `low` is not below `high`.
    """
    for value in (low, high):
        hyper.checked(name, value)
    if not low < high:
        raise UsageError(
            f"{name} is searched from {low:g} to {high:g}, but the low end must be below the high "
            f"one: write {name}={high:g}..{low:g}."
            if low > high
            else f"{name} is searched from {low:g} to {high:g}, which is a single value: write "
            f"{name}={low:g}."
        )
    if hyper.interval.endswith(", 1)") and high < 1:
        return Range(low, high, "below 1", hyper.integer)
    return Range(low, high, "log" if low > 0 else "linear", hyper.integer)


def drawn(space: Space, count: int, key: str) -> list[dict[str, Setting]]:
    """Points of a scrambled Sobol sequence over a space; more of them begin with the same ones.

    Sobol 1967, doi:10.1016/0041-5553(67)90144-9; Owen 1998, doi:10.1006/jcom.1998.0487.

    Args:
        space: what is searched.
        count: how many points.
        key: whatever tells this sequence from others.
    """
    if count < 1 or not space:
        return []
    from scipy.stats import qmc  # pyright: ignore

    seed = int.from_bytes(sha256(key.encode()).digest()[:4], "big")
    # The argument has another name before scipy 1.15; as a position it has none.
    sequence: Any = qmc.Sobol(len(space), seed=seed)  # pyright: ignore
    points: Any = sequence.random_base2(max(0, (count - 1).bit_length()))
    return [
        {name: space[name].at(float(share)) for name, share in zip(space, point, strict=True)}
        for point in points[:count]
    ]
