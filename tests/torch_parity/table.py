"""torch's own table of optimizers: what constructors take, what they refuse, which schedules."""

import warnings
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from torch_parity.paths import MIRRORS

# torch's tests must not set flags of its backends, which others here may have to.
with warnings.catch_warnings(), patch.object(torch.backends, "disable_global_flags"):
    # It says that hypothesis, with which some of torch's tests draw their cases, is not there.
    warnings.simplefilter("ignore", ImportWarning)
    from torch.testing._internal import common_optimizers
    from torch.testing._internal.common_optimizers import (
        ErrorOptimizerInput,
        OptimizerErrorEnum,
        OptimizerInfo,
    )

__all__ = [
    "INFOS",
    "OptimizerErrorEnum",
    "constructor_cases",
    "error_cases",
    "label",
    "options",
    "plain",
    "sign",
]

INFOS: Mapping[str, OptimizerInfo] = {
    info.name: info for info in common_optimizers.optim_db if info.name in MIRRORS
}

Arguments = dict[str, Any]


def constructor_cases(name: str, device: str = "cuda") -> list[Arguments]:
    """Everything the table passes to a constructor; with "cuda" all of "cpu" too, and more."""
    listed = common_optimizers._get_optim_inputs_including_global_cliquey_kwargs
    return [case.kwargs for case in listed(device, torch.float32, INFOS[name])]


def error_cases(name: str) -> list[ErrorOptimizerInput]:
    """All that must be refused; those listed for a GPU are made with tensors on the CPU."""
    refused = INFOS[name].optim_error_inputs_func
    cases = refused(device="cpu", dtype=torch.float32)
    with patch.object(common_optimizers, "_get_device_type", lambda device: "cuda"):
        return cases + refused(device="cpu", dtype=torch.float32)


def options(name: str) -> list[Arguments]:
    """Each option of a class in turn, as plain numbers."""
    return [plain(case.kwargs) for case in INFOS[name].optim_inputs_func(device="cpu")]


def plain(arguments: Arguments) -> Arguments:
    """The same for torch on the CPU: without what only chooses how it is computed."""
    return {
        key: _number(value)
        for key, value in arguments.items()
        if key not in ("capturable", "differentiable", "foreach", "fused")
    }


def sign(arguments: Arguments) -> int:
    return -1 if arguments.get("maximize") else 1


def label(arguments: Arguments) -> str:
    """A name for a case."""
    return "-".join(f"{k}={_number(v)}" for k, v in arguments.items() if v is not False) or "plain"


def _number(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_number, value))
    return value.item() if isinstance(value, Tensor) else value
