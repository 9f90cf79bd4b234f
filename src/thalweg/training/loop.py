"""One training loop for batch, stochastic and mini-batch descent."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from thalweg.errors import UsageError
from thalweg.tasks.task import Data, Task
from thalweg.training.records import Record

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["DivergenceError", "train"]


class DivergenceError(ArithmeticError):
    """The loss or the metric is no longer a finite number."""


def train(
    task: Task,
    optimizer: "Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]",
    *,
    epochs: int | None = None,
    batch_size: int | Literal["full"] | None = None,
    seed: int = 0,
    reshuffle: bool = True,
    data: Data | None = None,
) -> Iterator[Record]:
    """Train a new model of the task and report after every epoch.

    Args:
        task: what to train.
        optimizer: makes the optimizer of a model's parameters, such as a class of `thalweg`.
        epochs: passes over the training data; the task's own number unless given.
        batch_size: samples per step: all ("full", batch descent), 1 (stochastic) or some
            (mini-batch); the task's own number unless given.
        seed: decides the initial weights and the order of the batches, which thus are the same
            for every optimizer.
        reshuffle: whether each epoch has an order of its own. Keras, once its seed is set, repeats
            the first epoch's; that lowers the training loss a little and the accuracy too.
        data: the task's data, where they are loaded already.

    Raises:
        DivergenceError: a loss or the metric is NaN or infinite; found at the end of an epoch.
        UsageError: a number of epochs or samples below 1.
    """
    import torch

    epochs = task.epochs if epochs is None else epochs
    x, y = (data := data or task.data()).train
    size = task.batch_size if batch_size is None else batch_size
    size = len(x) if size == "full" else size
    for name, value in (("epochs", epochs), ("batch_size", size)):
        if not isinstance(value, int) or value < 1:  # pyright: ignore
            also = ' or "full"' if name == "batch_size" else ""
            raise UsageError(f"{name} is {value!r}, but must be a whole number from 1{also}.")
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model = task.model()
    parameters = list(model.parameters())
    descent = optimizer(parameters)
    inputs, targets = x, y
    losses: list[Tensor] = []
    taken = 0

    def closure() -> "Tensor":
        # What zero_grad does, without its bookkeeping.
        for p in parameters:
            p.grad = None
        loss = task.loss(model(inputs), targets)
        loss.backward()
        # An optimizer may evaluate more than once; the first time is at the weights as they were.
        if len(losses) < taken:
            losses.append(loss.detach().reshape(()))
        return loss

    seconds, steps = 0.0, 0
    shuffled = torch.arange(len(x))
    for epoch in range(1, epochs + 1):
        model.train()
        losses.clear()
        started = perf_counter()
        if reshuffle or epoch == 1:
            shuffled = torch.randperm(len(x), generator=order)
        batches = enumerate(_batches(x, y, shuffled, size), 1)
        for taken, (inputs, targets) in batches:  # noqa: B007  (the closure reads them)
            descent.step(closure)  # pyright: ignore
        seconds += perf_counter() - started
        history = torch.stack(losses).double()
        if not history.isfinite().all():
            first = steps + int(history.isfinite().logical_not().nonzero()[0]) + 1
            raise DivergenceError(
                f"the training loss was {history[first - steps - 1]:g} at step {first}"
            )
        steps += len(losses)
        weights = torch.full_like(history, size)
        weights[-1] = len(targets)
        validation_loss, metric = evaluate(task, model, data.validation)
        if not math.isfinite(metric):
            raise DivergenceError(
                f"the metric ({task.metric_name}) was {metric:g} after epoch {epoch}"
            )
        train_loss = float(history @ weights / weights.sum())
        yield Record(epoch, steps, train_loss, validation_loss, metric, seconds)


def _batches(
    x: "Tensor", y: "Tensor", order: "Tensor", size: int
) -> "Iterator[tuple[Tensor, Tensor]]":
    """The samples in this order, `size` at a time."""
    # Rows of many small batches are gathered at once: that is one call instead of many.
    for rows in order.split(size * max(1, 2048 // size)):
        yield from zip(
            x.index_select(0, rows).split(size), y.index_select(0, rows).split(size), strict=True
        )


def evaluate(task: Task, model: "nn.Module", pair: "tuple[Tensor, Tensor]") -> tuple[float, float]:
    """The loss and the metric of a model on a pair of inputs and targets."""
    import torch

    model.eval()
    x, y = pair
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in x.split(1024)])
        return float(task.loss(outputs, y)), float(task.metric(outputs, y))
