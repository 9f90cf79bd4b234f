"""What a comparison is to run: every run is written down before the first one starts."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from thalweg.rules import Rule
from thalweg.rules.spelling import parsed

__all__ = ["Plan", "Run"]


@dataclass(frozen=True)
class Run:
    """One training run: an optimizer, as it is written on the command line, and a seed."""

    optimizer: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """Everything that decides the results of a comparison.

    Attributes:
        task: the name of a built-in task, or `path.py:name` of one's own.
        optimizers: each as `thalweg.rules.spelling.parsed` reads it.
        convention: whose reading of the rules is followed.
        lr: the learning rate of every optimizer that is not given one of its own; None: each
            rule's default.
        epochs: passes over the training data.
        batch_size: samples per step, or `"full"`.
        reshuffle: whether each epoch has an order of its own.
        seeds: one run of each optimizer for each.
        target: the value of the metric whose reaching is timed; None: the median over the
            optimizers of what they end with.
    """

    task: str
    optimizers: tuple[str, ...]
    convention: str
    lr: float | None
    epochs: int
    batch_size: int | Literal["full"]
    seeds: tuple[int, ...]
    target: float | None
    reshuffle: bool = True

    def runs(self) -> Iterator[Run]:
        """Every run, those of one seed together."""
        for seed in self.seeds:
            for optimizer in self.optimizers:
                yield Run(optimizer, seed)

    def rule(self, run: Run) -> Rule:
        """The rule that a run trains with.

        Raises:
            UsageError: it is not known, or a setting is out of range.
        """
        rule = parsed(run.optimizer)
        if self.lr is not None and "lr" not in rule.given:
            rule = rule(lr=self.lr)
        # Noise that was the same in every run would not be averaged out over the seeds.
        noise = {n: run.seed for n in rule.hypers if n.endswith("seed") and n not in rule.given}
        return rule(**noise)

    def check(self) -> None:
        """See that every run can be begun.

        Raises:
            UsageError: an optimizer or setting is not known or out of range.
        """
        for run in self.runs():
            self.rule(run).settings(self.convention)

    def to_json(self) -> str:
        """The plan as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The plan that `to_json` wrote."""
        values = json.loads(text)
        for name in ("optimizers", "seeds"):
            values[name] = tuple(values[name])
        return Plan(**values)
