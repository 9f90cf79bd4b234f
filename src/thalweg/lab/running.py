"""`thalweg.compare`: plan a comparison or go on with one, run it, and report what it found."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Literal

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan
from thalweg.lab.records.store import Store, check_unused
from thalweg.lab.request import Request, whole_from_one
from thalweg.lab.runner.devices import devices, workers
from thalweg.lab.runner.pool import Pool
from thalweg.lab.runner.queue import Queue
from thalweg.lab.runner.sending import whole
from thalweg.lab.runner.session import session
from thalweg.lab.runner.worker import Ended
from thalweg.lab.study import Study, TaskFacts
from thalweg.rules import Rule
from thalweg.tasks import Task
from thalweg.training.part import failing

__all__ = ["Stopped", "compare", "write"]


class Stopped(KeyboardInterrupt):
    """A comparison was interrupted; what had finished is kept.

    Attributes:
        folder: where; None if nothing had begun.
        kept: how many runs.
    """

    def __init__(self, folder: Path | None, kept: int) -> None:
        self.folder = folder
        self.kept = kept
        where = f"{kept} finished runs are kept in {folder}; go on with resume=True"
        super().__init__("nothing had begun" if folder is None else where)


def compare(
    tasks: str | Task | Sequence[str | Task] | None = None,
    optimizers: str | Rule | Sequence[str | Rule] | None = None,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    epochs: int | Sequence[int] | None = None,
    batch_size: int | Literal["full"] | None = None,
    lr: float | None = None,
    schedule: str | None = None,
    decay: str | None = None,
    convention: str | None = None,
    target: float | None = None,
    reshuffle: bool | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    extend: bool = False,
    force: bool = False,
    jobs: int | None = None,
    threads: int = 1,
    device: str | None = None,
    run_timeout: float | None = None,
    memory: float | None = None,
    png: bool = False,
    quiet: bool = False,
) -> Study:
    """Train tasks with each optimizer, and say which is best and when it is a tie.

    Every optimizer may try the same number of configurations; the best of each is then judged on
    fresh seeds. Runs are stored as they end, so nothing that has finished is lost.

    Args:
        tasks: one or several: a name in `thalweg.tasks.TASKS`, `path/to/file.py:name`, or a
            `thalweg.Task`; "digits" unless given.
        optimizers: in words, as on the command line, separated by commas; or a list of words and of
            rules, also of one's own. "all" stands for every built-in one, and is what is taken
            unless given. With `extend`, those to be added.
        trials: how many configurations each may try; 1, unless given: its documented defaults.
        seeds: on how many the best configuration of each is judged; 3 unless given.
        epochs: passes over the training data, or a list of one number for each task; the task's own
            unless given.
        batch_size: samples per step, or "full"; likewise.
        lr: the learning rate of every optimizer that does not say its own, instead of a search.
        schedule: of the learning rate, likewise, in words; choices are separated by `|`.
        decay: how weights decay, likewise; see `thalweg.rules.decaying.DECAYS`.
        convention: whose reading of the rules: "paper" unless given, "torch", "keras" or "optax".
        target: the value of the metric whose reaching is timed.
        reshuffle: whether each epoch has an order of its own; it has unless given.
        out: a new folder for results and report; one in `thalweg-runs` unless given.
        resume: go on with the comparison in `out`. What is given besides must agree with it; tasks
            and rules that were given as objects are needed again.
        extend: likewise, but with more optimizers, trials or seeds. Nothing is run twice.
        force: go on though the code of a task or of a rule has changed.
        jobs: worker processes; one per core unless given.
        threads: of each worker.
        device: what to train on, such as "cpu" or "cuda"; the best there is unless given.
        run_timeout: seconds after which a run has failed.
        memory: GiB that a run may take; any number unless given.
        png: write the figures as pictures too, for a paper or a slide.
        quiet: show neither progress nor the table.

    Raises:
        UsageError: an argument cannot be used, a task cannot be loaded, or the folder cannot be
            read or written. Runs that have finished stay.
        Stopped: on Ctrl-C; a KeyboardInterrupt that says where the finished runs are.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None:
            whole_from_one(name, value)
    if run_timeout is not None and not run_timeout > 0:
        raise UsageError(f"run_timeout is {run_timeout}, but must be a time above 0 s.")
    if memory is not None and not memory > 0:
        raise UsageError(f"memory is {memory}, but must be above 0 GiB.")
    if device is not None:
        _check_device(device)
    request = Request(
        tasks, optimizers, trials, seeds, epochs, batch_size, lr, schedule, decay, convention,
        target, reshuffle,
    )  # fmt: skip
    store: Store | None = None
    notes: dict[str, str] = {}
    try:
        if resume or extend:
            if out is None:
                raise UsageError("out is missing: the folder of the comparison to go on with.")
            store = Store.open(Path(out))
            stored = store.study().plan
            plan = request.continued(stored, extend=extend, force=force)
            notes = {f"changed in {name}": "its code" for name in request.edited(stored)}
        else:
            plan = request.plan()
            if out is not None:
                check_unused(Path(out))
        left = plan.size if store is None else _left(_study(store, plan))
        if left:
            objects = request.objects
            there = {task.spec: objects.get(task.spec) for task in plan.tasks}
            found = devices(device)
            size = min(jobs or workers(found, threads), left)
            with (
                whole(),
                Pool(
                    there,
                    size,
                    threads=threads,
                    devices=found,
                    run_timeout=run_timeout,
                    limit=None if memory is None else round(memory * 2**30),
                ) as pool,
            ):
                # Slow to import, and needed at the end: meanwhile the processes start.
                import_module("thalweg.lab.report.page")

                loaded = pool.loaded()
                if store is None:
                    facts = {spec: one.task for spec, one in loaded.items()}
                    plan = request.settled(plan, facts)
                    store = Store.create(_folder(out, facts), plan)
                about = {**session(loaded), "command": _command(request), **notes}
                store.begin(loaded, about, plan=plan, force=force)
                _carry_out(store, plan, pool, size, quiet=quiet)
        assert store is not None
        study = _study(store, plan)
        page = store.folder / "report.html"
        write(study, page, png=png)
    except KeyboardInterrupt:
        folder, kept = (store.folder, len(store.study().results)) if store else (None, 0)
        raise Stopped(folder, kept) from None
    finally:
        if store is not None:
            store.close()
    if not quiet:
        from thalweg.lab.display import print_summary

        print_summary(study, page)
    return study


def _check_device(device: str) -> None:
    import torch

    try:
        torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"device is {device!r}, but must be one that torch knows, such as cpu, cuda or cuda:1."
        ) from error


def write(study: Study, page: Path, *, png: bool) -> None:
    """Write the report, and beside it the figures as pictures if they are wanted.

    Raises:
        UsageError: they cannot be written.
    """
    from thalweg.lab.report.page import write_report

    with failing(
        "the report",
        page.parent,
        lambda: "Every run is kept: write it elsewhere, with thalweg report --out.",
    ):
        write_report(study, page)
        if png:
            from thalweg.lab.report.pictures import write_pictures

            write_pictures(study, page.parent)


def _carry_out(store: Store, plan: Plan, pool: Pool, size: int, *, quiet: bool) -> None:
    study = _study(store, plan)
    queue = Queue(study)
    if quiet:
        shown = nullcontext()
    else:
        from thalweg.lab.display import Display

        shown = Display(study, size)
    with shown as display:
        for event in pool.events(queue.take):
            if isinstance(event, Ended):
                store.add(event.result)
                queue.ended(event.result)
            if display is not None:
                display(event)


def _study(store: Store, plan: Plan) -> Study:
    """What is stored, under a plan that knows the rules which no file holds."""
    return replace(store.study(), plan=plan)


def _left(study: Study) -> int:
    """About how many runs are still to come; 0 only if none is."""
    pending = len(study.pending())
    return max(pending, study.plan.size - len(study.results)) if pending else 0


def _folder(out: str | Path | None, tasks: Mapping[str, TaskFacts]) -> Path:
    if out is not None:
        return Path(out)
    names = [re.sub(r"[^\w.-]+", "-", task.name) for task in tasks.values()]
    name = "-".join(names) if len(names) <= 3 else f"{len(names)}-tasks"
    now = datetime.now(timezone.utc).astimezone()
    stem = f"{name}-{now:%Y%m%d-%H%M%S}"
    tries = (Path("thalweg-runs") / f"{stem}{f'-{n}' * (n > 1)}" for n in count(1))
    return next(folder for folder in tries if not folder.exists())


def _command(request: Request) -> str:
    """How to begin it again: the command if that was it, else the call in Python."""
    path = Path(sys.argv[0])
    typed = path.stem == "thalweg" or path.parts[-2:] == ("thalweg", "__main__.py")
    return shlex.join(["thalweg", *sys.argv[1:]]) if typed else str(request)
