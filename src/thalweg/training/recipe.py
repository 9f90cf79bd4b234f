"""What decides a run's result, beside the task, the optimizer and the phases."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal

from thalweg.errors import UsageError, unknown

__all__ = ["NONFINITE", "PRECISIONS", "RECIPE", "Recipe"]

NONFINITE = ("stop", "skip", "shrink")
"""What is done when the loss or a gradient is not finite."""

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a run is carried out.

    Attributes:
        batch_size: samples that pass through the model at once.
        accumulate: batches whose gradients are averaged for one step.
        seed: of the initial weights, the order of the batches, and all else that is drawn.
        reshuffle: whether each epoch has an order of its own.
        clip_norm: to which Euclidean norm the gradients together are scaled down; None: not at all.
        precision: that of the model's operations: `"bfloat16"` where the processor has it, by
            autocast; weights, loss and optimizer stay as they are.
        ema: how much an exponential moving average of the weights keeps of itself in each step;
            None: there is none. Evaluated is the average.
        swa: the epoch after which the weights at the end of each epoch are averaged (Izmailov et
            al. 2018, arXiv:1803.05407, Algorithm 1); None: they are not. Evaluated is the average.
        evaluate_every: epochs between two evaluations.
        test: whether the last record tells the metric on the test data.
        tta: whether it does so with test-time augmentation too.
        nonfinite: what is done when the loss or a gradient is NaN or infinite: `"stop"`; `"skip"`
            the step; or `"shrink"`, which also halves the learning rate from then on.

    Raises:
        UsageError: a value is out of range.
    """

    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    reshuffle: bool = True
    clip_norm: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    ema: float | None = None
    swa: float | None = None
    evaluate_every: float = 1.0
    test: bool = False
    tta: bool = False
    nonfinite: Literal["stop", "skip", "shrink"] = "stop"

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "seed"):
            value = getattr(self, name)
            if type(value) is not bool and isinstance(value, Integral):
                # NumPy's, for one, could not be written down.
                object.__setattr__(self, name, int(value))
        _check("batch_size", self.batch_size, lambda x: x >= 1, 'a whole number from 1 or "full"')
        _check("accumulate", self.accumulate, lambda x: x >= 1, "a whole number from 1")
        _check("seed", self.seed, lambda x: 0 <= x < 2**32, "a whole number from 0 to 2^32 - 1")
        for name, allowed in (("precision", PRECISIONS), ("nonfinite", NONFINITE)):
            if getattr(self, name) not in allowed:
                raise unknown(name, str(getattr(self, name)), allowed)
        for name, (fits, words) in _NUMBERS.items():
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), fits, words, int | float)
        if self.ema is not None and self.swa is not None:
            raise UsageError(
                f"ema is {self.ema!r} and swa is {self.swa!r}, but weights can be averaged in one "
                "way only: leave one of them out."
            )


RECIPE = tuple(f.name for f in fields(Recipe))
"""The names of a recipe's entries."""

_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "clip_norm": (lambda x: x > 0, "a number above 0"),
    "ema": (lambda x: 0 < x < 1, "a number between 0 and 1, such as 0.999"),
    "swa": (lambda x: x >= 0, "the number of an epoch, from 0"),
    "evaluate_every": (lambda x: x > 0, "a number of epochs above 0"),
}


def _check(name: str, value: Any, fits: Callable[[Any], bool], words: str, kind: Any = int) -> None:
    sound = isinstance(value, kind) and not isinstance(value, bool)
    if not sound or not math.isfinite(value) or not fits(value):
        raise UsageError(f"{name} is {value!r}, but must be {words}.")
