"""Averages of a model's weights over the steps of a run."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from thalweg.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Averages"]


class Averages:
    """The average that a recipe asks for: exponential (`ema`), or of epochs' ends (`swa`).

    Buffers, such as running statistics, are averaged like weights.
    """

    def __init__(self, model: "nn.Module", recipe: Recipe) -> None:
        from torch.optim import swa_utils

        self._model = model
        self._swa = recipe.swa
        decay = recipe.ema
        average = None if decay is None else swa_utils.get_ema_multi_avg_fn(decay)
        self._average = (
            swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            if (decay, recipe.swa) != (None, None)
            else None
        )
        self.each_step = decay is not None

    def after_step(self) -> None:
        """Take note of the weights after a step, if each step counts."""
        if self._average is not None and self.each_step:
            self._average.update_parameters(self._model)

    def after_epoch(self, epoch: int) -> None:
        """Take note of the weights at the end of an epoch, if those count."""
        if self._average is not None and self._swa is not None and epoch > self._swa:
            self._average.update_parameters(self._model)

    @property
    def model(self) -> "nn.Module":
        """The averaged model, or the model itself while there is nothing averaged."""
        average = self._average
        if average is None or int(average.n_averaged) == 0:
            return self._model
        return average.module

    def settle(self, batches: "Iterable[Tensor]") -> None:
        """Have batch normalization see the training data with the averaged weights (SWA only)."""
        from torch.optim import swa_utils

        if self._swa is not None and self.model is not self._model:
            swa_utils.update_bn(batches, self.model)

    def state(self) -> dict[str, Any] | None:
        """What `load` takes."""
        return None if self._average is None else dict(self._average.state_dict())

    def load(self, state: dict[str, Any] | None) -> None:
        """Take what `state` returned."""
        if self._average is not None and state is not None:
            self._average.load_state_dict(state)
