"""Timing calls in turn."""

import gc
import time
from collections.abc import Callable

import pytest

from thalweg.bench import measurement
from thalweg.bench.measurement import LEAST, WARM_UP, Spread, interleaved, paired


def logging(names: str, log: list[str]) -> dict[str, Callable[[], object]]:
    return {name: lambda name=name: log.append(name) for name in names}


def test_every_call_is_made_once_a_round_in_changing_orders():
    log: list[str] = []
    times = interleaved(logging("abc", log), rounds=20, seconds=0)
    assert {name: len(found) for name, found in times.items()} == {"a": 20, "b": 20, "c": 20}
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert len(rounds) == WARM_UP + 20
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 3
    again: list[str] = []
    interleaved(logging("abc", again), rounds=20, seconds=0)
    assert again == log


def test_seconds_decide_where_rounds_are_not_given(monkeypatch: pytest.MonkeyPatch):
    assert len(interleaved({"a": int}, rounds=None, seconds=0)["a"]) == LEAST
    slow = interleaved({"a": lambda: time.sleep(0.004)}, rounds=None, seconds=0.3)
    assert LEAST < len(slow["a"]) <= 75
    monkeypatch.setattr(measurement, "MOST", 40)
    assert len(interleaved({"a": int}, rounds=None, seconds=60)["a"]) == 40


def test_what_is_timed_is_the_call_and_not_what_comes_after_it():
    log: list[str] = []

    def restored() -> None:
        log.append("after")
        time.sleep(0.005)

    calls = {"a": lambda: time.sleep(0.002), **logging("b", log)}
    times = interleaved(calls, rounds=3, seconds=0, after={"b": restored})
    assert min(times["a"]) >= 0.002
    assert min(times["b"]) < 0.005
    assert log == ["b", "after"] * (WARM_UP + 3)


def test_no_garbage_is_collected_meanwhile_and_it_is_again_afterwards():
    seen: list[bool] = []
    interleaved({"a": lambda: seen.append(gc.isenabled())}, rounds=2, seconds=0)
    assert seen[WARM_UP:] == [False, False]
    assert gc.isenabled()

    def fails() -> None:
        if not gc.isenabled():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleaved({"a": fails}, rounds=2, seconds=0)
    assert gc.isenabled()


def test_spread():
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(2, 3, 4)
    assert Spread.of([7.0]) == Spread(7, 7, 7)
    assert Spread(0.9, 1.1, 1.2).holds(1)
    assert not Spread(1.01, 1.1, 1.2).holds(1)
    assert not Spread(0.8, 0.9, 0.99).holds(1)


def test_ratios_are_of_the_same_round():
    # The machine is twice as slow in every other round, which falls on both.
    assert paired([1, 2, 1, 2], [2, 4, 2, 4]) == Spread(0.5, 0.5, 0.5)
