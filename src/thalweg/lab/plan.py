"""What a comparison is to run: every run is written down before the first one starts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

from thalweg.errors import UsageError, unknown
from thalweg.lab.contestant import Contestant, contestants
from thalweg.rules import Rule

__all__ = ["Order", "Plan", "Run", "TaskPlan"]


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        task: the spec of one of the plan's tasks.
        optimizer: the name of one of its contestants.
        trial: which of the contestant's configurations; 0 is its documented defaults.
        seed: of the initial weights and of the batches, the same for all optimizers.
    """

    task: str
    optimizer: str
    trial: int
    seed: int


@dataclass(frozen=True)
class Order:
    """A run with everything that a worker process needs to carry it out.

    Attributes:
        run: which.
        rule: what it trains with, settings included.
        convention: whose reading of the rule is followed.
        schedule: of the learning rate, in words; None: it stays as it is.
        extra: settings of the configuration that the rule does not have: its schedule and decay.
        epochs: passes over the training data.
        batch_size: samples per step, or `"full"`.
        reshuffle: whether each epoch has an order of its own.
        test: whether the metric is taken on the test data in the end.
    """

    run: Run
    rule: Rule
    convention: str
    schedule: str | None
    extra: Mapping[str, str]
    epochs: int
    batch_size: int | Literal["full"]
    reshuffle: bool
    test: bool


@dataclass(frozen=True)
class TaskPlan:
    """A task as the comparison trains it.

    Attributes:
        spec: the name of a built-in task, or `path.py:name` of one's own, or, if it was given as an
            object, its own name.
        epochs: passes over the training data.
        batch_size: samples per step, or `"full"`.
        target: the value of the metric whose reaching is timed; None: the report sets one.
        given: whether the task was given as an object, which no file can bring back.
    """

    spec: str
    epochs: int
    batch_size: int | Literal["full"]
    target: float | None = None
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that decides the results of a comparison.

    Attributes:
        tasks: what is trained.
        contestants: the optimizers, each with all of its configurations.
        convention: whose reading of the rules is followed.
        trials: how many configurations each optimizer may try; 1: the documented defaults only.
        seeds: on which the best configuration of each is judged.
        tuning_seed: on which the trials run; none of `seeds`, if there are several trials.
        lr: the learning rate of every optimizer that is not given one of its own, instead of a
            search; None: each its own.
        reshuffle: whether each epoch has an order of its own.
        schedule: of the learning rate of every optimizer that does not say its own, in words.
        decay: how weights decay, likewise.
        rules: those contestants' rules that were given as objects and cannot be put in words.
    """

    tasks: tuple[TaskPlan, ...]
    contestants: tuple[Contestant, ...]
    convention: str
    trials: int
    seeds: tuple[int, ...]
    tuning_seed: int = 0
    lr: float | None = None
    reshuffle: bool = True
    schedule: str | None = None
    decay: str | None = None
    rules: Mapping[str, Rule] = field(default_factory=dict[str, Rule], compare=False, repr=False)

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The contestants' names."""
        return tuple(self._contestants)

    @cached_property
    def _contestants(self) -> Mapping[str, Contestant]:
        return {c.name: c for c in self.contestants}

    @cached_property
    def _tasks(self) -> Mapping[str, TaskPlan]:
        return {t.spec: t for t in self.tasks}

    def task(self, spec: str) -> TaskPlan:
        """The task of this spec."""
        return self._tasks[spec]

    def contestant(self, name: str) -> Contestant:
        """The contestant of this name.

        Raises:
            UsageError: there is none.
        """
        if name not in self._contestants:
            raise unknown("optimizer of the study", name, self._contestants)
        return self._contestants[name]

    def trials_of(self, optimizer: str) -> int:
        """How many configurations an optimizer has; 1 where there is nothing to be searched."""
        return len(self.contestant(optimizer).configurations)

    def tuning(self, task: str, optimizer: str) -> list[Run]:
        """The runs by which an optimizer's configuration is chosen; none if it has but one."""
        count = self.trials_of(optimizer)
        return [Run(task, optimizer, i, self.tuning_seed) for i in range(count)] * (count > 1)

    def judging(self, task: str, optimizer: str, trial: int) -> list[Run]:
        """The runs on fresh seeds by which a configuration is judged."""
        return [Run(task, optimizer, trial, seed) for seed in self.seeds]

    @property
    def size(self) -> int:
        """How many runs there will be, if each optimizer has a trial that finishes."""
        tuning = sum(n for c in self.contestants if (n := len(c.configurations)) > 1)
        return len(self.tasks) * (tuning + len(self.contestants) * len(self.seeds))

    def order(self, run: Run) -> Order:
        """All that is needed to carry out a run.

        Raises:
            UsageError: its optimizer is not known, or a setting is out of range.
        """
        task, contestant = self.task(run.task), self.contestant(run.optimizer)
        rule, extra = contestant.configured(run.trial, self.rules.get(run.optimizer))
        # Noise that was the same in every run would not be averaged out over the seeds.
        noise = {n: run.seed for n in rule.hypers if n.endswith("seed") and n not in rule.given}
        return Order(
            run=run,
            rule=rule(**noise),
            convention=self.convention,
            schedule=extra.get("schedule"),
            extra=extra,
            epochs=task.epochs,
            batch_size=task.batch_size,
            reshuffle=self.reshuffle,
            test=run.seed in self.seeds,
        )

    def check(self) -> None:
        """See that every run can be begun.

        Raises:
            UsageError: an optimizer or setting is not known or out of range.
        """
        for contestant in self.contestants:
            for trial in range(len(contestant.configurations)):
                rule, _ = contestant.configured(trial, self.rules.get(contestant.name))
                rule.settings(self.convention)

    def extended(
        self,
        optimizers: Sequence[str | Rule] = (),
        *,
        trials: int | None = None,
        seeds: int | None = None,
    ) -> "Plan":
        """The plan with more optimizers, trials or seeds: all runs of this one are in it.

        Args:
            optimizers: those to be added; one that is there already changes nothing.
            trials: how many each optimizer may try from now on.
            seeds: how many each is judged on from now on.

        Raises:
            UsageError: there would be fewer trials or seeds, or an optimizer cannot be used.
        """
        for name, new, old in (("trials", trials, self.trials), ("seeds", seeds, len(self.seeds))):
            if new is not None and new < old:
                raise UsageError(
                    f"{name} is {new}, but the study has {old} already: a study can only be "
                    f"extended, so give {old} or more."
                )
        count = trials or self.trials
        added, rules = contestants(
            optimizers, count, lr=self.lr, schedule=self.schedule, decay=self.decay
        )
        new = {c.name: c for c in added if c.name not in self._contestants}
        first = max((*self.seeds, self.tuning_seed)) + 1
        more = range(first, first + (seeds or 0) - len(self.seeds))
        return replace(
            self,
            contestants=(*(c.extended(count) for c in self.contestants), *new.values()),
            trials=count,
            seeds=(*self.seeds, *more),
            rules={**self.rules, **rules},
        )

    def check_extends(self, old: "Plan", *, force: bool = False) -> None:
        """See that every run of an old plan is one of this plan too, and means the same in it.

        Args:
            old: the plan that this one is to replace.
            force: do not look at the code of rules that were given as objects.

        Raises:
            UsageError: something other than the numbers of optimizers, trials and seeds differs, or
                one of these has become smaller.
        """
        # As they come back from a file, where lists and tuples are the same.
        new, old = Plan.from_json(self.to_json()), Plan.from_json(old.to_json())
        names = ("tasks", "convention", "tuning_seed", "lr", "reshuffle", "schedule", "decay")
        found = [
            f"{name} was {was}, is {now}"
            for name in names
            if (was := getattr(old, name)) != (now := getattr(new, name))
        ]
        if missing := set(old.optimizers) - set(new.optimizers):
            found.append(f"optimizers {', '.join(sorted(missing))} are missing")
        if missing := set(old.seeds) - set(new.seeds):
            found.append(f"seeds {', '.join(map(str, sorted(missing)))} are missing")
        if new.tuning_seed in new.seeds and new.trials > 1:
            found.append(f"seed {new.tuning_seed} is that of the trials, and cannot judge them")
        for was in old.contestants:
            if was.name in new.optimizers:
                now, count = new.contestant(was.name), len(was.configurations)
                found += [
                    f"{name} of {was.name} is not what it was"
                    for name in ("rule", "space", *(["code"] * (not force)))
                    if getattr(was, name) != getattr(now, name)
                ]
                if now.configurations[:count] != was.configurations:
                    found.append(f"trials of {was.name} are missing or not what they were")
        if found:
            raise UsageError(
                f"the plan is not an extension of the one that is stored: {'; '.join(found)}. Only "
                "optimizers, trials and seeds can be added: begin another study with --out."
            )

    def to_json(self) -> str:
        """The plan as text."""
        values = asdict(self, dict_factory=_without_rules)
        return json.dumps(values | {"contestants": [c.data() for c in self.contestants]})

    @staticmethod
    def from_json(text: str, rules: Mapping[str, Rule] | None = None) -> "Plan":
        """The plan that `to_json` wrote.

        Args:
            text: what it returned.
            rules: as the attribute of that name.
        """
        values: dict[str, Any] = json.loads(text)
        values["tasks"] = tuple(TaskPlan(**t) for t in values["tasks"])
        values["contestants"] = tuple(Contestant.from_data(c) for c in values["contestants"])
        values["seeds"] = tuple(values["seeds"])
        return Plan(**values, rules=rules or {})

    @property
    def hash(self) -> str:
        """The start of the SHA-256 of the plan's text, by which two reports' plans compare."""
        return sha256(self.to_json().encode()).hexdigest()[:16]


def _without_rules(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {k: v for k, v in pairs if k not in ("rules", "contestants")}
