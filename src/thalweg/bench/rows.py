"""How long a step takes if its gradient has few of a table's rows, and if it has all."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, product
from math import inf
from statistics import geometric_mean
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.bench import memory
from thalweg.bench.contestants import LR, OURS
from thalweg.bench.machine import cores, others_seconds
from thalweg.bench.measurement import Spread, interleaved, paired, verdict
from thalweg.errors import UsageError, unknown
from thalweg.optim import CLASSES

__all__ = ["DENSE", "OPTIMIZERS", "TORCH", "WAYS", "RowsCell", "RowsPlan", "growth", "measured"]

OPTIMIZERS: Mapping[str, tuple[str, str]] = {
    "sgd": ("SGD", "SGD"),
    "adagrad": ("Adagrad", "Adagrad"),
    "adam": ("SparseAdam", "Adam"),
}
"""Torch's class and ours, by name."""
TORCH = "torch"
DENSE = "thalweg dense"
WAYS = (TORCH, OURS, DENSE)
_GRADIENTS = 8
"""How many gradients take turns: the rows of the last step are in a cache, those of a next not."""

Key: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True)
class RowsPlan:
    """What is to be measured, and how long.

    Attributes:
        optimizers: of which optimizers, by the names in `OPTIMIZERS`.
        tables: how many rows the parameter has.
        touched: how many of them a gradient has.
        width: how many elements of float32 a row has.
        entries: how many entries a gradient has for each of its rows: a word that is looked up
            twice has two.
        rounds: how many rounds to time in each cell; None: as many as there is time for.
        seconds: how long to time each cell, if `rounds` is None.

    Raises:
        UsageError: there is no optimizer of some name, or a number is out of range.
    """

    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    tables: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    touched: tuple[int, ...] = (100, 1_000, 10_000)
    width: int = 64
    entries: int = 2
    rounds: int | None = None
    seconds: float = 2.0

    def __post_init__(self) -> None:
        for name in self.optimizers:
            if name not in OPTIMIZERS:
                raise unknown("optimizer with sparse gradients", name, OPTIMIZERS)
        rounds = () if self.rounds is None else (self.rounds,)
        counts = {"tables": self.tables, "touched": self.touched, "width": (self.width,)}
        counts |= {"entries": (self.entries,), "rounds": rounds or (1,)}
        for name, values in counts.items():
            if not values or min(values) < 1:
                shown = ",".join(map(str, values))
                raise UsageError(f"{name} is {shown!r}, but must be whole numbers from 1.")
        if max(self.touched) > min(self.tables):
            raise UsageError(
                f"touched is up to {max(self.touched)}, and the smallest of tables has "
                f"{min(self.tables)} rows: a gradient has no more rows than its table."
            )
        if not 0 <= self.seconds < inf:
            raise UsageError(f"seconds is {self.seconds}, but must be a number from 0.")

    def cells(self) -> list[Key]:
        """Optimizer, rows and touched rows of each cell, in the order of measuring."""
        return list(product(self.optimizers, self.tables, self.touched))


@dataclass(frozen=True)
class RowsCell:
    """What was measured of one optimizer, table and number of touched rows.

    Attributes:
        optimizer: its name.
        rows: how many rows the table has.
        touched: how many of them a gradient has.
        seconds: of a step, by `WAYS`.
        ratio: our time divided by torch's, round by round; None if nothing was timed.
        others: the share of the processors' time that other processes took meanwhile; None where
            that is not known.
        problem: why nothing was timed.
    """

    optimizer: str
    rows: int
    touched: int
    seconds: Mapping[str, Spread] = field(default_factory=dict[str, Spread])
    ratio: Spread | None = None
    others: float | None = None
    problem: str = ""

    @property
    def verdict(self) -> str:
        """How we did beside torch; see `measurement.verdict`."""
        return "" if self.ratio is None else verdict(self.ratio)


def measured(plan: RowsPlan) -> Iterator[RowsCell]:
    """Measure cell after cell."""
    for key in plan.cells():
        # torch's own classes leave it open whether sparse tensors are looked at, and are told so.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            cell = _measured(plan, RowsCell(*key))
        yield cell
        gc.collect()


def _measured(plan: RowsPlan, cell: RowsCell) -> RowsCell:
    shape = (cell.rows, plan.width)
    # At most a parameter, two states and a gradient of full size for each, and what is made of it.
    wanted = 4 * cell.rows * plan.width * 4 * len(WAYS)
    free = memory.available()
    if free is not None and wanted > free:
        why = f"it needs about {wanted / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free"
        return replace(cell, problem=why)
    torch.manual_seed(0)  # pyright: ignore
    theta = torch.randn(shape)
    grads = [_gradient(shape, cell.touched, plan.entries) for _ in range(_GRADIENTS)]
    theirs, ours = OPTIMIZERS[cell.optimizer]
    sparse = {
        TORCH: _step(getattr(torch.optim, theirs), theta, [g.clone() for g in grads]),
        OURS: _step(CLASSES[ours], theta, [g.clone() for g in grads]),
    }
    before, started = others_seconds(), perf_counter()
    times = interleaved(sparse, rounds=plan.rounds, seconds=plan.seconds)
    # By itself: it fills the caches with rows that the others would never have touched.
    dense = {DENSE: _step(CLASSES[ours], theta, [grads[0].to_dense()])}
    times |= interleaved(dense, rounds=plan.rounds, seconds=plan.seconds / 4)
    after, wall = others_seconds(), perf_counter() - started
    return replace(
        cell,
        seconds={way: Spread.of(of) for way, of in times.items()},
        ratio=paired(times[OURS], times[TORCH]),
        others=None if before is None or after is None else (after - before) / wall / cores(),
    )


def _gradient(shape: tuple[int, int], touched: int, entries: int) -> Tensor:
    """As an embedding has it: in no order, and not added up."""
    rows = torch.randperm(shape[0])[:touched].repeat(entries)
    indices = rows[torch.randperm(len(rows))][None]
    return torch.sparse_coo_tensor(  # pyright: ignore
        indices, torch.randn(len(rows), shape[1]), shape
    )


def _step(kind: Any, theta: Tensor, grads: Sequence[Tensor]) -> Callable[[], None]:
    p = nn.Parameter(theta.clone())
    optimizer = kind([p], lr=LR)
    following = cycle(grads)

    def step() -> None:
        p.grad = next(following)
        optimizer.step()

    return step


def growth(cells: Sequence[RowsCell]) -> dict[str, dict[str, tuple[float, dict[str, float]]]]:
    """How the time of a step follows the sizes, for each optimizer.

    Returns:
        For each optimizer, by "rows" and "touched": how many times the smallest the largest is, and
        for each way by how much the time grows from the one to the other, as the geometric mean
        over what the other size is. What was measured at one size only is left out.
    """
    found: dict[str, dict[str, tuple[float, dict[str, float]]]] = {}
    for optimizer in dict.fromkeys(c.optimizer for c in cells):
        some = [c for c in cells if c.optimizer == optimizer and c.seconds]
        for size, other in (("rows", "touched"), ("touched", "rows")):
            sizes = [getattr(c, size) for c in some]
            low, high = min(sizes, default=0), max(sizes, default=0)
            at = {(getattr(c, size), getattr(c, other)): c.seconds for c in some}
            pairs = [(at[low, o], s) for (n, o), s in at.items() if n == high and (low, o) in at]
            if low < high and pairs:
                times = {
                    w: geometric_mean(b[w].median / a[w].median for a, b in pairs) for w in WAYS
                }
                found.setdefault(optimizer, {})[size] = (high / low, times)
    return found
