"""What a store of 10,000 runs costs: to add one more, to read them all, and to report on them.

The runs are synthetic: no training took place. Their curves have plausible shapes, of different
optimizers, tasks, learning rates and seeds, with some that diverge; the figures in such a store say
nothing about any optimizer. `--keep FOLDER` leaves it there, to look at with other tools.
"""

import argparse
import math
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from thalweg.lab.contestant import contestant
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.lab.records.store import Store, read_study
from thalweg.lab.runner.worker import Loaded
from thalweg.lab.study import Result, TaskFacts
from thalweg.rules import OPTIMIZERS
from thalweg.training import Record

Value = TypeVar("Value")

EPOCHS, SEEDS = 10, 5
TASKS = ("synthetic-easy", "synthetic-medium", "synthetic-hard")


def plan_of(runs: int) -> Plan:
    """A plan with at least so many runs: the built-in optimizers on three tasks."""
    names = list(OPTIMIZERS)[:16]
    trials = math.ceil(runs / (len(TASKS) * len(names))) - SEEDS
    tasks = tuple(TaskPlan(name, EPOCHS, 32) for name in TASKS)
    contestants = tuple(contestant(name, max(trials, 16)) for name in names)
    return Plan(tasks, contestants, "paper", max(trials, 16), tuple(range(1, SEEDS + 1)))


def synthetic(plan: Plan) -> Iterator[Result]:
    """A made-up result for every trial, and for the judging runs of the trial that did best."""
    for difficulty, task in enumerate(plan.tasks, 1):
        for place, optimizer in enumerate(plan.optimizers):
            tuning = [
                _made_up(plan, run, difficulty, place) for run in plan.tuning(task.spec, optimizer)
            ]
            yield from tuning
            best = max(
                (r for r in tuning if r.status == "finished"), key=lambda r: r.epochs[-1].metric
            )
            for run in plan.judging(task.spec, optimizer, best.run.trial):
                yield _made_up(plan, run, difficulty, place)


def _made_up(plan: Plan, run: Run, difficulty: int, place: int) -> Result:
    generator = random.Random(repr(run))
    order = plan.order(run)
    values = order.rule.settings(plan.convention)
    settings = {**values.hypers, **values.flags, **order.extra}
    # How far a configuration is from its optimizer's best, in decades.
    away = abs(random.Random(f"{run.optimizer} {run.trial}").gauss(0, 1))
    if away > 2.2:
        return Result(
            run, "diverged", f"train_loss was nan in epoch 1, step {place + 3}", (), settings
        )
    reach = 1 - 0.05 * difficulty - 0.002 * place - 0.05 * away**2
    records: list[Record] = []
    for epoch in range(1, EPOCHS + 1):
        share = 1 - math.exp(-epoch / (1 + away))
        metric = reach * share + generator.gauss(0, 0.004)
        loss = 2.3 * (1 - share) + 0.3 * (1 - reach) + generator.random() * 0.01
        seconds = epoch * (1.2 + 0.1 * place) + generator.random() * 0.05
        records.append(Record(epoch, epoch * 1719, loss, loss * 1.1, metric, seconds))
    if order.test:
        records[-1] = Record(*list(vars(records[-1]).values())[:6], test=metric - 0.004)
    memory = generator.randrange(400, 900) << 20
    return Result(run, "finished", "", tuple(records), settings, 8.0, memory)


def _timed(what: str, function: Callable[[], Value]) -> Value:
    start, busy = time.perf_counter(), time.process_time()
    value = function()
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{what}: {wall:.2f} s, of which the processor was busy {busy:.2f} s", flush=True)
    return value


def _peak() -> float:
    """The most memory that this process has ever taken, in MiB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _told(name: str, seconds: list[float]) -> None:
    quantiles = statistics.quantiles(seconds, n=100)
    print(
        f"{name}: median {statistics.median(seconds) * 1e3:.2f} ms, "
        f"99 % {quantiles[98] * 1e3:.2f} ms, most {max(seconds) * 1e3:.1f} ms"
    )


def _disk(folder: Path, count: int = 500) -> list[float]:
    """How long the disk alone takes for a few kilobytes more: write and fdatasync."""
    import os

    seconds: list[float] = []
    with (folder / "disk").open("wb", buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(b"x" * 12_000)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - start)
    (folder / "disk").unlink()
    return seconds


def main() -> None:
    """Make the store, and print what it takes."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=10_000)
    arguments.add_argument("--keep", type=Path, help="a new folder for the store")
    arguments.add_argument("--no-report", action="store_true", help="leave out the page")
    given = arguments.parse_args()
    with ExitStack() as stack:
        place = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="."))) / "s"
        plan = plan_of(given.runs)
        facts = [
            TaskFacts(
                t.spec, "made up, nothing was trained", "accuracy", True, EPOCHS, 32, None, True
            )
            for t in plan.tasks
        ]
        results = list(synthetic(plan))
        store = Store.create(place, plan)
        loaded = {f.name: Loaded(f.name, f, {"code": {"synthetic.py": "0"}}) for f in facts}
        store.begin(loaded, {"command": "benchmarks/store_size.py", "note": "synthetic runs"})
        before, seconds, busy = _peak(), [], time.process_time()
        for result in results:
            start = time.perf_counter()
            store.add(result)
            seconds.append(time.perf_counter() - start)
        busy = (time.process_time() - busy) / len(results)
        print(f"{len(results)} synthetic runs; peak memory grew by {_peak() - before:.1f} MiB")
        print(f"add, mean time that the processor was busy: {busy * 1e3:.2f} ms")
        _told("add, the first 1,000", seconds[:1000])
        _told("add, the last 1,000", seconds[-1000:])
        _told("the disk alone, for as much", _disk(place))
        store.close()
        print(f"file: {(place / 'results.sqlite').stat().st_size / 1e6:.1f} MB")
        before = _peak()
        _timed("open for writing", lambda: Store.open(place)).close()
        study = _timed("read_study", lambda: read_study(place))
        print(f"peak memory grew by {_peak() - before:.1f} MiB, to {_peak():.0f} MiB")
        assert study.results == tuple(results)
        if not given.no_report:
            from thalweg.lab.report.page import write_report

            page = place / "report.html"
            _timed("write_report", lambda: write_report(study, page))
            print(f"report: {page.stat().st_size / 1e6:.1f} MB; peak memory {_peak():.0f} MiB")


if __name__ == "__main__":
    main()
