"""How good a model is on data that it was not trained on."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from thalweg.errors import UsageError
from thalweg.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["casting", "evaluate"]


def casting(
    precision: Literal["float32", "bfloat16"], device: "torch.device"
) -> AbstractContextManager[Any] | None:
    """The context in which a model's operations have a precision; None for that of its weights.

    On a processor without bfloat16 arithmetic it is None: to imitate it takes longer than float32.
    """
    import torch

    if precision == "float32" or (device.type == "cpu" and not _has_bfloat16()):
        return None
    return torch.autocast(device.type, torch.bfloat16)


def _has_bfloat16() -> bool:
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore


def evaluate(
    task: Task,
    model: "nn.Module",
    pair: "tuple[Tensor, Tensor]",
    *,
    tta: bool = False,
    precision: Literal["float32", "bfloat16"] = "float32",
    size: int = 1024,
) -> tuple[float, float]:
    """The loss and the metric of a model on a pair of inputs and targets.

    Args:
        task: whose loss and metric.
        model: is in evaluation mode afterwards.
        pair: inputs and targets, on the model's device.
        tta: whether the outputs are averaged over the task's views of the inputs.
        precision: of the model's operations.
        size: how many samples pass through the model at once.

    Raises:
        UsageError: the model gives no tensor, or the metric not one number.
    """
    import torch

    model.eval()
    x, y = pair
    cast = casting(precision, x.device)

    def outputs(part: "Tensor") -> "Tensor":
        versions = list(task.views(part)) if tta and task.views is not None else [part]
        with nullcontext() if cast is None else cast:
            found = [model(version) for version in versions]
        for one in found:
            if not isinstance(one, torch.Tensor):
                raise UsageError(
                    f"the model of the task {task.name} gives {type(one).__name__} for its inputs, "
                    "but must give a tensor with a row for each sample."
                )
        if cast is not None:
            found = [one.float() for one in found]
        return found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)

    with torch.no_grad():
        whole = torch.cat([outputs(part) for part in x.split(size)])
        return float(task.loss(whole, y)), _number(task, task.metric(whole, y))


def _number(task: Task, value: Any) -> float:
    """What a task's metric has given, which has to be one number."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    shape = tuple(getattr(value, "shape", ()))
    what = f"a {type(value).__name__} of shape {shape}" if shape else repr(value)
    hint = "does it lack its return?" if value is None else "give a number, or a tensor of one."
    raise UsageError(
        f"the metric ({task.metric_name}) gave {what:.80} instead of one number: {hint}"
    )
