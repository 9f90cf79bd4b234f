"""Do the statistics keep their promises? Simulated studies whose truth is known.

How often an interval holds the truth, how often any true tie is called a difference, and how
many of the true differences are found, for many shapes of results and of noise.

    python benchmarks/coverage.py                     measure and make the tables: 20 core minutes
    python benchmarks/coverage.py --only paired       one statistic
    python benchmarks/coverage.py --tables            the tables of what is stored

What is measured is stored in docs/measured and not done again; the tables are in
docs/statistics.md.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.stats import qmc, t
from stored_runs import carry_out, put_into, stored

from thalweg.lab.stats import budget, budget_curve, compare, noise, paired, seeds_needed

DOCS = Path(__file__).parent.parent / "docs"
MEASURED = DOCS / "measured" / "coverage.jsonl"
# Fewer than in use, for the time: it adds chance to single studies and none to the average.
budget.RESAMPLES, noise.RESAMPLES = 1000, 400

# Results over a search space, as a function of where in it a trial lies (three coordinates that
# are uniform) and of a normal variable, the seed. Larger is better.
SHAPES: dict[str, Callable] = {
    "ceiling": lambda u, z: 0.9 - 0.5 * bowl(u) + 0.003 * z,
    "quarter diverges": lambda u, z: np.where(u[..., 2] < 0.25, 0.1, 0.9 - 0.5 * bowl(u)),
    "learning rate": lambda u, z: plateau(5 * u[..., 0] - 2) - 0.1 * u[..., 1] ** 2 + 0.003 * z,
    "ceiling, 360 test samples": lambda u, z: np.rint(360 * (0.9 - 0.5 * bowl(u))) / 360,
    "uniform": lambda u, z: u[..., 0],
    "heavy tail of bad ones": lambda u, z: -np.exp(z),
    "normal": lambda u, z: z,
    # Nothing bounds these above, as accuracies and losses are: how far does it hold?
    "Gumbel": lambda u, z: -np.log(-np.log(u[..., 0])),
    "Student's t of 3": lambda u, z: t.ppf(u[..., 0], 3),
}
SOBOL = ("ceiling", "quarter diverges", "learning rate")

NOISES: dict[str, Callable] = {
    "equal": lambda c, s, r: r.standard_normal((c, s)),
    "unlike": lambda c, s, r: r.standard_normal((c, s)) * np.exp(r.normal(0, 0.5, (c, 1))),
    "one 5 times": lambda c, s, r: scaled(r.standard_normal((c, s)), 1, 5),
    "half 3 times": lambda c, s, r: scaled(r.standard_normal((c, s)), c // 2, 3),
    "two a tenth": lambda c, s, r: scaled(r.standard_normal((c, s)), 2, 0.1),
    "heavy tails": lambda c, s, r: r.standard_t(5, (c, s)),
    "skewed": lambda c, s, r: r.standard_gamma(4, (c, s)),
    "two families": lambda c, s, r: (
        0.7 * r.standard_normal((c, s))
        + np.repeat(r.normal(0, 0.7, (2, s)), (c // 2, c - c // 2), 0)
    ),
    "a tenth lost": lambda c, s, r: np.where(
        r.random((c, s)) < 0.1, np.nan, r.standard_normal((c, s))
    ),
}
# The standard deviation of the noise of most contestants, where it is not 1.
SPREADS = {"heavy tails": (5 / 3) ** 0.5, "skewed": 2.0}


def bowl(u):
    return (u[..., 0] - 0.4) ** 2 + 0.3 * (u[..., 1] - 0.6) ** 2


def plateau(decades):
    """Accuracy by learning rate, in decades from the best: flat, falling slowly, then a cliff."""
    curve = 0.9 * np.exp(-np.where(decades < 0, 0.15, 0.05) * decades**2)
    return np.where(decades > 1.2, 0.1, curve)


def scaled(values, rows, factor):
    values[:rows] *= factor
    return values


def plan(studies: int) -> Iterator[dict]:
    """Every setting; those that matter most come first."""
    for name in ("equal", "heavy tails", "skewed"):
        for seeds in (3, 5, 10):
            yield {"statistic": "paired", "studies": studies, "noise": name, "seeds": seeds}
    for c in (2, 6, 20):
        for size in (1, 2):
            yield {
                "statistic": "seeds_needed",
                "studies": studies,
                "contestants": c,
                "difference": size,
            }
    for c, seeds in ((6, 5), (20, 5), (6, 3), (6, 10), (3, 3), (3, 5), (3, 10), (20, 3), (20, 10)):
        for name in NOISES:
            yield {
                "statistic": "compare",
                "studies": studies,
                "noise": name,
                "contestants": c,
                "seeds": seeds,
            }
    for default in (0.5, 0.9, None, 0.25):
        for shape, draws in [(s, "random") for s in SHAPES] + [(s, "Sobol") for s in SOBOL]:
            for n in (16, 8, 32):
                yield {
                    "statistic": "budget_curve",
                    "studies": studies,
                    "shape": shape,
                    "draws": draws,
                    "default": default,
                    "trials": n,
                }


def measured(statistic: str, **setting) -> dict:
    return MEASURES[statistic](**setting)


def held_by_budget_curve(
    studies: int, shape: str, draws: str, default: float | None, trials: int
) -> dict:
    """For each k, and by the percentile bootstrap for the best of all draws."""
    value, best = truth(shape, default, trials)
    floor = -np.inf if value is None else value
    m = trials - (default is not None)
    random = np.random.default_rng(3)
    held, shown, plainly = np.zeros(m), np.zeros(m), 0
    for study in range(studies):
        u = random.random((m, 3))
        if draws == "Sobol":
            u = qmc.Sobol(3, rng=random).random(32)[:m]
        x = SHAPES[shape](u, random.standard_normal(m))
        curve = budget_curve(value, x, seed=study)
        low, high = curve.low[-m:], curve.high[-m:]
        held += (low - 1e-9 <= best[:m]) & (best[:m] <= high + 1e-9)
        shown += ~np.isnan(low)
        again = random.choice(np.maximum(x, floor), (200, m)).max(1)
        low, high = np.quantile(again, [0.025, 0.975])
        plainly += bool(low - 1e-9 <= best[m - 1] <= high + 1e-9)
    share = held[shown > 0] / shown[shown > 0]
    return {
        "from k": trials - int((shown > 0).sum()) + 1,
        "lowest": round(share.min(), 3),
        "highest": round(share.max(), 3),
        "plainly": round(plainly / studies, 3),
    }


def truth(shape: str, default: float | None, most: int) -> tuple[float | None, np.ndarray]:
    """The default, at a quantile of the results, and the true expected best of it and k draws."""
    random = np.random.default_rng(2)
    u, z = random.random((400_000, 3)), random.standard_normal(400_000)
    x = np.sort(SHAPES[shape](u, z))
    value = None if default is None else float(np.quantile(x, default))
    if value is not None:
        x = np.maximum(x, value)
    below = np.arange(len(x) + 1) / len(x)
    return value, np.array([x @ np.diff(below**k) for k in range(1, most + 1)])


def held_by_compare(studies: int, noise: str, contestants: int, seeds: int) -> dict:
    """All equal: every difference found is a false one. Half of them better by two standard
    deviations, at five seeds: the share that is found, by `compare` and by paired t tests."""
    random = np.random.default_rng(4)
    held = false = partly = 0
    found, plainly = [], []
    for study in range(studies):
        y = NOISES[noise](contestants, seeds, random) + random.normal(0, 2, seeds)
        result = compare(y, seed=study)
        held += not (np.nanmax(result.low, initial=-1) > 0)
        false += bool(result.differs.any())
        if seeds == 5 and contestants > 3:
            better = np.zeros(contestants)
            better[random.permutation(contestants)[: contestants // 2]] = 2
            y = y + better[:, None] * SPREADS.get(noise, 1)
            result = compare(y, seed=study)
            same = better[:, None] == better
            partly += bool((result.differs & same).any())
            found.append(result.differs[~same].mean())
            plainly.append(holm(y)[~same].mean())
    row = {"held": held / studies, "false": false / studies}
    if found:
        row |= {"false with half better": partly / studies}
        row |= {"found": np.mean(found), "found plainly": np.mean(plainly)}
    return {key: round(float(value), 3) for key, value in row.items()}


def holm(y: np.ndarray) -> np.ndarray:
    """What paired t tests with Holm's correction tell apart."""
    i, j = np.triu_indices(len(y), 1)
    d = y[i] - y[j]
    n = (~np.isnan(d)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(d, 1) / n
        error = np.sqrt(np.nansum((d - mean[:, None]) ** 2, 1) / (n - 1) / n)
        p = np.nan_to_num(2 * t.sf(np.abs(mean) / error, n - 1), nan=1)
    at = np.argsort(p)
    p[at] = np.maximum.accumulate(p[at] * np.arange(len(p), 0, -1))
    differs = np.zeros((len(y), len(y)), bool)
    differs[i, j] = differs[j, i] = p <= 0.05
    return differs


def held_by_paired(studies: int, noise: str, seeds: int) -> dict:
    random = np.random.default_rng(5)
    held = 0
    for _ in range(studies):
        y = NOISES[noise](2, seeds, random)
        d = paired(y[0] - y[1])
        held += d.low <= 0 <= d.high
    return {"held": round(held / studies, 3)}


def found_with_seeds_needed(studies: int, contestants: int, difference: float) -> dict:
    """As many seeds as `seeds_needed` asks for, told the true noise: is the power 80%?"""
    # Two differences of the right standard deviation, which are then taken off what is needed.
    known = [-1, 1]
    n = seeds_needed(known, difference, contestants) + len(known)
    random = np.random.default_rng(6)
    found = 0
    for study in range(studies):
        y = random.standard_normal((contestants, n))
        y[0] += difference
        found += bool(compare(y, seed=study).differs[0, 1])
    return {"seeds": n, "found": round(found / studies, 3)}


MEASURES: dict[str, Callable[..., dict]] = {
    "budget_curve": held_by_budget_curve,
    "compare": held_by_compare,
    "paired": held_by_paired,
    "seeds_needed": found_with_seeds_needed,
}


def percent(values: Iterable[float]) -> str:
    """From the lowest to the highest; a dash if there is none."""
    shown = [f"{100 * v:.1f}" for v in sorted(values)] or ["-"]
    return shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"


def budget_table(rows: list[dict]) -> str:
    lines = ["| results | 8 trials | 16 trials | 32 trials | ordinary bootstrap |"]
    for shape, draws in dict.fromkeys((r["shape"], r["draws"]) for r in rows):
        of = [r for r in rows if (r["shape"], r["draws"]) == (shape, draws)]
        cells = [
            percent(v for r in of if r["trials"] == n for v in (r["lowest"], r["highest"]))
            for n in (8, 16, 32)
        ]
        name = shape + (", Sobol draws" if draws == "Sobol" else "")
        plainly = percent(r["plainly"] for r in of)
        lines.append(f"| {name} | {' | '.join(cells)} | {plainly} |")
    return ruled(lines)


def contest_table(rows: list[dict]) -> str:
    lines = ["| noise | all intervals hold | a tie called different | found | by Holm |"]
    for name in dict.fromkeys(r["noise"] for r in rows):
        of = [r for r in rows if r["noise"] == name]
        half = [r for r in of if "found" in r]
        false = [r[key] for r in of for key in ("false", "false with half better") if key in r]
        cells = [percent(r["held"] for r in of), percent(false)]
        cells += [", ".join(f"{100 * r[k]:.0f}" for r in half) for k in ("found", "found plainly")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return ruled(lines)


def paired_table(rows: list[dict]) -> str:
    lines = ["| noise | 3 seeds | 5 seeds | 10 seeds |"]
    for name in dict.fromkeys(r["noise"] for r in rows):
        of = [f"{100 * r['held']:.1f}" for r in rows if r["noise"] == name]
        lines.append(f"| {name} | {' | '.join(of)} |")
    return ruled(lines)


def seeds_table(rows: list[dict]) -> str:
    lines = ["| contestants | difference, in standard deviations of a run | seeds | found |"]
    for r in rows:
        cells = r["contestants"], r["difference"], r["seeds"], f"{100 * r['found']:.0f}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return ruled(lines)


def ruled(lines: list[str]) -> str:
    return "\n".join([lines[0], "|" + " - |" * (lines[0].count("|") - 1), *lines[1:]])


TABLES = {
    "budget_curve": budget_table,
    "compare": contest_table,
    "paired": paired_table,
    "seeds_needed": seeds_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--only", choices=MEASURES)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    settings = [s for s in plan(given.studies) if given.only in (None, s["statistic"])]
    if not given.tables:
        carry_out(settings, measured, MEASURED, given.processes)
    settings = list(plan(given.studies))
    by_setting = {str(r["run"]): {**r["run"], **r} for r in stored(MEASURED)}
    results = [by_setting[str(s)] for s in settings if str(s) in by_setting]
    left = len(settings) - len(results)
    so_far = f"{left} of {len(settings)} settings are still to be measured." if left else ""
    put_into(DOCS / "statistics.md", "so far", so_far)
    for statistic, table in TABLES.items():
        if rows := [r for r in results if r["statistic"] == statistic]:
            put_into(DOCS / "statistics.md", statistic, table(rows))


if __name__ == "__main__":
    main()
