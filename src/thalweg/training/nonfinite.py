"""Numbers that are not finite: where they first came up."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from thalweg.training.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thalweg.training.gradients import Gradients

__all__ = ["DivergenceError", "NonfiniteError", "amend", "check_weights", "first_gradient"]


class DivergenceError(ArithmeticError):
    """The loss, a gradient or the metric is no longer a finite number."""


class NonfiniteError(Exception):
    """The loss or a gradient of the step that was about to be taken is not finite."""


# So many steps in a row are not left out because of one unlucky batch.
_IN_A_ROW = 100


def amend(run: Run, gradients: "Gradients") -> None:
    """Do what the recipe says about a step whose loss or gradients are not finite.

    Raises:
        DivergenceError: the run is to stop, or nothing else helps.
    """
    step = run.steps + 1
    if run.recipe.nonfinite == "stop":
        raise DivergenceError(_told(run, gradients, step))
    run.skipped += 1
    run.skipped_in_a_row += 1
    if run.skipped_in_a_row >= _IN_A_ROW:
        raise DivergenceError(
            f"{_IN_A_ROW} steps in a row were left out, the last because "
            f"{_told(run, gradients, step)}"
        )
    if run.recipe.nonfinite == "shrink":
        run.course.shrink(run.steps, 0.5)


def _told(run: Run, gradients: "Gradients", step: int) -> str:
    loss = gradients.loss
    assert loss is not None
    if math.isfinite(loss):
        return f"the gradient of {first_gradient(run.names)} was not finite at step {step}"
    told = f"the training loss was {loss:g} at step {step}"
    if weight := _first_weight(run.names):
        return f"{told}: after step {step - 1}, {weight} was not finite"
    layer = _first_layer(run.model, gradients.inputs)
    return f"{told}: the output of {layer} was not finite" if layer else told


def check_weights(run: Run) -> None:
    """See that every parameter is finite, before it is kept.

    Raises:
        DivergenceError: one is not.
    """
    if weight := _first_weight(run.names):
        raise DivergenceError(f"after step {run.steps}, {weight} was not finite")


def _finite(x: "Tensor") -> bool:
    return bool((x.coalesce().values() if x.is_sparse else x).isfinite().all())


def first_gradient(names: "Mapping[nn.Parameter, str]") -> str | None:
    """The name of the first parameter whose gradient is not finite."""
    return next((n for p, n in names.items() if p.grad is not None and not _finite(p.grad)), None)


def _first_weight(names: "Mapping[nn.Parameter, str]") -> str | None:
    """The name of the first parameter that is not finite itself."""
    return next((n for p, n in names.items() if not _finite(p.detach())), None)


def _first_layer(model: "nn.Module", inputs: "Tensor") -> str | None:
    """The name of the first layer whose output for the inputs is not finite."""
    import torch

    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: "nn.Module", given: Any, output: Any) -> None:
            outputs: Iterable[Any] = output if isinstance(output, tuple) else (output,)
            some = [x for x in outputs if isinstance(x, torch.Tensor)]
            if not all(_finite(x) for x in some):
                found.append(name)

        return hook

    # Only where layers end in no others is the culprit.
    leaves = [(n, m) for n, m in model.named_modules() if n and not list(m.children())]
    hooks = [m.register_forward_hook(look(n)) for n, m in leaves]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
