"""One cell of the table: everyone's step of one optimizer on one set of shapes."""

import gc
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Literal

import torch
from torch import nn

from thalweg.bench import memory, rate
from thalweg.bench.contestants import (
    OURS,
    TORCHS,
    Contestant,
    contestants,
    forget_compiled,
    needs,
    outside_kernels,
)
from thalweg.bench.machine import cores, others_seconds
from thalweg.bench.measurement import LEAST, Spread, interleaved, paired, verdict
from thalweg.bench.rate import fastest_triad
from thalweg.bench.shapes import SETS
from thalweg.bench.traffic import Streams
from thalweg.errors import UsageError, unknown
from thalweg.rules import OPTIMIZERS

__all__ = ["DTYPES", "TRIAD", "Cell", "Plan", "measured"]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
TRIAD = "triad"
"""The same traffic with next to no arithmetic."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how long.

    Attributes:
        optimizers: names of rules.
        shapes: names of sets of shapes.
        dtype: the name of the type of parameters and gradients, one of `DTYPES`.
        rounds: how many rounds to time in each cell; None: as many as there is time for.
        seconds: how long to time each cell, if `rounds` is None.
        compiled: whether torch's optimizers are also compiled by torch.

    Raises:
        UsageError: there is nothing of some name, or a number is out of range.
    """

    optimizers: tuple[str, ...]
    shapes: tuple[str, ...]
    dtype: str = "float32"
    rounds: int | None = None
    seconds: float = 5.0
    compiled: bool = False

    def __post_init__(self) -> None:
        for what, names, known in (
            ("optimizer", self.optimizers, OPTIMIZERS),
            ("set of shapes", self.shapes, SETS),
            ("dtype", (self.dtype,), DTYPES),
        ):
            for name in names:
                if name not in known:
                    raise unknown(what, name, known)
        if self.rounds is not None and self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}, but must be at least 1.")
        if not 0 <= self.seconds < math.inf:
            raise UsageError(f"seconds is {self.seconds}, but must be a number from 0.")

    def cells(self) -> list[tuple[str, str]]:
        """The name of the shapes and of the optimizer of each cell, in the order of measuring."""
        return [(shapes, optimizer) for shapes in self.shapes for optimizer in self.optimizers]


@dataclass(frozen=True)
class Cell:
    """What was measured of one optimizer on one set of shapes.

    Attributes:
        optimizer: its name.
        shapes: the set's name.
        elements: how many numbers the parameters have together.
        itemsize: the bytes of each of them.
        streams: what our step reads and writes.
        rounds: how many rounds were timed.
        seconds: of a step of each contestant and of the `TRIAD`; all were interleaved.
        first: seconds until each contestant had taken its first step, with all that is compiled
            and allocated for it.
        references: seconds of torch's own operations that move memory, right before the rest.
        growth: MiB of memory that a step of each contestant needs besides what it keeps; None
            where that could not be measured.
        overhead: seconds of our step that are spent before and after its kernels, in Python; None
            if no kernel can take it.
        ratio: our time divided by that of the fastest of torch's, round by round; None if there is
            nothing to divide.
        others: the share of the processors' time that other processes took meanwhile; None where
            that is not known.
        problems: why a contestant, or `""` for all of them, was not timed.
    """

    optimizer: str
    shapes: str
    elements: int
    itemsize: int
    streams: Streams
    rounds: int = 0
    seconds: Mapping[str, Spread] = field(default_factory=dict[str, Spread])
    first: Mapping[str, float] = field(default_factory=dict[str, float])
    references: Mapping[str, Spread] = field(default_factory=dict[str, Spread])
    growth: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    overhead: Spread | None = None
    ratio: Spread | None = None
    others: float | None = None
    problems: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def rival(self) -> str | None:
        """The fastest of torch's implementations."""
        timed = [way for way in TORCHS if way in self.seconds]
        return min(timed, key=lambda way: self.seconds[way].median, default=None)

    @property
    def verdict(self) -> Literal["faster", "tie", "slower", ""]:
        """How we did beside the fastest of torch's; see `measurement.verdict`."""
        return "" if self.ratio is None else verdict(self.ratio)

    @property
    def gigabytes_per_second(self) -> float | None:
        """What our step reads and writes in a second, in units of 1e9 bytes."""
        ours = self.seconds.get(OURS)
        return None if ours is None else self.elements * self.streams.bytes / ours.median / 1e9

    @property
    def share(self) -> float | None:
        """Our rate as a share of the machine's own, which is that of the triad."""
        ours, triad = self.seconds.get(OURS), self.seconds.get(TRIAD)
        return None if ours is None or triad is None else triad.median / ours.median

    def reference_rates(self) -> dict[str, float]:
        """What each of the references reads and writes in a second, in units of 1e9 bytes."""
        size = self.elements * self.itemsize
        return {
            name: rate.REFERENCES[name] * size / seconds.median / 1e9
            for name, seconds in self.references.items()
        }


def measured(plan: Plan) -> Iterator[Cell]:
    """Measure cell after cell."""
    for shapes, optimizer in plan.cells():
        yield _measured(plan, shapes, optimizer)
        if plan.compiled:
            forget_compiled()
        gc.collect()


def _measured(plan: Plan, shapes: str, optimizer: str) -> Cell:
    elements, dtype = SETS[shapes].elements, DTYPES[plan.dtype]
    streams = needs(optimizer, dtype)
    cell = Cell(optimizer, shapes, elements, dtype.itemsize, streams)
    torch.manual_seed(0)  # pyright: ignore
    params = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SETS[shapes].shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    makers = contestants(optimizer, params, compiled=plan.compiled)
    # Everyone, and the triad, has what a step reads; foreach frees what it makes in between.
    wanted = elements * max(4, dtype.itemsize) * ((len(makers) + 1) * streams.reads + 3)
    free = memory.available()
    if free is not None and wanted > free:
        why = f"it needs about {wanted / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free"
        return replace(cell, problems={"": why})
    made: dict[str, Contestant] = {}
    problems: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:
            said = str(error).strip().partition("\n")[0]
            problems[name] = f"{type(error).__name__}: {said}".rstrip(": ")
    moving = rate.calls(streams.writes, elements, dtype)
    rates = _spreads(interleaved(moving, rounds=plan.rounds, seconds=0))
    before, started = others_seconds(), perf_counter()
    times = interleaved(
        {**{name: one.step for name, one in made.items()}, TRIAD: moving[fastest_triad(rates)]},
        rounds=plan.rounds,
        seconds=plan.seconds,
        after={name: one.restore for name, one in made.items() if one.restore is not None},
    )
    after, wall = others_seconds(), perf_counter() - started
    outside = outside_kernels(made[OURS], 3 * LEAST) if OURS in made else []
    growth: dict[str, float | None] = {}
    for name, one in made.items():
        growth[name] = memory.peak_growth(one.step)
        if one.restore is not None:
            one.restore()
        # Only now: an optimizer whose states have been looked at watches them in every step.
        if one.strange():
            problems[name] = "its numbers left the range of normal ones"
            del times[name]
    cell = replace(
        cell,
        rounds=len(times[TRIAD]),
        seconds=_spreads(times),
        first={name: one.first for name, one in made.items()},
        references={name: rates[name] for name in rate.REFERENCES},
        growth=growth,
        overhead=Spread.of(outside) if outside else None,
        others=None if before is None or after is None else (after - before) / wall / cores(),
        problems=problems,
    )
    if cell.rival is None or OURS not in times:
        return cell
    return replace(cell, ratio=paired(times[OURS], times[cell.rival]))


def _spreads(times: Mapping[str, list[float]]) -> dict[str, Spread]:
    return {name: Spread.of(of) for name, of in times.items()}
