"""Time several calls in one run, so that what else the machine does falls on all of them alike."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from types import MappingProxyType
from typing import Literal

import numpy as np

__all__ = ["LEAST", "Spread", "interleaved", "paired", "verdict"]

WARM_UP = 3
LEAST = 15
"""Rounds that are timed however long they take: fewer have no quartiles to speak of."""
MOST = 2000


@dataclass(frozen=True)
class Spread:
    """The quartiles of a sample."""

    lower: float
    median: float
    upper: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """The quartiles of one value or more."""
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
        return Spread(float(lower), float(median), float(upper))

    def holds(self, value: float) -> bool:
        """Whether the value is among the middle half."""
        return self.lower <= value <= self.upper


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int | None,
    seconds: float,
    after: Mapping[str, Callable[[], object]] = MappingProxyType({}),
) -> dict[str, list[float]]:
    """The seconds that each call took in each round.

    In a round every call is made once, in an order that is shuffled anew; the same orders come
    again in another run. The first rounds warm up and are not timed.

    Args:
        calls: what to time, by name.
        rounds: how many to time; None: until the seconds are over, within `LEAST` and `MOST`.
        seconds: see `rounds`.
        after: what is done after some of the calls, and not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = Random(0).shuffle  # noqa: S311 - nothing here is a secret
    for _ in range(WARM_UP):
        for name in order:
            calls[name]()
            after.get(name, _nothing)()
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    started = perf_counter()
    done = 0
    try:
        while done < (rounds or LEAST) or (
            rounds is None and done < MOST and perf_counter() - started < seconds
        ):
            shuffle(order)
            for name in order:
                call = calls[name]
                before = perf_counter()
                call()
                times[name].append(perf_counter() - before)
                after.get(name, _nothing)()
            done += 1
    finally:
        if collecting:
            gc.enable()
    return times


def _nothing() -> None:
    pass


def paired(times: Sequence[float], others: Sequence[float]) -> Spread:
    """The ratios of two calls' times, round by round."""
    return Spread.of([a / b for a, b in zip(times, others, strict=True)])


def verdict(ratio: Spread) -> Literal["faster", "tie", "slower"]:
    """What ratios of our time to another say: a tie unless three quarters of them say the same."""
    if ratio.holds(1):
        return "tie"
    return "faster" if ratio.median < 1 else "slower"
