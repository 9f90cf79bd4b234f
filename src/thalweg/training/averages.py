"""Averages of a model's weights over the steps of a run."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from thalweg.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Averages"]


class Averages:
    """The average that a recipe asks for: exponential (`ema`), or of epochs' ends (`swa`).

    Buffers of floating point numbers, such as running statistics, are averaged like weights; others
    are the model's own.
    """

    def __init__(self, model: "nn.Module", recipe: Recipe) -> None:
        self._model = model
        self._ema, self._swa = recipe.ema, recipe.swa
        self._count = 0
        wanted = recipe.ema is not None or recipe.swa is not None
        self._average = deepcopy(model).requires_grad_(False) if wanted else None

    def after_step(self) -> None:
        """Take note of the weights after a step, if each step counts."""
        if self._ema is not None:
            self._note(1 - self._ema)

    def after_epoch(self, epoch: int) -> None:
        """Take note of the weights at the end of an epoch, if those count."""
        if self._swa is not None and epoch > self._swa:
            self._note(1 / (self._count + 1))

    def _note(self, share: float) -> None:
        """Move the average by a share of the way to the weights; all of it the first time."""
        import torch

        assert self._average is not None
        with torch.no_grad():
            pairs = [
                (old, new.detach())
                for values in ("parameters", "buffers")
                for old, new in zip(
                    getattr(self._average, values)(), getattr(self._model, values)(), strict=True
                )
            ]
            moved = [p for p in pairs if self._count and p[1].is_floating_point()]
            if moved:
                olds, news = zip(*moved, strict=True)
                torch._foreach_lerp_(olds, news, share)  # pyright: ignore
            for old, new in pairs:
                if not (self._count and new.is_floating_point()):
                    old.copy_(new)
        self._count += 1

    @property
    def model(self) -> "nn.Module":
        """The averaged model, or the model itself while there is nothing averaged."""
        return self._model if self._average is None or self._count == 0 else self._average

    def settle(self, x: "Tensor") -> None:
        """Have batch normalization see the training data with the averaged weights (SWA only).

        Args:
            x: the inputs of the training data.
        """
        from torch.optim import swa_utils

        if self._swa is not None and self.model is not self._model:
            # In parts of about one size: of a single sample there are no statistics.
            swa_utils.update_bn(x.tensor_split(math.ceil(len(x) / 1024)), self.model)

    def state(self) -> dict[str, Any] | None:
        """What `load` takes."""
        if self._average is None:
            return None
        return {"count": self._count, "weights": dict(self._average.state_dict())}

    def load(self, state: dict[str, Any] | None) -> None:
        """Take what `state` returned."""
        if self._average is not None and state is not None:
            self._count = state["count"]
            self._average.load_state_dict(state["weights"])
