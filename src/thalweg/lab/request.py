"""What is asked of a comparison, and the plan that comes of it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from thalweg import tasks as built_in
from thalweg.errors import UsageError
from thalweg.lab.contestant import contestants
from thalweg.lab.plan import Plan, TaskPlan
from thalweg.lab.study import TaskFacts
from thalweg.rules import OPTIMIZERS, Rule
from thalweg.tasks import Task

__all__ = ["Request"]

_PER_TASK = ("epochs", "batch_size", "target")
_GROWING = ("optimizers", "trials", "seeds")


@dataclass(frozen=True)
class Request:
    """The arguments of `thalweg.compare` that decide what is run; None: not given.

    Raises:
        UsageError: one cannot be used.
    """

    tasks: str | Task | Sequence[str | Task] | None = None
    optimizers: str | Rule | Sequence[str | Rule] | None = None
    trials: int | None = None
    seeds: int | None = None
    epochs: int | Sequence[int] | None = None
    batch_size: int | Literal["full"] | None = None
    lr: float | None = None
    schedule: str | None = None
    decay: str | None = None
    convention: str | None = None
    target: float | None = None
    reshuffle: bool | None = None

    def __post_init__(self) -> None:
        for epochs in () if self.epochs is None else _several(self.epochs):
            whole_from_one("epochs", epochs)
        for name in ("trials", "seeds", "batch_size"):
            value = getattr(self, name)
            if value is not None and not (name == "batch_size" and value == "full"):
                whole_from_one(name, value)
        if self.target is not None and not math.isfinite(self.target):
            raise UsageError(f"target is {self.target}, but must be a finite number.")
        if self.target is not None and len(self.objects) > 1:
            raise UsageError(
                f"target is {self.target:g}, but each of the {len(self.objects)} tasks has a "
                "metric of its own: leave it out, or compare on one task."
            )

    def __str__(self) -> str:
        """The call in Python."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return f"thalweg.compare({', '.join(f'{n}={_shown(v)}' for n, v in given.items())})"

    @property
    def objects(self) -> dict[str, Task | None]:
        """The tasks by their specs, with those that were given as objects.

        Raises:
            UsageError: one is not known, or two have one name.
        """
        listed = _several("digits" if self.tasks is None else self.tasks)
        if not listed:
            raise UsageError("tasks is empty, but must name at least one.")
        found: dict[str, Task | None] = {}
        for task in listed:
            spec, given = (task, None) if isinstance(task, str) else (_name(task), task)
            if given is None:
                built_in.check(spec)
            if found.setdefault(spec, given) is not given:
                raise UsageError(f"two tasks are called {spec}: give one of them another name.")
        return found

    @property
    def listed(self) -> list[str | Rule]:
        """The optimizers one by one.

        Raises:
            UsageError: one is of a type that cannot be one.
        """
        found: list[str | Rule] = []
        for one in _several("all" if self.optimizers is None else self.optimizers):
            if isinstance(one, str):
                words = (w.strip().removeprefix("+") for w in one.split(","))
                found += [o for w in words for o in (OPTIMIZERS if w == "all" else [w])]
            elif isinstance(one, Rule):
                found.append(one)
            else:
                raise UsageError(
                    f"an optimizer is of the type {type(one).__name__}, but must be in words, such "
                    "as 'sgd:lr=0.1', or a rule, such as thalweg.sgd(0.1)."
                )
        if not found:
            raise UsageError("optimizers is empty, but must name at least one.")
        return found

    @property
    def epochs_of_each(self) -> list[int | None]:
        """The epochs of each task; None: its own number.

        Raises:
            UsageError: several were given, but not one for each task.
        """
        tasks = len(self.objects)
        each: list[int | None] = _several(self.epochs)
        if len(each) not in (1, tasks):
            raise UsageError(
                f"epochs is {self.epochs!r}, which is {len(each)} numbers for {tasks} "
                f"task{'s' * (tasks > 1)}: give one for all, or one for each."
            )
        return each if len(each) == tasks else each * tasks

    def plan(self) -> Plan:
        """A new plan, in which what a task decides itself is still open: see `settled`.

        Raises:
            UsageError: an optimizer cannot be used.
        """
        trials = self.trials or 1
        entries, rules = contestants(
            self.listed, trials, lr=self.lr, schedule=self.schedule, decay=self.decay
        )
        plan = Plan(
            tasks=tuple(
                TaskPlan(spec, epochs or 1, self.batch_size or 1, self.target, task is not None)
                for (spec, task), epochs in zip(
                    self.objects.items(), self.epochs_of_each, strict=True
                )
            ),
            contestants=entries,
            convention=self.convention or "paper",
            trials=trials,
            seeds=tuple(range(1, (self.seeds or 3) + 1)),
            lr=self.lr,
            reshuffle=self.reshuffle is not False,
            schedule=self.schedule,
            decay=self.decay,
            rules=rules,
        )
        plan.check()
        return plan

    def settled(self, plan: Plan, facts: dict[str, TaskFacts]) -> Plan:
        """The plan with what the tasks themselves say of whatever was not given."""
        own = {n: getattr(self, n) for n in _PER_TASK}
        settled: list[TaskPlan] = []
        for task, epochs in zip(plan.tasks, self.epochs_of_each, strict=True):
            there = facts[task.spec]
            given = {**own, "epochs": epochs}
            settled.append(
                replace(
                    task, **{n: getattr(there, n) if v is None else v for n, v in given.items()}
                )
            )
        return replace(plan, tasks=tuple(settled))

    def continued(self, plan: Plan, *, extend: bool, force: bool) -> Plan:
        """The plan to go on with, which holds all that a stored one does.

        Args:
            plan: what is stored.
            extend: whether there may be more optimizers, trials and seeds.
            force: whether the code of a rule of one's own may have changed.

        Raises:
            UsageError: something was given that does not agree with the stored plan, or an object
                is missing.
        """
        given = [name for name, value in vars(self).items() if value is not None]
        fixed = [name for name in given if not (extend and name in _GROWING)]
        changed = [name for name in fixed if not self._agrees(name, plan)]
        if changed:
            less = (
                "a study can only be extended by optimizers, trials or seeds"
                if extend
                else ("to have more optimizers, trials or seeds, extend it")
            )
            raise UsageError(
                f"{', '.join(changed)} cannot differ from what the study was planned with: leave "
                f"out what has changed, or start anew with another folder; {less}."
            )
        listed = [] if self.optimizers is None else self.listed
        larger = plan.extended(
            listed, trials=self.trials or plan.trials, seeds=self.seeds or len(plan.seeds)
        )
        edited = self.edited(plan)
        if edited and not force:
            raise UsageError(
                f"the code of {', '.join(edited)} has changed since the study began. Runs of both "
                "would be mixed: give the new rule another title, or go on nevertheless with "
                "force=True, which the report then tells."
            )
        objects = {} if self.tasks is None else self.objects
        for task in larger.tasks:
            if task.given and objects.get(task.spec) is None:
                raise UsageError(
                    f"the task {task.spec} was given as a Python object, which the study's file "
                    "does not hold: go on from Python, with thalweg.compare(task, ..., out=..., "
                    f"{'extend' if extend else 'resume'}=True)."
                )
        larger.check()
        return larger

    def edited(self, plan: Plan) -> list[str]:
        """Rules of one's own whose code is not what it was when they took part for the first time.

        Args:
            plan: what is stored.
        """
        if self.optimizers is None:
            return []
        given = contestants(self.listed, 1)[0]
        codes = {c.name: c.code for c in plan.contestants}
        return [c.name for c in given if codes.get(c.name, c.code) != c.code]

    def _agrees(self, name: str, plan: Plan) -> bool:
        value = getattr(self, name)
        match name:
            case "tasks":
                return {*self.objects} == {t.spec for t in plan.tasks}
            case "optimizers":
                return {c.name for c in contestants(self.listed, 1)[0]} == {*plan.optimizers}
            case "seeds":
                return value == len(plan.seeds)
            case "epochs":
                return self.epochs_of_each == [t.epochs for t in plan.tasks]
            case "batch_size" | "target":
                return all(getattr(t, name) == value for t in plan.tasks)
            case _:
                return value == getattr(plan, name)


def whole_from_one(name: str, value: Any) -> None:
    """See that a number of things is one.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        full = " or 'full'" if name == "batch_size" else ""
        raise UsageError(f"{name} is {value!r}, but must be a whole number from 1{full}.")
    if value < 1:
        raise UsageError(f"{name} is {value}, but must be at least 1.")


def _several(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]  # pyright: ignore


def _name(task: Any) -> str:
    if not isinstance(task, Task):
        raise UsageError(
            f"a task is of the type {type(task).__name__}, but must be a name "
            f"({', '.join(built_in.TASKS)}), path/to/file.py:name or a thalweg.Task."
        )
    return task.name


def _shown(value: Any) -> str:
    if isinstance(value, Task):
        return f"<task {value.name}>"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"  # pyright: ignore
    return repr(value)
