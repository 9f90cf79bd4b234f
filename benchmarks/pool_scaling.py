"""How many runs a minute `thalweg compare` finishes with 4 worker processes, and with 1.

    python benchmarks/pool_scaling.py                 4 jobs and 1, in turns, about three minutes
    python benchmarks/pool_scaling.py --jobs 2 --rounds 5 --epochs 1 digits

Each job has as many runs to do, so that starting and reporting weigh the same. THALWEG_DATA names
the folder of the data.
"""

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median


def timed(given: argparse.Namespace, jobs: int, out: Path) -> tuple[float, float, float]:
    """A comparison: its seconds, those its runs were training for, and microseconds per step."""
    command = [sys.executable, "-m", "thalweg", "compare", given.task, "--optimizers", "adam"]
    command += ["--epochs", str(given.epochs), "--trials", "1"]
    command += ["--seeds", str(jobs * given.runs), "--jobs", str(jobs), "--out", str(out)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    with closing(sqlite3.connect(out / "results.sqlite")) as store:
        (training, steps) = store.execute("SELECT SUM(seconds), SUM(steps) FROM runs").fetchone()
    return wall, training, 1e6 * training / steps


def main() -> None:
    """Run both in turns and print their rates, and what keeps the larger from being so many."""
    parser = argparse.ArgumentParser(description="Runs a minute with several jobs, and with one.")
    parser.add_argument("task", nargs="?", default="fashion-mnist")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=8, help="of each job")
    parser.add_argument("--epochs", type=int, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(given.rounds):
            rates: dict[int, float] = {}
            # Who goes first changes, so that neither always finds the machine warm.
            for jobs in (1, given.jobs) if i % 2 else (given.jobs, 1):
                out = Path(folder) / f"{i}-{jobs}"
                wall, training, step = timed(given, jobs, out)
                rates[jobs] = 60 * jobs * given.runs / wall
                print(
                    f"{jobs} jobs: {rates[jobs]:6.1f} runs a minute; {step:.0f} us per step; "
                    f"{training / jobs / wall:.1%} of each job's time was training",
                    flush=True,
                )
            ratios.append(rates[given.jobs] / rates[1])
    low, high = min(ratios), max(ratios)
    print(
        f"{given.jobs} jobs finish {median(ratios):.2f} times as many runs a minute as one "
        f"[{low:.2f} to {high:.2f} in {given.rounds} rounds]"
    )


if __name__ == "__main__":
    main()
