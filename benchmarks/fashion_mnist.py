"""Fashion-MNIST with 11 optimizers in Keras' conventions: as good as Keras, and how much faster.

    python benchmarks/fashion_mnist.py                      time; three seeds against Keras
    python benchmarks/fashion_mnist.py --peer dataloader        ... beside a plain PyTorch loop
    python benchmarks/fashion_mnist.py --peer keras --python /path/to/keras/environment/bin/python

THALWEG_DATA names the folder of the data. A peer is timed right after Thalweg, in the same sitting.
"""

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

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
    command += ["--optimizers", ",".join(KERAS), "--seeds", str(seeds), "--out", str(out)]
    command += [] if reshuffle else ["--no-reshuffle"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def agreement(out: Path) -> bool:
    """Print the means over the seeds beside Keras' figures; whether all are close enough."""
    rows = sqlite3.connect(out / "results.sqlite").execute(
        "SELECT optimizer, train_loss, metric FROM epochs JOIN runs ON run = id WHERE epoch = 10"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for optimizer, loss, accuracy in rows:
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


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["none", "dataloader", "keras"], default="none")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peer")
    parser.add_argument("--seeds", type=int, default=3, help="0: only time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = compare(1, Path(folder) / "one")
        print(f"thalweg compare, 11 optimizers, one seed, 10 epochs each: {ours:.1f} s")
        if given.peer != "none":
            started = time.perf_counter()
            script = HERE / f"{given.peer}_loop.py"
            subprocess.run([given.python, str(script)], check=True)
            theirs = time.perf_counter() - started
            print(f"{given.peer}, the same: {theirs:.1f} s, {theirs / ours:.1f} times as long")
        if given.seeds:
            # With its seed set, Keras trains on the same batches in the same order in every epoch.
            print(
                f"\nmeans of {given.seeds} seeds / Keras, the same order in every epoch as there:"
            )
            compare(given.seeds, Path(folder) / "same", reshuffle=False)
            close = agreement(Path(folder) / "same")
            print("\nthe same with a new order in every epoch, which Keras does not have:")
            compare(given.seeds, Path(folder) / "new")
            agreement(Path(folder) / "new")
            sys.exit(not close)


if __name__ == "__main__":
    main()
