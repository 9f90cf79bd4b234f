"""Carry out a plan: run what is not stored yet, store it, and write the report."""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from thalweg.lab.plan import Plan, Run
from thalweg.lab.pool import Event, Pool
from thalweg.lab.store import Store
from thalweg.lab.study import Study
from thalweg.lab.worker import Ended
from thalweg.rules.vocabulary import walk

__all__ = ["carry_out", "cores", "environment", "pending"]


def pending(study: Study) -> list[Run]:
    """The runs that have not ended yet, those that will take longest first."""
    ended = {r.run for r in study.results}
    left = [run for run in study.plan.runs() if run not in ended]
    return sorted(left, key=lambda run: -_work(study.plan, run))


def _work(plan: Plan, run: Run) -> int:
    """How many operations a step of the run's rule takes."""
    rule = plan.rule(run)
    trace = rule.trace(rule.settings(plan.convention))
    return sum(e.element for e in walk(trace.step, *trace.states.values()))


def carry_out(store: Store, pool: Pool, watch: Callable[[Event], None]) -> Study:
    """Run what is pending, keep each result as it comes, and write `report.html`.

    Args:
        store: the plan and the results so far.
        pool: the processes to run in.
        watch: is told everything that happens.

    Raises:
        UsageError: the task or its data cannot be loaded.
    """
    # Imported while the processes start.
    from thalweg.lab.report import write_report

    study = store.study()
    for event in pool.events(study.plan, pending(study)):
        if isinstance(event, Ended):
            store.add(event.result)
        watch(event)
    study = store.study()
    write_report(study, store.folder / "report.html")
    return study


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def environment() -> dict[str, str]:
    """What whoever repeats the comparison needs to know."""
    return {
        "command": shlex.join(["thalweg", *sys.argv[1:]]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{name: version(name) for name in ("thalweg", "torch", "numpy")},
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{_processor()}, {cores()} cores",
    }


def _processor() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
