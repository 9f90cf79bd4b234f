"""Carry out a plan: run what is not stored yet, store it, and write the report."""

from collections.abc import Callable

from thalweg.lab.plan import Order, Plan, Run
from thalweg.lab.pool import Event, Pool
from thalweg.lab.store import Store
from thalweg.lab.study import Result, Study
from thalweg.lab.worker import Ended
from thalweg.rules.vocabulary import walk

__all__ = ["Queue", "carry_out"]


class Queue:
    """The runs that are still to be begun; those that are chosen by others' results come in time.

    Args:
        study: the plan and the results so far.
    """

    def __init__(self, study: Study) -> None:
        self._plan, self._tasks = study.plan, study.tasks
        self._results = {r.run: r for r in study.results}
        self._begun = set(self._results)
        self._waiting = self._longest_first(study.pending())

    def take(self) -> Order | None:
        """The next run to begin; None if there is none now."""
        if not self._waiting:
            return None
        run = self._waiting.pop(0)
        self._begun.add(run)
        return self._plan.order(run)

    def ended(self, result: Result) -> None:
        """Take note of a result, after which other runs may be possible."""
        run = result.run
        self._results[run] = result
        own = [
            r
            for r in self._results.values()
            if (r.run.task, r.run.optimizer) == (run.task, run.optimizer)
        ]
        study = Study(self._plan, self._tasks, tuple(own))
        trial = study.chosen(run.task, run.optimizer)
        if trial is not None:
            new = self._plan.judging(run.task, run.optimizer, trial)
            self._waiting += [r for r in new if r not in self._begun and r not in self._waiting]
            self._waiting = self._longest_first(self._waiting)

    def _longest_first(self, runs: list[Run]) -> list[Run]:
        # Workers hold the data of one task at a time, so that runs of one go together.
        place = {task.spec: i for i, task in enumerate(self._plan.tasks)}
        return sorted(runs, key=lambda run: (place[run.task], -_work(self._plan, run), run.seed))


def _work(plan: Plan, run: Run) -> int:
    """How many operations a step of the run's rule takes."""
    order = plan.order(run)
    trace = order.rule.trace(order.rule.settings(plan.convention))
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

    queue = Queue(store.study())
    for event in pool.events(queue.take):
        if isinstance(event, Ended):
            store.add(event.result)
            queue.ended(event.result)
        watch(event)
    study = store.study()
    write_report(study, store.folder / "report.html")
    return study
