"""AdamW against Adam with L2 over grids of learning rate and weight decay: two heat maps.

    python benchmarks/decay_maps.py             both tasks: hours of a core
    python benchmarks/decay_maps.py --figure    the figure and table of what is stored
    python benchmarks/decay_maps.py --quick     see that it works

Loshchilov & Hutter 2019, arXiv:1711.05101. THALWEG_DATA names the folder of the data. What is done
is stored in docs/measured and not done again.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from narrowed import narrowed
from stored_runs import carry_out, put_into, stored

import thalweg as tw
from thalweg.tasks import Data, load
from thalweg.training import DivergenceError, Phase, train

DOCS = Path(__file__).parent.parent / "docs"
MODES = {"l2": "Adam + L2", "decoupled": "AdamW"}


@dataclass(frozen=True)
class Grid:
    """What is run of one task."""

    task: str
    rates: tuple[float, ...]
    decays: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: float
    batch_size: int
    divisor: int
    # Percentage points below the best that are told apart; less is of no interest.
    depth: float
    seeds_without_decay: tuple[int, ...] = ()
    folder: Path = DOCS / "measured"

    @property
    def path(self) -> Path:
        """Where its results are stored."""
        return self.folder / f"weight-decay-{self.task}.jsonl"

    def plan(self) -> list[dict[str, Any]]:
        """The settings of every run; without decay both modes are the same, and one is run."""
        names = {"task": self.task, "epochs": self.epochs, "batch_size": self.batch_size}
        return [
            {**names, "divisor": self.divisor, "mode": m, "lr": lr, "decay": wd, "seed": seed}
            for seed in (*self.seeds, *self.seeds_without_decay)
            for wd in (self.decays if seed in self.seeds else [0.0])
            for m in (MODES if wd else ["decoupled"])
            for lr in self.rates
        ]


GRIDS = (
    Grid(
        task="fashion-mnist",
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        decays=(0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0),
        seeds=(0, 1, 2),
        epochs=10,
        batch_size=128,
        divisor=1,
        depth=5.0,
    ),
    Grid(
        task="cifar10",
        rates=(1e-3, 3e-3, 1e-2),
        decays=(0.0, 1e-6, 1e-4, 1e-2, 0.1, 0.3),
        seeds=(0,),
        seeds_without_decay=(1, 2),
        epochs=3,
        batch_size=128,
        divisor=4,
        depth=12.0,
    ),
)


@cache
def data(task: str) -> Data:
    return load(task).data()


def run(
    task: str,
    epochs: float,
    batch_size: int,
    divisor: int,
    mode: str,
    lr: float,
    decay: float,
    seed: int,
) -> dict[str, Any]:
    """Train once, with fast.ai's 1cycle; accuracies are None where training broke down."""
    what = load(task)
    if divisor > 1:
        what = replace(what, model=lambda: narrowed(load(task).model(), divisor))
    phase = Phase(
        epochs,
        decay=mode,
        lr=tw.one_cycle(lr),
        beta1=tw.one_cycle_momentum(0.95, 0.85),
        beta2=0.99,
        weight_decay=decay,
    )
    try:
        *_, last = train(
            what,
            tw.AdamW,
            [phase],
            batch_size=batch_size,
            seed=seed,
            data=data(task),
            test=True,
            evaluate_every=epochs,
        )
    except DivergenceError:
        return {"validation": None, "test": None}
    return {"validation": last.metric, "test": last.test, "train_loss": last.train_loss}


Cells: TypeAlias = dict[tuple[float, float], list[float]]


def cells(grid: Grid, mode: str) -> Cells:
    """By rate and decay the validation accuracies of the seeds, in percent; 0 for a breakdown."""
    plan, found = grid.plan(), Cells()
    for result in stored(grid.path):
        settings = result["run"]
        if settings in plan and (settings["decay"] == 0 or settings["mode"] == mode):
            cell = found.setdefault((settings["lr"], settings["decay"]), [])
            cell.append(100 * (result["validation"] or 0))
    return found


def deviation(both: Sequence[Cells], depth: float) -> tuple[float, int]:
    """The standard deviation between seeds, and its degrees of freedom.

    It is pooled over the cells of several seeds that are not far from the best.
    """
    best = max(fmean(ys) for found in both for ys in found.values())
    fine = [ys for found in both for ys in found.values() if len(ys) > 1 and min(ys) > best - depth]
    squares = sum((y - fmean(ys)) ** 2 for ys in fine for y in ys)
    freedom = sum(len(ys) - 1 for ys in fine)
    return math.sqrt(squares / freedom), freedom


def alike(
    found: Cells, std: float, freedom: int
) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """The best cell, and those that differ from it by no more than seeds do, 95% of the time."""
    from scipy.stats import t

    best = max(found, key=lambda cell: fmean(found[cell]))
    margin = float(t.ppf(0.975, freedom)) * std
    return best, [
        cell
        for cell, ys in found.items()
        if fmean(found[best]) - fmean(ys) <= margin * math.hypot(*_roots(found[best], ys))
    ]


def _roots(*cells: list[float]) -> list[float]:
    return [1 / math.sqrt(len(ys)) for ys in cells]


def draw(grids: Sequence[Grid], path: Path) -> None:
    """A row of two heat maps for each grid: the best cell has a star, those alike a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (10, 3.9 * len(grids))
    figure, axes = plt.subplots(len(grids), 2, figsize=size, squeeze=False, layout="constrained")
    for grid, row in zip(grids, axes, strict=True):
        both = [cells(grid, mode) for mode in MODES]
        std, freedom = deviation(both, grid.depth)
        top = max(fmean(ys) for found in both for ys in found.values())
        for ax, name, found in zip(row, MODES.values(), both, strict=True):
            best, others = alike(found, std, freedom)
            values = [
                [fmean(found.get((lr, wd), [math.nan])) for wd in grid.decays] for lr in grid.rates
            ]
            image = ax.imshow(
                values,
                vmin=top - grid.depth,
                vmax=top,
                origin="lower",
                aspect="auto",
                cmap="viridis",
            )
            for i, lr in enumerate(grid.rates):
                for j, wd in enumerate(grid.decays):
                    y = values[i][j]
                    mark = "★\n" if (lr, wd) == best else "●\n" if (lr, wd) in others else ""
                    colour = "black" if y > top - grid.depth / 2 else "white"
                    ax.text(
                        j, i, f"{mark}{y:.1f}", ha="center", va="center", fontsize=7, color=colour
                    )
            ax.set_xticks(range(len(grid.decays)), [_short(wd) for wd in grid.decays])
            ax.set_yticks(range(len(grid.rates)), [_short(lr) for lr in grid.rates])
            ax.set(title=f"{grid.task}: {name}", xlabel="weight decay", ylabel="highest lr")
        figure.colorbar(image, ax=row, label="validation accuracy, %", extend="min")
    figure.savefig(path, dpi=110)


def _short(value: float) -> str:
    """0.0001 as 1e-4."""
    return f"{value:g}" if value in (0, 1) or value >= 0.1 else f"{value:.0e}".replace("e-0", "e-")


def table(grids: Sequence[Grid]) -> str:
    """The best pairs, how far those alike reach, and test accuracies, as Markdown."""
    lines = [
        "| task | | best pair: lr, decay | validation, % | test, % | pairs alike: lr; decay |",
        "| - | - | - | - | - | - |",
    ]
    for grid in grids:
        both = [cells(grid, mode) for mode in MODES]
        std, freedom = deviation(both, grid.depth)
        for (mode, name), found in zip(MODES.items(), both, strict=True):
            best, others = alike(found, std, freedom)
            tests = [
                100 * r["test"]
                for r in stored(grid.path)
                if (r["run"]["lr"], r["run"]["decay"]) == best
                and r["run"]["mode"] == (mode if best[1] else "decoupled")
                and r["run"] in grid.plan()
            ]
            rates, decays = ([f"{f(c[i] for c in others):g}" for f in (min, max)] for i in (0, 1))
            lines.append(
                f"| {grid.task} | {name} | {best[0]:g}, {best[1]:g} | {fmean(found[best]):.2f} "
                f"| {fmean(tests):.2f} | {' to '.join(rates)}; {' to '.join(decays)} "
                f"({len(others)} of {len(found)}) |"
            )
        lines.append(f"| | | between seeds: ± {std:.2f} | | | |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not stored yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="at once, with one thread each")
    parser.add_argument("--figure", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="four cells of an epoch or less")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figure, grids = DOCS / "weight-decay.png", GRIDS
        if given.quick:
            figure = Path(folder) / "quick.png"
            few = {
                "rates": (1e-3,),
                "decays": (0.0, 1e-2),
                "epochs": 0.05,
                "seeds": (0, 1),
                "seeds_without_decay": (),
            }
            grids = [replace(grid, folder=Path(folder), **few) for grid in GRIDS]
        for grid in grids:
            if not given.figure:
                carry_out(grid.plan(), run, grid.path, given.processes)
        print(table(grids))
        draw(grids, figure)
        if not given.quick:
            put_into(DOCS / "weight-decay.md", "measured", table(grids))


if __name__ == "__main__":
    main()
