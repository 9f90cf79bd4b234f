"""Constant rate, 1cycle, and 1cycle with momentum against it: equal epochs on CIFAR-10.

    python benchmarks/super_convergence.py              tune, then three seeds each: hours of a core
    python benchmarks/super_convergence.py --figure     the figure and table of what is stored
    python benchmarks/super_convergence.py --quick      see that it works

Smith & Topin 2017, arXiv:1708.07120. THALWEG_DATA names the folder of the data. What is done is
stored in docs/measured and not done again.
"""

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from narrowed import narrowed
from stored_runs import carry_out, put_into, stored

import thalweg as tw
from thalweg.tasks import Data, load
from thalweg.training import DivergenceError, Phase, train

DOCS = Path(__file__).parent.parent / "docs"
MEASURED = DOCS / "measured" / "super-convergence.jsonl"
# The rates that each variant is tuned over: as many for each, a factor of about 3 apart.
RATES = {
    "constant": (0.01, 0.03, 0.1, 0.3),
    "1cycle": (0.03, 0.1, 0.3, 1.0),
    "1cycle+momentum": (0.03, 0.1, 0.3, 1.0),
}
NAMES = {
    "constant": "constant rate",
    "1cycle": "1cycle, momentum 0.9",
    "1cycle+momentum": "1cycle, momentum 0.95 to 0.85",
}
TUNED_WITH, SEEDS, EPOCHS = 100, (0, 1, 2), 10
NARROWED = 4


@cache
def data() -> Data:
    return load("cifar10").data()


def run(variant: str, lr: float, seed: int, divisor: int, epochs: float) -> dict[str, Any]:
    """Train once: the validation accuracy after each epoch, and the test accuracy at the end."""
    task = load("cifar10")
    task = replace(task, model=lambda: narrowed(load("cifar10").model(), divisor))
    settings: dict[str, Any] = {"lr": lr if variant == "constant" else tw.one_cycle(lr)}
    if variant == "1cycle+momentum":
        settings["momentum"] = tw.one_cycle_momentum(0.95, 0.85)
    found: dict[str, Any] = {"curve": [], "train_loss": [], "test": None}
    try:
        for record in train(
            task,
            lambda p: tw.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
            [Phase(epochs, **settings)],
            seed=seed,
            data=data(),
            test=True,
        ):
            found["curve"].append(round(record.metric, 4))
            found["train_loss"].append(round(record.train_loss, 4))
            found["test"] = record.test
    except DivergenceError:
        found["test"] = None
    return found


def tuning(epochs: float) -> list[dict[str, Any]]:
    """The plan of the tuning runs."""
    return [
        {"variant": v, "lr": lr, "seed": TUNED_WITH, "divisor": NARROWED, "epochs": epochs}
        for v, rates in RATES.items()
        for lr in rates
    ]


def best_rates(results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The rate of each variant whose validation accuracy was the highest after tuning."""
    finished = [r for r in results if r["test"] is not None and r["run"]["divisor"] == NARROWED]
    found: dict[str, float] = {}
    for variant in RATES:
        own = [r for r in finished if r["run"]["variant"] == variant]
        found[variant] = max(own, key=lambda r: r["curve"][-1])["run"]["lr"]
    return found


def final(rates: Mapping[str, float], epochs: float, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """The plan of the runs that are reported."""
    return [
        {"variant": v, "lr": lr, "seed": seed, "divisor": 1, "epochs": epochs}
        for seed in seeds
        for v, lr in rates.items()
    ]


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Learning curves, mean and range over the seeds, and the test accuracies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.8), width_ratios=(2, 1), layout="constrained"
    )
    groups = grouped(results)
    for i, (variant, runs) in enumerate(groups.items()):
        curves = [[100 * y for y in run["curve"]] for run in runs]
        epochs = range(1, len(curves[0]) + 1)
        columns = list(zip(*curves, strict=True))
        label = f"{NAMES[variant]}, lr {runs[0]['run']['lr']:g}"
        (line,) = left.plot(epochs, [fmean(c) for c in columns], label=label)
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        left.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        tests = [100 * run["test"] for run in runs]
        mean, half = interval(tests)
        right.errorbar(i, mean, half, fmt="_", color=line.get_color(), capsize=6, markersize=16)
        right.plot([i] * len(tests), tests, "o", color=line.get_color(), alpha=0.6, markersize=4)
    left.set(xlabel="epoch", ylabel="validation accuracy, %", title="mean and range of the seeds")
    left.legend(loc="lower right", frameon=False)
    names = [NAMES[variant].replace(", momentum ", ",\nmomentum\n") for variant in groups]
    right.set(ylabel="test accuracy, %", title="seeds, mean, 95% interval")
    right.set_xticks(range(len(groups)), names, fontsize=8)
    right.margins(x=0.2)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def grouped(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The finished runs of each variant."""
    return {
        variant: [r for r in results if r["run"]["variant"] == variant and r["test"] is not None]
        for variant in RATES
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95% interval by Student's t."""
    from scipy.stats import t

    count = len(values)
    return fmean(values), float(t.ppf(0.975, count - 1)) * stdev(values) / count**0.5


def table(results: list[dict[str, Any]]) -> str:
    """The test accuracies, and the paired differences between variants, as Markdown."""
    groups = grouped(results)
    lines = ["| | lr | test accuracy of each seed, % | mean, 95% interval |", "| - | - | - | - |"]
    for variant, runs in groups.items():
        tests = [100 * r["test"] for r in sorted(runs, key=lambda r: r["run"]["seed"])]
        mean, half = interval(tests)
        each = ", ".join(f"{y:.2f}" for y in tests)
        name, lr = NAMES[variant], runs[0]["run"]["lr"]
        lines.append(f"| {name} | {lr:g} | {each} | {mean:.2f} ± {half:.2f} |")
    lines += ["", "| difference of the same seeds | points, 95% interval |", "| - | - |"]
    for one, other in pairwise(groups):
        tests = [{r["run"]["seed"]: 100 * r["test"] for r in groups[v]} for v in (one, other)]
        mean, half = interval([tests[1][s] - tests[0][s] for s in tests[0] if s in tests[1]])
        lines.append(f"| {NAMES[other]}, less {NAMES[one]} | {mean:+.2f} ± {half:.2f} |")
    return "\n".join(lines)


def tuned(results: list[dict[str, Any]]) -> str:
    """What tuning found, as Markdown."""
    lines = ["| | lr: validation accuracy, % |", "| - | - |"]
    for variant, rates in RATES.items():
        cells: list[str] = []
        for lr in rates:
            (run,) = [r for r in results if r["run"]["variant"] == variant and r["run"]["lr"] == lr]
            cells.append(f"{lr:g}: {100 * run['curve'][-1]:.1f}" if run["test"] else f"{lr:g}: no")
        lines.append(f"| {NAMES[variant]} | {', '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not stored yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="at once, with one thread each")
    parser.add_argument("--figure", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="a 20th of an epoch, stored nowhere")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quick.jsonl" if given.quick else MEASURED
        figure = Path(folder) / "quick.png" if given.quick else DOCS / "super-convergence.png"
        epochs, seeds = (0.05, SEEDS[:2]) if given.quick else (EPOCHS, SEEDS)
        if given.figure:
            first = [r for r in stored(path) if r["run"] in tuning(epochs)]
            plan = final(best_rates(first), epochs, seeds)
            results = [r for r in stored(path) if r["run"] in plan]
        else:
            first = carry_out(tuning(epochs), run, path, given.processes)
            plan = final(best_rates(first), epochs, seeds)
            results = carry_out(plan, run, path, given.processes)
        print(f"{tuned(first)}\n\n{table(results)}")
        draw(results, figure)
        if not given.quick:
            put_into(DOCS / "super-convergence.md", "tuned", tuned(first))
            put_into(DOCS / "super-convergence.md", "measured", table(results))


if __name__ == "__main__":
    main()
