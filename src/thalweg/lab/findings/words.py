"""The facts of a task's results that its verdict is made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from thalweg.lab.findings.judging import Judging
from thalweg.lab.findings.row import Row
from thalweg.lab.stats import BudgetCurve
from thalweg.lab.study import Study

__all__ = ["Findings", "names"]


@dataclass(frozen=True)
class Findings:
    """Who leads and how the others stand beside that one.

    Attributes:
        study: the study.
        task: the spec of one of its tasks.
        rows: the final table, at least one.
        judging: what it comes from.
        budget: the best of so many trials, by optimizer.
    """

    study: Study
    task: str
    rows: Sequence[Row]
    judging: Judging
    budget: Mapping[str, BudgetCurve]

    @property
    def leader(self) -> str:
        """The first optimizer of the table."""
        return self.rows[0].optimizer

    @cached_property
    def shown(self) -> Sequence[Row]:
        """Those that can be ranked, the leader first."""
        return [r for r in self.rows if r.metric is not None]

    @cached_property
    def wild(self) -> Sequence[Row]:
        """Those not told apart from the leader since they scatter much more than is usual."""
        return [
            r
            for r in self.shown[1:]
            if r.optimizer in self.judging.wild
            and not r.ties
            and r.low is not None
            and r.high is not None
            and r.low <= 0 <= r.high
        ]

    @cached_property
    def ties(self) -> Sequence[Row]:
        """The others that are not told apart from the leader."""
        return [r for r in self.shown[1:] if r.ties]

    @cached_property
    def apart(self) -> Sequence[Row]:
        """Those that are."""
        others = (r for r in self.shown[1:] if r.low is not None and not r.ties)
        return [r for r in others if r not in self.wild]

    @cached_property
    def beaten(self) -> Sequence[Row]:
        """Those of them that did worse."""
        return [r for r in self.apart if (r.difference or 0.0) > 0]

    @cached_property
    def unjudged(self) -> Sequence[Row]:
        """Those that share too few seeds with the leader."""
        return [r for r in self.shown[1:] if r.low is None]

    @cached_property
    def constant(self) -> bool:
        """Whether all runs of several optimizers ended with the same metric."""
        values = {v for of_seed in self.judging.values.values() for v in of_seed.values()}
        return len(self.shown) > 1 and len(values) == 1

    @cached_property
    def missing(self) -> int:
        """How many runs of the task are still to come."""
        plan, count = self.study.plan, 0
        for row in self.rows:
            trials = len(plan.tuning(self.task, row.optimizer)) - row.trials
            hopeless = row.trial is None and not trials
            count += trials + (0 if hopeless else row.planned - row.ended)
        return count

    @property
    def ended(self) -> int:
        """How many have ended."""
        return sum(r.trials + r.ended for r in self.rows)


def names(rows: Iterable[Row]) -> list[str]:
    """The rows' optimizers."""
    return [r.optimizer for r in rows]
