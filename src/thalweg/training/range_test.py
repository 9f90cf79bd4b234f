"""The learning rate range test: how the loss takes to learning rates, from far too low to too high.

L. N. Smith 2015, arXiv:1506.01186, section 3.3; with the exponential rise and the end of fast.ai's
`lr_find`. Its average keeps 0.98 of itself in each step, which in 100 steps lags behind by so much
that it hides what a slow learner has learned; here it keeps 0.95.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.errors import UsageError
from thalweg.schedules import exponential
from thalweg.tasks.task import Data, Task
from thalweg.training.borrowing import borrowed
from thalweg.training.gradients import Gradients
from thalweg.training.lr_curve import RangeTest, read
from thalweg.training.phases import Phase
from thalweg.training.randomness import same_randomness
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run, usable

__all__ = ["lr_find", "lr_range_test"]

_TOO_LARGE = 4.0
"""Of its best value, at which the smoothed loss counts as diverged."""


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any, Any], Tensor],
    batches: Iterable[tuple[Any, Any]],
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.95,
) -> RangeTest:
    """Train with a learning rate that rises exponentially, look at the loss, and undo all of it.

    The model and the optimizer are left bitwise as they were, and so are the random states of
    Python, NumPy and torch; also where an error or Ctrl-C ends the test. What hooks do, and where
    `batches` stand afterwards, is not undone.

    Args:
        model: is called with a batch's inputs.
        optimizer: goes on from the state it is in. Parameter groups keep their ratios to the
            highest learning rate among them, which is the one that rises.
        loss: from the model's outputs and a batch's targets to the mean loss.
        batches: pairs of inputs and targets; they begin anew where they end before the steps do.
        start: learning rate of the first step.
        end: of the last step, unless the loss diverges: its moving average exceeds four times its
            best.
        steps: how many at most; from 10.
        smoothing: how much the moving average of the loss keeps of itself in each step.

    Raises:
        UsageError: a value is out of range; nothing is trained, or not by a learning rate; the
            batches cannot be used; the first loss is not finite.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("model has no parameter that is trained: there is nothing to test.")

    def loss_of(inputs: Any, targets: Any) -> Tensor:
        return loss(model(inputs), targets)

    return _tested(
        [model, *([loss] if isinstance(loss, nn.Module) else [])],
        optimizer,
        loss_of,
        batches,
        _rising(start, end, steps),
        smoothing,
    )


def lr_find(
    task: Task,
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.95,
    batch_size: int | None = None,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] | None = None,
    data: Data | None = None,
    device: str | None = None,
) -> RangeTest:
    """The learning rate range test on a new model of a task; see `lr_range_test`.

    Args:
        task: what to train.
        optimizer: makes the optimizer of a model's parameters, such as a class of `thalweg`.
        start, end, steps, smoothing: as in `lr_range_test`.
        batch_size: samples per step; the task's own number unless given.
        seed, precision, data, device: as in `thalweg.train`.

    Raises:
        UsageError: as in `lr_range_test`.
    """
    lrs = _rising(start, end, steps)
    recipe = Recipe(
        batch_size=task.batch_size if batch_size is None else batch_size,
        seed=seed,
        precision=precision or task.precision,
    )
    data = data or task.data()
    with same_randomness():
        run = Run(task, optimizer, [Phase(task.epochs)], recipe, data, usable(device))
        gradients = Gradients(run)

        def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
            if task.augment is not None:
                inputs, targets = task.augment(inputs, targets, run.augmenting)
            return gradients.loss_of(inputs, targets)

        return _tested([run.model], run.optimizer, loss_of, run.batches(), lrs, smoothing)


def _rising(start: float, end: float, steps: int) -> list[float]:
    """The learning rate of each step."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 10:  # pyright: ignore
        raise UsageError(f"steps is {steps!r}, but must be a whole number from 10.")
    for name, value in (("start", start), ("end", end)):
        if not 0 < value < math.inf:
            raise UsageError(f"{name} is {value!r}, but must be a finite learning rate above 0.")
    if end <= start:
        raise UsageError(
            f"end is {end!r} and start is {start!r}, but the learning rate must rise: swap them, "
            "or raise end."
        )
    lr = exponential(start, (end / start) ** (1 / (steps - 1)))
    return [lr(step) for step in range(steps)]


def _tested(
    modules: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Any, Any], Tensor],
    batches: Iterable[tuple[Any, Any]],
    lrs: Sequence[float],
    smoothing: float,
) -> RangeTest:
    if not 0 <= smoothing < 1:
        raise UsageError(f"smoothing is {smoothing!r}, but must be in [0, 1).")
    groups = _shares(optimizer)
    trained = [p for group, _ in groups for p in group["params"]]
    if not {id(p) for m in modules for p in m.parameters()} & {id(p) for p in trained}:
        raise UsageError(
            "optimizer has none of the model's parameters: make it with this model.parameters()."
        )
    losses: list[float] = []
    smoothed: list[float] = []
    average, diverged = 0.0, False
    with borrowed(modules, optimizer) as check:
        for module in modules:
            # Parts that the user keeps in evaluation mode inside a model in training stay so.
            if not module.training:
                module.train()
        for group, _ in groups:
            if "schedules" in group:
                kept = {n: s for n, s in group["schedules"].items() if n != "lr"}
                group["schedules"] = kept
        for lr, batch in zip(lrs, _endless(batches, len(lrs)), strict=False):
            for group, share in groups:
                group["lr"] = lr * share
            loss = _step(optimizer, trained, loss_of, batch)
            check()
            if not math.isfinite(loss):
                if not losses:
                    raise UsageError(
                        f"the loss of the first batch is {loss}, before any step was taken: look "
                        "at the model's outputs for it, and at the batch."
                    )
                diverged = True
                break
            losses.append(loss)
            average = smoothing * average + (1 - smoothing) * loss
            smoothed.append(average / (1 - smoothing ** len(losses)))
            best = min(smoothed)
            # A loss may be negative, and its best too.
            if smoothed[-1] > best + (_TOO_LARGE - 1) * abs(best):
                diverged = True
                break
    return read(lrs[: len(losses)], losses, smoothed, diverged=diverged)


def _shares(optimizer: torch.optim.Optimizer) -> list[tuple[dict[str, Any], float]]:
    """The groups, each with its part of the highest learning rate among them."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        if "lr" not in group:
            raise UsageError(f"{type(optimizer).__name__} has no setting lr that could be tested.")
        if group.keys() & {"step_sizes", "delta_min"}:
            raise UsageError(
                f"{type(optimizer).__name__} reads lr in its first step only, and then finds the "
                "size of its steps by itself: there is nothing to test."
            )
    highest = max(float(group["lr"]) for group in groups)
    return [(group, float(group["lr"]) / highest if highest > 0 else 1.0) for group in groups]


def _endless(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """The batches, again from the first one after the last."""
    taken, before = 0, -1
    while taken > before:
        before = taken
        for batch in batches:
            yield batch
            taken += 1
    raise UsageError(
        f"batches ended after {taken} of {steps} steps and cannot begin anew: pass a list, a "
        "DataLoader, or anything else that holds batches and can be iterated more than once."
    )


def _step(
    optimizer: torch.optim.Optimizer,
    trained: Sequence[nn.Parameter],
    loss_of: Callable[[Any, Any], Tensor],
    batch: Any,
) -> float:
    """Take a step, and return the loss before it."""
    try:
        inputs, targets = batch
    except (TypeError, ValueError):
        raise UsageError(
            f"batches has one of the type {type(batch).__name__}, but each must be a pair of "
            "inputs and targets."
        ) from None
    losses: list[Tensor] = []

    def closure() -> Tensor:
        for p in trained:
            p.grad = None
        loss = loss_of(inputs, targets)
        loss.backward()
        losses.append(loss.detach())
        return loss

    optimizer.step(closure)  # pyright: ignore
    return float(losses[0])
