"""How the chosen configurations did on fresh seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev
from typing import Literal

from thalweg.lab import stats
from thalweg.lab.study import Result, Study

__all__ = ["Beside", "Judging", "judge"]

_FEWEST = 3
_WILD = 10


@dataclass(frozen=True)
class Beside:
    """An optimizer beside the leader.

    Attributes:
        difference: how much worse its judged metric is; None without a seed that both finished.
        low: lower end of its interval; None for fewer than three such seeds, and for the leader.
        high: upper end, likewise.
        ties: whether they are not told apart, though they could be; not if the one scatters so
            widely (`Judging.wild`) that hardly any difference would be found.
    """

    difference: float | None
    low: float | None
    high: float | None
    ties: bool


@dataclass(frozen=True)
class Judging:
    """The judged metric of every optimizer on a task.

    Attributes:
        on: which data the metric is taken on.
        sign: what the metric is multiplied with so that more is better: 1 or -1.
        values: for each optimizer, in the plan's order, the metric by seed, of the runs that
            finished.
    """

    on: Literal["test", "validation"]
    sign: float
    values: Mapping[str, Mapping[int, float]]

    @cached_property
    def ranked(self) -> list[str]:
        """The optimizers, the best mean first, those without a finished run last."""
        return sorted(
            self.values,
            key=lambda o: -self.sign * fmean(v.values()) if (v := self.values[o]) else math.inf,
        )

    @cached_property
    def noise(self) -> float | None:
        """The standard deviation over seeds that is typical of the field; None without one."""
        return median(self._spreads.values()) if self._spreads else None

    @cached_property
    def wild(self) -> frozenset[str]:
        """Those with a run that went quite another way, so that they scatter ten times as widely.

        Such noise is not of the kind that the others have, and so tells nothing of theirs.
        """
        much = _WILD * (self.noise or math.inf)
        return frozenset(o for o, s in self._spreads.items() if s > much)

    @cached_property
    def _spreads(self) -> Mapping[str, float]:
        return {o: stdev(v.values()) for o, v in self.values.items() if len(v) > 1}

    @cached_property
    def _contest(self) -> stats.Contest:
        """The comparison of `_compared` with one another."""
        seeds = sorted({s for v in self.values.values() for s in v})
        of = (self.values[o] for o in self._compared)
        return stats.compare([[self.sign * v.get(s, math.nan) for s in seeds] for v in of])

    @cached_property
    def _compared(self) -> Sequence[str]:
        apart = self.wild if self.ranked[0] not in self.wild else ()
        return [o for o in self.values if o not in apart]

    def differences(self, optimizer: str) -> list[float]:
        """How much worse an optimizer is than the leader, on each seed that both finished."""
        leader, own = self.values[self.ranked[0]], self.values[optimizer]
        return [self.sign * (leader[s] - own[s]) for s in sorted(leader.keys() & own.keys())]

    def beside_leader(self, optimizer: str) -> Beside:
        """An optimizer that finished a run beside the leader."""
        seen, first = self.differences(optimizer), self.ranked[0]
        if optimizer == first:
            return Beside(0.0, None, None, ties=True)
        if len(seen) < _FEWEST:
            return Beside(fmean(seen) if seen else None, None, None, ties=False)
        if optimizer not in self._compared:
            return self._beside_by_itself(seen)
        at = self._compared.index(first), self._compared.index(optimizer)
        found = self._contest
        low, high = float(found.low[at]), float(found.high[at])
        difference = float(found.differences[at])
        if math.isnan(low):
            # There is no noise at all, as where two optimizers are the same in all but name.
            return Beside(difference, difference, difference, ties=difference == 0)
        return Beside(difference, low, high, ties=not found.differs[at])

    def _beside_by_itself(self, seen: Sequence[float]) -> Beside:
        """By its own noise alone, at a level that makes up for the number of pairs."""
        count = sum(bool(v) for v in self.values.values())
        found = stats.paired(seen, 1 - 0.05 / (count * (count - 1) / 2))
        assert found.low is not None
        assert found.high is not None
        return Beside(found.mean, found.low, found.high, ties=False)


def judge(study: Study, task: str) -> Judging:
    """Take what the chosen configurations came to on fresh seeds.

    The metric is that on the test data. Where the task has none, it is that on the validation
    data, by which the configurations were chosen too.
    """
    finished = {
        o: [r for r in study.judging(task, o) if r.status == "finished"]
        for o in study.plan.optimizers
    }
    facts = study.tasks[task]
    last = [r.epochs[-1] for results in finished.values() for r in results]
    tested = facts.has_test and any(e.test is not None for e in last)
    values = {o: _values(results, tested) for o, results in finished.items()}
    return Judging("test" if tested else "validation", facts.sign, values)


def _values(results: Sequence[Result], tested: bool) -> dict[int, float]:
    last = {r.run.seed: r.epochs[-1] for r in results}
    metrics = {s: e.test if tested else e.metric for s, e in last.items()}
    return {s: m for s, m in metrics.items() if m is not None and math.isfinite(m)}
