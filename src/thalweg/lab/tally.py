"""How far a comparison is while it goes on: runs done and left, the time that takes, the best."""

from statistics import fmean
from time import perf_counter

from thalweg.lab.plan import Run
from thalweg.lab.runner.pool import Event, Started
from thalweg.lab.runner.worker import Ended, Progress
from thalweg.lab.study import Result, Study

__all__ = ["Tally"]


class Tally:
    """Counts the runs of a study as they begin and end.

    Args:
        study: the plan and the results so far.
        size: how many runs go on at the same time.
    """

    def __init__(self, study: Study, size: int) -> None:
        self._study, self._size = study, size
        self._results: dict[tuple[str, str], list[Result]] = {
            (task.spec, name): [] for task in study.plan.tasks for name in study.plan.optimizers
        }
        self._began: dict[Run, float] = {}
        self._share: dict[Run, float] = {}
        self._lasted: dict[str, list[float]] = {task.spec: [] for task in study.plan.tasks}
        for result in study.results:
            self._results[result.run.task, result.run.optimizer].append(result)
            if result.status == "finished":
                self._lasted[result.run.task].append(result.epochs[-1].seconds)
        self._left = {cell: self._remaining(cell) for cell in self._results}

    def note(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Started():
                self._began[event.run] = perf_counter()
                self._share[event.run] = 0.0
            case Progress():
                epochs = self._study.plan.task(event.run.task).epochs
                self._share[event.run] = event.epoch.epoch / epochs
            case Ended():
                run = event.result.run
                began = self._began.pop(run, None)
                self._share.pop(run, None)
                if began is not None and event.result.status == "finished":
                    self._lasted[run.task].append(perf_counter() - began)
                cell = run.task, run.optimizer
                self._results[cell].append(event.result)
                self._left[cell] = self._remaining(cell)

    @property
    def running(self) -> int:
        """How many runs go on."""
        return len(self._began)

    def done(self, task: str | None = None) -> int:
        """How many runs have ended, of one task or of all."""
        return sum(len(rs) for (spec, _), rs in self._results.items() if task in (None, spec))

    def total(self, task: str | None = None) -> int:
        """How many runs there will be; fewer than planned if all trials of an optimizer fail."""
        left = sum(n for (spec, _), n in self._left.items() if task in (None, spec))
        return self.done(task) + left

    def best(self, task: str) -> tuple[str, float] | None:
        """The optimizer with the best configuration so far, and its metric on validation data."""
        sign = self._study.tasks[task].sign
        found: dict[tuple[str, int], list[float]] = {}
        for (spec, optimizer), results in self._results.items():
            for r in results:
                if spec == task and r.status == "finished":
                    found.setdefault((optimizer, r.run.trial), []).append(r.epochs[-1].metric)
        if not found:
            return None
        means = {key: fmean(values) for key, values in found.items()}
        best = max(means, key=lambda key: sign * means[key])
        return best[0], means[best]

    def seconds_left(self) -> tuple[float, bool] | None:
        """The time that is left, and whether that is a lower bound.

        It is one as long as of some task no run has got anywhere; None if of no task has any.
        """
        now = perf_counter()
        work, known, whole = 0.0, False, True
        for task in self._lasted:
            left = sum(n for (spec, _), n in self._left.items() if spec == task)
            running = {run: now - at for run, at in self._began.items() if run.task == task}
            lasts = self._lasted[task] or [
                elapsed / self._share[run] for run, elapsed in running.items() if self._share[run]
            ]
            if not lasts:
                whole = whole and not left
                continue
            known = True
            each = fmean(lasts)
            work += left * each - sum(min(elapsed, each) for elapsed in running.values())
        if not known:
            return None
        return work / max(1, min(self._size, sum(self._left.values()))), not whole

    def _remaining(self, cell: tuple[str, str]) -> int:
        """How many runs of an optimizer on a task have not ended."""
        plan = self._study.plan
        own = Study(plan, self._study.tasks, tuple(self._results[cell]))
        tuning = sum(run not in own.by_run for run in plan.tuning(*cell))
        trial = own.chosen(*cell)
        if trial is None:
            return tuning + len(plan.seeds) * (tuning > 0)
        return tuning + sum(run not in own.by_run for run in plan.judging(*cell, trial))
