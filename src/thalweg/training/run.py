"""One run as it stands: everything that the next step depends on."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from thalweg.errors import UsageError
from thalweg.tasks.task import Data, Task
from thalweg.training.averages import Averages
from thalweg.training.course import Course, layers_needed
from thalweg.training.phases import Phase
from thalweg.training.randomness import drawn, put_back
from thalweg.training.recipe import Recipe
from thalweg.training.records import Record

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Run", "usable"]

# Rows of many small batches are gathered at once: that is one call instead of many.
_GATHERED = 2048
_COUNTS = ("steps", "skipped", "skipped_in_a_row", "samples", "recorded", "seconds", "loss")


class Run:
    """A model, its optimizer, and where they are in their training.

    Attributes:
        steps: of the optimizer since the start.
        skipped: those among them that were left out because of numbers that are not finite, and
            `skipped_in_a_row`: up to now.
        seconds: spent on training.
        loss: the sum of the samples' losses since the last record; `samples`: how many those are.
        recorded: at which step the last record was made.
    """

    def __init__(
        self,
        task: Task,
        optimizer: "Callable[..., torch.optim.Optimizer]",
        phases: Sequence[Phase],
        recipe: Recipe,
        data: Data,
        device: "torch.device",
    ) -> None:
        import torch

        if recipe.tta and task.views is None:
            raise UsageError(
                f"tta is True, but the task {task.name} has no views to average over: leave it out."
            )
        self.task, self.recipe, self.data = task, recipe, data
        self.device = device
        self.x, self.y = self.there(data.train)
        self.validation = self.there(data.validation)
        self.rows = recipe.batch_size * recipe.accumulate
        self.per_epoch = math.ceil(len(self.x) / self.rows)
        torch.manual_seed(recipe.seed)
        self._order = torch.Generator().manual_seed(recipe.seed)
        # Another stream than that of the order: torch takes 32 bits of a seed.
        self.augmenting = torch.Generator().manual_seed(recipe.seed ^ 2**31)
        self.model = task.model().to(self.device)
        self.parameters = list(self.model.parameters())
        if not self.parameters:
            raise UsageError(f"the model of the task {task.name} has no parameters to train.")
        self.names = {p: name for name, p in self.model.named_parameters()}
        layers = _layers(task, self.model)
        apart = layers_needed(phases)
        groups = [{"params": list(group)} for group in layers.values()]
        self.optimizer = _made(optimizer, groups if apart else self.parameters)
        # Weights that layers share have several names.
        names = list(self.model.named_parameters(remove_duplicate=False))
        self.course = Course(phases, self.per_epoch, self.optimizer, layers, names)
        ends = self.course.total // self.per_epoch
        if recipe.swa is not None and recipe.swa >= ends:
            raise UsageError(
                f"swa is {recipe.swa!r}, but the run has {ends} whole epochs, which leaves nothing "
                "to be averaged: give an earlier epoch."
            )
        self.averages = Averages(self.model, recipe)
        self.steps = self.samples = self.recorded = 0
        self.skipped = self.skipped_in_a_row = 0
        self.seconds = self.loss = 0.0
        self._shuffled = torch.arange(len(self.x))
        self._drawn = self._order.get_state()
        self._draw()

    def there(self, pair: "tuple[Tensor, Tensor]") -> "tuple[Tensor, Tensor]":
        """Inputs and targets on the device that the model is on."""
        return pair[0].to(self.device), pair[1].to(self.device)

    @property
    def epoch(self) -> float:
        """Passes over the training data since the start; whole at the end of one."""
        whole, rest = divmod(self.steps, self.per_epoch)
        return whole + rest / self.per_epoch if rest else whole

    @property
    def due(self) -> int:
        """The step after which the next evaluation comes."""
        every = max(1.0, self.recipe.evaluate_every * self.per_epoch)
        count = math.floor(self.recorded / every)
        while (step := math.floor(count * every + 0.5)) <= self.recorded:
            count += 1
        return min(step, self.course.total)

    def batches(self) -> "Iterator[tuple[Tensor, Tensor]]":
        """What is left of this epoch's batches, then those of the epochs after it."""
        while True:
            done = self.steps % self.per_epoch
            if done == 0 and self.steps and self._at != self.steps:
                self._draw()
            at_once = self.rows * max(1, _GATHERED // self.rows)
            # What was gathered together before an interruption is gathered together after it:
            # where a batch lies in memory may decide how its sums are rounded.
            first = done * self.rows // at_once
            left = done - first * at_once // self.rows
            for rows in self._shuffled.split(at_once)[first:]:
                there = rows.to(self.device)
                x, y = self.x.index_select(0, there), self.y.index_select(0, there)
                pairs = zip(x.split(self.rows), y.split(self.rows), strict=True)
                for i, pair in enumerate(pairs):
                    if i >= left:
                        yield pair
                left = 0

    def count(self, loss: float, samples: int) -> None:
        """Take note of the mean loss of a step's samples."""
        self.loss += loss * samples
        self.samples += samples
        self.skipped_in_a_row = 0

    def recorded_as(self, validation_loss: float, metric: float, *tests: float) -> Record:
        """The record of what the run has come to, after which counting begins anew.

        Args:
            validation_loss: of the weights as they are.
            metric: likewise, on the validation data.
            tests: the metric on the test data, without and with test-time augmentation.
        """
        test, test_tta, *_ = (*tests, None, None)
        record = Record(
            epoch=self.epoch,
            steps=self.steps,
            train_loss=self.loss / self.samples if self.samples else math.nan,
            validation_loss=validation_loss,
            metric=metric,
            seconds=self.seconds,
            phase=self.course.phase,
            settings=self.course.settings(),
            test=test,
            test_tta=test_tta,
            skipped=self.skipped,
        )
        self.recorded, self.loss, self.samples = self.steps, 0.0, 0
        return record

    def _draw(self) -> None:
        """Draw the order of the epoch that begins."""
        import torch

        self._at = self.steps
        if self.recipe.reshuffle or self.steps == 0:
            self._drawn = self._order.get_state()
            self._shuffled = torch.randperm(len(self.x), generator=self._order)

    def state(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, as tensors and plain data."""

        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "scale": self.course.scale,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state(),
            "order": self._drawn,
            "drawn at": self._at,
            "augmenting": self.augmenting.get_state(),
            "random": drawn(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` returned, of a run of the same task, optimizer, phases and recipe.

        Raises:
            UsageError: it is of another model or optimizer.
        """
        import torch

        if state["steps"] > self.course.total:
            raise UsageError(
                f"the run is at step {state['steps']} already, but would have {self.course.total} "
                "steps now: it cannot go on beyond its end."
            )
        there, here = (
            # That one is a phase's.
            [group.keys() - {"decay"} for group in held["param_groups"]]
            for held in (state["optimizer"], self.optimizer.state_dict())
        )
        if len(there) != len(here) or any(h - t for t, h in zip(there, here, strict=True)):
            raise UsageError(
                "the run was trained by another optimizer, whose state this one cannot go on from: "
                "start anew in another folder."
            )
        try:
            self.model.load_state_dict(state["model"])
            self.averages.load(state["averages"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(f"the snapshot does not fit this run: {error}") from error
        for name in _COUNTS:
            setattr(self, name, state[name])
        self._order.set_state(state["order"])
        self._shuffled = torch.randperm(len(self.x), generator=self._order)
        self._drawn, self._at = state["order"], state["drawn at"]
        self.augmenting.set_state(state["augmenting"])
        self.course.scale = state["scale"]
        # As the last step left it; the next one goes on from there.
        self.course.enter(max(0, self.steps - 1))
        self.course.follow(max(0, self.steps - 1))
        put_back(state["random"])


def _made(optimizer: Any, params: Any) -> "torch.optim.Optimizer":
    import torch

    if not callable(optimizer):
        raise UsageError(
            f"optimizer is {optimizer!r}, but must make one of a model's parameters: a class, or a "
            "function such as lambda params: thalweg.AdamW(params, lr=3e-3)."
        )
    made = optimizer(params)
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(
            f"optimizer has made {made!r} of the model's parameters, but must make a "
            "torch.optim.Optimizer."
        )
    return made


def usable(device: str | None) -> "torch.device":
    """The device of this name; a GPU where there is one, unless given.

    Raises:
        UsageError: torch cannot use it.
    """
    import torch

    try:
        return torch.zeros(
            0, device=device or ("cuda" if torch.cuda.is_available() else "cpu")
        ).device
    # torch raises either of them, depending on how it was built.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"device is {device!r}, which torch cannot use ({reason}): leave it out to have the "
            "best there is."
        ) from error


def _layers(task: Task, model: "nn.Module") -> "dict[str, list[nn.Parameter]]":
    """The parameters of each layer group; those that stand in none are an error."""
    groups = (
        {name: child.parameters() for name, child in model.named_children()}
        if task.layers is None
        else task.layers(model)
    )
    found = {name: list(group) for name, group in groups.items()}
    found = {name: group for name, group in found.items() if group}
    ids = [id(p) for group in found.values() for p in group]
    if sorted(ids) == sorted(map(id, model.parameters())):
        return found
    if task.layers is None:
        # Parameters beside the children, or shared by them: all are one group.
        return {"all": list(model.parameters())}
    raise UsageError(
        f"layers of the task {task.name} must have each parameter of the model in one group, but "
        f"have {len(ids)} of {len(list(model.parameters()))}."
    )
