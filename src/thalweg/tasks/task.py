"""What a task is: data, a model, a loss and a metric."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from thalweg.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Data", "Task"]


@dataclass(frozen=True)
class Data:
    """The data of a task, in memory: pairs of inputs and targets, one row per sample.

    Attributes:
        train: what the model is trained on.
        validation: what optimizers are compared on.
        test: what is kept for a last look, if there is any.

    Raises:
        UsageError: a pair's inputs and targets differ in length, or it is empty.
    """

    train: "tuple[Tensor, Tensor]"
    validation: "tuple[Tensor, Tensor]"
    test: "tuple[Tensor, Tensor] | None" = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            pair = getattr(self, name)
            if pair is not None and not 0 < len(pair[0]) == len(pair[1]):
                raise UsageError(
                    f"{name} has {len(pair[0])} inputs and {len(pair[1])} targets, but must have "
                    "as many of one as of the other, and at least one."
                )


@dataclass(frozen=True)
class Task:
    """Something to train. The built-in tasks are written in just this way.

    Attributes:
        name: what it is called in reports.
        data: returns the data; called once in each process.
        model: returns a new model; called with torch's random generator seeded, so that a seed
            gives the same initial weights to every optimizer.
        loss: from the model's outputs for a batch and the batch's targets to the mean loss.
        metric: from the outputs for all of the validation data and its targets to one number.
        metric_name: what that number is called.
        higher_is_better: whether more of it is better.
        epochs: passes over the training data, unless another number is asked for.
        batch_size: samples in a batch, likewise.
        target: the value of the metric whose reaching is timed, likewise.
        about: one line on data and model.
        augment: from a training batch's inputs and targets, and the generator that all randomness
            is to come from, to what is trained on.
        views: test-time augmentation: versions of the inputs whose outputs are averaged.
        layers: the model's parameters in layer groups, by name, from the input to the output; its
            children that have parameters unless given.
        precision: of the model's operations in training and evaluation: "bfloat16" by autocast,
            where the processor has it.
    """

    name: str
    data: Callable[[], Data]
    model: "Callable[[], nn.Module]"
    loss: "Callable[[Tensor, Tensor], Tensor]"
    metric: "Callable[[Tensor, Tensor], Tensor | float]"
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    epochs: int = 10
    batch_size: int = 32
    target: float | None = None
    about: str = ""
    augment: "Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None" = None
    views: "Callable[[Tensor], Iterable[Tensor]] | None" = None
    layers: "Callable[[nn.Module], Mapping[str, Iterable[nn.Parameter]]] | None" = None
    precision: Literal["float32", "bfloat16"] = "float32"
