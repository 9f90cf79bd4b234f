"""The loss of a batch and its gradients, as an optimizer asks for them."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from thalweg.tasks.evaluation import casting
from thalweg.training.nonfinite import NonfiniteError, first_gradient
from thalweg.training.run import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Gradients"]


class Gradients:
    """The closure that an optimizer's step takes: leaves each parameter its gradient.

    Attributes:
        inputs, targets: the samples of this step.
        loss: their mean loss at the weights before the step; None before it is known.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._task, self._model, self._parameters = run.task, run.model, run.parameters
        self._size = run.recipe.batch_size
        self._clip_norm = run.recipe.clip_norm
        self._all_finite = run.recipe.nonfinite != "stop"
        # A step that is left out must leave no trace in running statistics either.
        self._buffers = list(run.model.buffers()) if self._all_finite else []
        self._lowered = casting(run.recipe.precision, run.device)
        self._backward = _backward(run.device)
        self.inputs, self.targets = run.x, run.y
        self.loss: float | None = None

    def of(self, inputs: "Tensor", targets: "Tensor") -> "Gradients":
        """The closure for these samples."""
        self.inputs, self.targets, self.loss = inputs, targets, None
        return self

    def __call__(self) -> "Tensor":
        # What zero_grad does, without its bookkeeping.
        for p in self._parameters:
            p.grad = None
        before = [buffer.clone() for buffer in self._buffers]
        samples = self.targets.shape[0]
        if samples <= self._size:
            loss = self.loss_of(self.inputs, self.targets)
            self._backward(loss)
        else:
            parts = zip(self.inputs.split(self._size), self.targets.split(self._size), strict=True)
            losses = [self._added(x, y, len(y) / samples) for x, y in parts]
            loss = sum(losses[1:], losses[0])
        # An optimizer may evaluate more than once; the first time is at the weights as they were.
        if self.loss is None:
            self.loss = float(loss.item())
        if not math.isfinite(self.loss) or (self._all_finite and first_gradient(self._run.names)):
            for buffer, old in zip(self._buffers, before, strict=True):
                buffer.copy_(old)
            raise NonfiniteError
        if self._clip_norm is not None:
            from torch.nn.utils import clip_grad_norm_

            clip_grad_norm_(self._parameters, self._clip_norm)
        return loss

    def loss_of(self, inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """The mean loss of samples, in the recipe's precision."""
        if self._lowered is None:
            return self._task.loss(self._model(inputs), targets)
        with self._lowered:
            outputs = self._model(inputs)
        return self._task.loss(outputs.float(), targets)

    def _added(self, inputs: "Tensor", targets: "Tensor", share: float) -> "Tensor":
        """The share of a batch in the loss, with its gradients added to those that are there."""
        loss = self.loss_of(inputs, targets) * share
        self._backward(loss)
        return loss


def _backward(device: "torch.device") -> "Callable[[Tensor], None]":
    """What does `loss.backward()`.

    torch's own hands Python's context on to each operation, for the threads of other devices. On
    the processor there are none, and it takes a tenth of the step of a small network.
    """
    import torch

    engine = getattr(torch.autograd.Variable, "_execution_engine", None)
    if engine is None or device.type != "cpu":
        return torch.Tensor.backward
    # It is converted to the type of the loss where that has another.
    one = torch.ones((), dtype=torch.float32, device=device)

    def backward(loss: "Tensor") -> None:
        nonlocal one
        plain = type(loss) is torch.Tensor and loss.is_cpu
        if not plain or loss.dim() or not loss.is_floating_point():
            loss.backward()
            return
        if one._version:  # pyright: ignore[reportPrivateUsage]
            # A loss of the user's own may have changed it in place.
            one = torch.ones_like(one)
        engine.run_backward(
            (loss,), (one,), False, False, (), allow_unreachable=True, accumulate_grad=True
        )

    return backward
