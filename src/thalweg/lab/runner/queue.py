"""What of a plan is to be run next."""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from thalweg.lab.plan import Order, Run
from thalweg.lab.study import Result, Study
from thalweg.rules.vocabulary import walk

__all__ = ["Queue"]

_Pair: TypeAlias = tuple[str, str]


class Queue:
    """The runs that are still to be begun; those that are chosen by others' results come in time.

    First comes what the longest time has to follow: of two runs the longer one, and a trial, which
    has a run on fresh seeds after it, counts twice.

    Args:
        study: the plan and the results so far.
    """

    def __init__(self, study: Study) -> None:
        self._plan, self._tasks = study.plan, study.tasks
        self._known = {result.run for result in study.results}
        # By task and optimizer.
        self._trials: dict[_Pair, list[Result]] = {}
        self._waiting: dict[_Pair, deque[Run]] = {}
        self._works: dict[_Pair, int] = {}
        self._times: dict[_Pair, tuple[float, int]] = {}
        for result in study.results:
            self._timed(result)
        for task in self._plan.tasks:
            for name in self._plan.optimizers:
                self._trials[task.spec, name] = [*map(_short, study.tuning(task.spec, name))]
        self._add(study.pending())

    def take(self, task: str | None = None) -> Order | None:
        """The next run to begin; None if there is none now.

        Args:
            task: which is preferred, because who is to carry it out has its data.
        """
        specs = [task, *(t.spec for t in self._plan.tasks)]
        for spec in specs:
            pairs = [pair for pair, runs in self._waiting.items() if pair[0] == spec and runs]
            if pairs:
                first = max(pairs, key=self._length)
                return self._plan.order(self._waiting[first].popleft())
        return None

    def ended(self, result: Result) -> None:
        """Take note of a result, after which other runs may be possible."""
        run, plan = result.run, self._plan
        self._timed(result)
        count = plan.trials_of(run.optimizer)
        if count == 1 or run.seed != plan.tuning_seed:
            return
        trials = self._trials[run.task, run.optimizer]
        trials.append(_short(result))
        if len(trials) < count:
            return
        chosen = Study(plan, self._tasks, tuple(trials)).chosen(run.task, run.optimizer)
        if chosen is not None:
            fresh = plan.judging(run.task, run.optimizer, chosen)
            self._add(run for run in fresh if run not in self._known)

    def _add(self, runs: Iterable[Run]) -> None:
        for run in runs:
            pair = run.task, run.optimizer
            if pair not in self._works:
                self._works[pair] = _work(self._plan.order(run))
            self._waiting.setdefault(pair, deque()).append(run)

    def _timed(self, result: Result) -> None:
        if result.status == "finished":
            pair = result.run.task, result.run.optimizer
            seconds, count = self._times.get(pair, (0.0, 0))
            self._times[pair] = seconds + result.epochs[-1].seconds, count + 1

    def _length(self, pair: _Pair) -> float:
        """How long a task's and optimizer's runs keep a process busy, those after it included."""
        tuning = self._plan.trials_of(pair[1]) > 1
        follows = tuning and self._waiting[pair][0].seed == self._plan.tuning_seed
        return (2 if follows else 1) * self._seconds(pair)

    def _seconds(self, pair: _Pair) -> float:
        """What a run takes: measured, or by the number of its operations."""
        if pair in self._times:
            seconds, count = self._times[pair]
            return seconds / count
        known = [other for other in self._times if other[0] == pair[0] and other in self._works]
        if not known:
            return self._works[pair]
        pace = sum(map(self._seconds, known)) / sum(self._works[other] for other in known)
        return self._works[pair] * pace


def _short(result: Result) -> Result:
    """What is needed of a result to choose by it."""
    return replace(result, epochs=result.epochs[-1:])


def _work(order: Order) -> int:
    """How many operations a step of the run's rule takes."""
    trace = order.rule.trace(order.rule.settings(order.convention))
    return 1 + sum(e.element for e in walk(trace.step, *trace.states.values()))
