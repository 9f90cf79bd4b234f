"""Fashion-MNIST with 11 optimizers in Keras' conventions: as good as Keras, and how much faster.

    python benchmarks/fashion_mnist.py              time, and three seeds against Keras' results
    python benchmarks/fashion_mnist.py --seeds 0    time only, and where it goes
    python benchmarks/fashion_mnist.py --seeds 0 --peer dataloader keras --python KERAS/bin/python

THALWEG_DATA names the folder of the data, and --python an interpreter that has Keras. All is timed
from the command to its end, in one sitting: Thalweg before, between and after the peers.
"""

import argparse
import heapq
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import fmean, median

from thalweg.lab.runner.session import cores

# Keras 3.15, seed 42: training loss of the tenth epoch, validation accuracy after it.
KERAS = {
    "sgd": (0.468, 0.834),
    "momentum": (0.314, 0.860),
    "nag": (0.313, 0.867),
    "adagrad": (0.453, 0.837),
    "adadelta:lr=1:eps=1e-6": (0.307, 0.867),
    "rmsprop:rho=0.9": (0.338, 0.871),
    "adam": (0.239, 0.869),
    "amsgrad": (0.226, 0.870),
    "adamax": (0.253, 0.867),
    "nadam": (0.229, 0.860),
    "adamw:weight_decay=1e-5": (0.239, 0.869),
}
HERE = Path(__file__).parent


def compare(seeds: int, out: Path, *, reshuffle: bool = True) -> float:
    """Run the comparison; how many seconds it took, from the command to the report."""
    command = [sys.executable, "-m", "thalweg", "compare", "fashion-mnist", "--epochs", "10"]
    command += ["--batch-size", "32", "--convention", "keras", "--lr", "1e-3"]
    # One trial: the documented defaults.
    command += ["--optimizers", ",".join(KERAS), "--trials", "1", "--seeds", str(seeds)]
    command += ["--out", str(out), *([] if reshuffle else ["--no-reshuffle"])]
    return timed(command)


def timed(command: list[str], *, shown: bool = False) -> float:
    """How many seconds a command took, whose output is shown or not."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=None if shown else subprocess.DEVNULL)
    return time.perf_counter() - started


def runs(out: Path, columns: str) -> list[tuple[str, float, float]]:
    """Numbers of every run that has ended, after the name of its optimizer."""
    with closing(sqlite3.connect(out / "results.sqlite")) as store:
        return store.execute(f"SELECT optimizer, {columns} FROM runs ORDER BY id").fetchall()


def parts(out: Path, wall: float) -> None:
    """Print where the time went that a comparison took."""
    found = runs(out, "seconds, steps")
    times = sorted((seconds for _, seconds, _ in found), reverse=True)
    # When each core would be done if there were nothing but steps, the longest run begun first.
    ends = [0.0] * cores()
    for seconds in times:
        heapq.heapreplace(ends, ends[0] + seconds)
    share = sum(times) / len(ends)
    each = 1e6 * sum(times) / sum(steps for _, _, steps in found)
    last = max(ends)
    print(
        f"  {share:.1f} s for the steps of training, {each:.0f} us each; {last - share:.1f} s in "
        f"which not all of {len(ends)} cores had a run left; {wall - last:.1f} s for start, "
        "evaluation and report"
    )


def agreement(out: Path) -> bool:
    """Print the means over the seeds beside Keras' figures; whether all are close enough."""
    found: dict[str, list[tuple[float, float]]] = {}
    for optimizer, loss, accuracy in runs(out, "train_loss, metric"):
        found.setdefault(optimizer, []).append((loss, accuracy))
    print(f"{'':24} {'train loss':>20} {'':>8} {'accuracy':>20}")
    fine = True
    for optimizer, (keras_loss, keras_accuracy) in KERAS.items():
        loss = fmean(r[0] for r in found[optimizer])
        accuracy = fmean(r[1] for r in found[optimizer])
        off, difference = loss / keras_loss - 1, accuracy - keras_accuracy
        close = abs(off) <= 0.08 and abs(difference) <= 0.015
        fine &= close
        print(
            f"{optimizer:24} {loss:9.4f} / {keras_loss:.3f} {off:+8.1%}"
            f" {accuracy:11.4f} / {keras_accuracy:.3f} {difference:+8.4f}"
            + ("" if close else "   too far")
        )
    return fine


def sitting(peers: list[str], python: str, folder: Path) -> None:
    """Time Thalweg, and the peers in turn with it, and print how many times as long they take."""
    ours: list[float] = []
    theirs: dict[str, float] = {}

    def once() -> None:
        out = folder / f"turn{len(ours)}"
        ours.append(compare(1, out))
        print(f"thalweg compare, 11 optimizers, 10 epochs each: {ours[-1]:.1f} s", flush=True)
        parts(out, ours[-1])

    once()
    for peer in peers:
        interpreter = python if peer == "keras" else sys.executable
        theirs[peer] = timed([interpreter, str(HERE / f"{peer}_loop.py")], shown=True)
        print(f"{peer}, the same: {theirs[peer]:.1f} s", flush=True)
        once()
    for peer, seconds in theirs.items():
        print(f"{peer}: {seconds / median(ours):.1f} times as long as {median(ours):.1f} s")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", nargs="+", choices=["dataloader", "keras"], default=[])
    parser.add_argument("--python", default=sys.executable, help="interpreter that has Keras")
    parser.add_argument("--seeds", type=int, default=3, help="0: only time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sitting(given.peer, given.python, folder)
        if given.seeds:
            # With its seed set, Keras trains on the same batches in the same order in every epoch.
            print(
                f"\nmeans of {given.seeds} seeds / Keras, the same order in every epoch as there:"
            )
            compare(given.seeds, folder / "same", reshuffle=False)
            close = agreement(folder / "same")
            print("\nthe same with a new order in every epoch, which Keras does not have:")
            compare(given.seeds, folder / "new")
            agreement(folder / "new")
            sys.exit(not close)


if __name__ == "__main__":
    main()
