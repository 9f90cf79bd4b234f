"""Kill a comparison again and again at random moments, and see that nothing comes of it.

    python benchmarks/kills.py [--kills N]

A study of short real runs is begun and, after each kill, gone on with: `thalweg compare --resume`.
What is killed by SIGKILL is the command itself, one of its workers, or all of them at once; the
moments are spread evenly over a quarter of the time that the whole study takes, from the command's
start on; some hit its end. After each kill the file is checked: SQLite finds it whole, every run
that was ever stored or told of is there as it was, and none was told of twice. In the end the
study is held against one that was left alone: the same in every figure but time and memory.
"""

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from thalweg.lab.findings.summary import summaries
from thalweg.lab.records.store import read_study

STUDY = (
    *("digits", "--optimizers", "sgd,nag,adagrad,rmsprop,adam,amsgrad,nadam,l2+adam"),
    *("--trials", "8", "--seeds", "5", "--epochs", "20"),
)
# What is not the same when the same is done again.
TIMES = ("seconds_to_target", "seconds_per_step", "memory")
PATIENCE = 60.0


class Comparison:
    """A study that is gone on with until it is whole, whatever happens to its processes.

    Args:
        folder: where it is; new.
        study: what `thalweg compare` is given to begin it.
        jobs: how many workers.
    """

    def __init__(self, folder: Path, study: tuple[str, ...], jobs: int) -> None:
        self.folder = folder
        self._study = study
        self._jobs = jobs
        self._log = folder.with_suffix(".log")
        self._told: Counter[str] = Counter()
        self._seen: dict[int, tuple[Any, ...]] = {}
        # How many kills, of the parent or all, came when a run had been stored since the start.
        self.amid = 0

    def start(self) -> None:
        """Begin the study, or go on with it."""
        begun = (self.folder / "results.sqlite").exists()
        what = ("--resume", self.folder) if begun else (*self._study, "--out", self.folder)
        command = [sys.executable, "-m", "thalweg", "compare", *what, "--jobs", str(self._jobs)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*map(str, command)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def told(self) -> list[str]:
        """The runs that the command, since it was last started, has said to have ended."""
        return re.findall(r"^\[\d+/\d+\] (.*?): ", self._log.read_text(), re.MULTILINE)

    def ended(self) -> bool:
        """Whether the command has come to its end."""
        return self._process.poll() is not None

    def finish(self) -> None:
        """Wait for that end, which must be a good one."""
        assert self._process.wait() == 0, self._log.read_text()
        self.check()

    def kill(self, target: str) -> None:
        """Kill "a worker", "the parent" or "all", and unless it was a worker see what is left."""
        workers = self._workers()
        if target == "a worker":
            # They may all be about to end.
            with suppress(psutil.NoSuchProcess, IndexError):
                random.choice(workers).kill()
            return
        if target == "all":
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()
        # Workers whose parent has died must end by themselves.
        _, alive = psutil.wait_procs(workers, PATIENCE)
        assert all(p.status() == psutil.STATUS_ZOMBIE for p in alive), (
            "a worker outlives its parent"
        )
        before = len(self._seen)
        self.check()
        self.amid += len(self._seen) > before

    def has_workers(self) -> bool:
        """Whether any worker runs now."""
        return bool(self._workers())

    def _workers(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if any("spawn_main" in word for word in child.cmdline()):
                        found.append(child)
        return found

    def check(self) -> None:
        """See that the file is whole, and that all is in it that ever was, as it was."""
        file = self.folder / "results.sqlite"
        if not file.exists():
            assert not self.told()
            return
        with closing(sqlite3.connect(file)) as c:
            assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert c.execute("PRAGMA foreign_key_check").fetchall() == []
            rows = {row[0]: row for row in c.execute("SELECT * FROM runs")}
            new = c.execute("SELECT max(id) FROM sessions").fetchone()[0]
        assert {i: rows.get(i) for i in self._seen} == self._seen, "a stored run is lost or altered"
        told = self.told()
        now = sum(row[-3] == new for row in rows.values())
        assert len(told) <= now, f"{len(told)} runs were told of, {now} stored"
        self._told.update(told)
        twice = [name for name, count in self._told.items() if count > 1]
        assert not twice, f"run twice: {twice}"
        self._seen = rows


def figures(folder: Path) -> tuple[Any, ...]:
    """All that a study found, and the tables made of it, but times and memory."""
    study = read_study(folder)
    runs = {
        r.run: (
            r.status,
            r.reason,
            json.dumps([{**vars(e), "seconds": 0.0} for e in r.epochs]),
            json.dumps(dict(r.settings)),
            r.state_bytes,
        )
        for r in study.results
    }
    tables = [
        (
            s.verdict,
            repr([{k: v for k, v in vars(row).items() if k not in TIMES} for row in s.rows]),
        )
        for s in summaries(study)
    ]
    return runs, study.tasks, study.plan, tables


def until_whole(
    comparison: Comparison, targets: Sequence[str], moment: Callable[[Comparison], None]
) -> list[str]:
    """Kill a comparison as often as there are targets, or until it ends, and let it finish.

    Args:
        comparison: not begun yet.
        targets: what is killed, one after the other.
        moment: waits for the next kill.

    Returns:
        What was killed.
    """
    done: list[str] = []
    comparison.start()
    for target in targets:
        while target == "a worker" and not (comparison.has_workers() or comparison.ended()):
            time.sleep(0.01)
        moment(comparison)
        if comparison.ended():
            break
        comparison.kill(target)
        done.append(target)
        if target != "a worker":
            comparison.start()
    comparison.finish()
    return done


def drawn(count: int, generator: random.Random) -> list[str]:
    """So many targets, at random; never a worker after a worker.

    A run whose worker dies twice has failed, which is another result.
    """
    targets: list[str] = []
    while len(targets) < count:
        worker = targets[-1:] != ["a worker"]
        targets.append(generator.choice(("the parent", "all", *["a worker"] * worker)))
    return targets


def main() -> None:
    """Kill, go on, compare, and print what was done."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    generator = random.Random(given.seed)
    done: Counter[str] = Counter()
    began = time.perf_counter()
    longest = 0.0

    def moment(comparison: Comparison) -> None:
        end = time.perf_counter() + generator.uniform(0, longest)
        while time.perf_counter() < end and not comparison.ended():
            time.sleep(0.001)

    with tempfile.TemporaryDirectory() as place:
        alone = Comparison(Path(place, "alone"), STUDY, given.jobs)
        alone.start()
        alone.finish()
        expected = figures(alone.folder)
        whole = time.perf_counter() - began
        print(f"{len(expected[0])} runs, left alone: {whole:.0f} s", flush=True)
        longest = whole / 4
        studies = 0
        while done.total() < given.kills:
            studies += 1
            comparison = Comparison(Path(place, f"killed-{studies}"), STUDY, given.jobs)
            targets = drawn(given.kills - done.total(), generator)
            now = Counter(until_whole(comparison, targets, moment))
            done += now
            found = figures(comparison.folder)
            for what, a, b in zip(
                ("runs", "tasks", "plan", "tables"), found, expected, strict=True
            ):
                assert a == b, f"{what} differ: {a} {b}"
            print(
                f"study {studies}: {dict(now)}, {comparison.amid} of them after a run had been "
                "stored since the last start; the same in every figure",
                flush=True,
            )
    print(
        f"{done.total()} kills ({dict(done)}) over {studies} studies in "
        f"{time.perf_counter() - began:.0f} s: no run lost, none run twice, no damage."
    )


if __name__ == "__main__":
    main()
