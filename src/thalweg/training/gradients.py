"""The loss of a batch and its gradients, as an optimizer asks for them."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

from thalweg.tasks.evaluation import casting
from thalweg.training.nonfinite import NonfiniteError, first_gradient
from thalweg.training.run import Run

if TYPE_CHECKING:
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
        self._cast = self._lowered or nullcontext()
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
        if len(self.targets) <= self._size:
            loss = self._added(self.inputs, self.targets, 1.0)
        else:
            parts = zip(self.inputs.split(self._size), self.targets.split(self._size), strict=True)
            losses = [self._added(x, y, len(y) / len(self.targets)) for x, y in parts]
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
        with self._cast:
            outputs = self._model(inputs)
        return self._task.loss(outputs if self._lowered is None else outputs.float(), targets)

    def _added(self, inputs: "Tensor", targets: "Tensor", share: float) -> "Tensor":
        """The loss of a batch, whose gradients are added to those that are there."""
        loss = self.loss_of(inputs, targets)
        if share != 1:
            loss = loss * share
        loss.backward()
        return loss
