"""Compile the optimizers' kernels before they are needed, such as when an image is built."""

import inspect
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from thalweg.backends import compilation, fused, lowering
from thalweg.errors import UsageError, unknown
from thalweg.optim import CLASSES, Optimizer
from thalweg.rules import CONVENTIONS, OPTIMIZERS

__all__ = ["Warmup", "warm_up"]

_OPTIONS: Mapping[str, tuple[float | bool, ...]] = {
    "momentum": (0.0, 0.9),
    "dampening": (0.0, 0.1),
    "nesterov": (False, True),
    "weight_decay": (0.0, 0.01),
    "decoupled_weight_decay": (False, True),
    "amsgrad": (False, True),
    "centered": (False, True),
    "maximize": (False, True),
}
"""What has a kernel of its own; a number that is not 0 changes nothing but the number."""


@dataclass(frozen=True)
class Warmup:
    """What has been done.

    Attributes:
        folder: where the kernels are.
        compiled: how many have been compiled now.
        present: how many were there already.
        seconds: how long it took.
    """

    folder: Path
    compiled: int
    present: int
    seconds: float


def warm_up(optimizers: Iterable[str] | None = None, dtypes: Iterable[str] | None = None) -> Warmup:
    """Compile kernels into the folder in which every process looks for them.

    They are those of each optimizer's class, with all options that have kernels of their own, and
    of its rule under each convention. A kernel for other settings, such as those of a chain, is
    compiled and kept when it is first used.

    Args:
        optimizers: rules by name, such as "adam"; else all.
        dtypes: types of parameters by name, such as "float32"; else all that this processor has.

    Raises:
        UsageError: an unknown name, a type this processor does not have, or a folder that cannot
            be written.
    """
    begun = time.perf_counter()
    names = [*OPTIMIZERS] if optimizers is None else [*optimizers]
    for name in names:
        if name not in OPTIMIZERS:
            raise unknown("optimizer", name, OPTIMIZERS)
    types = _types(dtypes)
    folder = _folder()
    # Each kernel is asked for again, whether or not this process has it.
    fused.kernel.cache_clear()
    with compilation.observed() as found:
        for name in names:
            for made in _variants(name):
                for dtype in types:
                    _step(made, dtype)
    lost = [path for path in found if not path.is_file()]
    if lost:
        raise UsageError(
            f"{len(lost)} of {len(found)} kernels could not be written to {folder}, as "
            f"{lost[0].name}: is the disk full, or a folder in its place?"
        )
    present = sum(found.values())
    return Warmup(folder, len(found) - present, present, time.perf_counter() - begun)


def _types(dtypes: Iterable[str] | None) -> list[torch.dtype]:
    had = [name for name in lowering.DTYPES if name != "float16" or compilation.has_float16()]
    chosen = had if dtypes is None else [*dtypes]
    for name in chosen:
        if name not in lowering.DTYPES:
            raise unknown("dtype", name, lowering.DTYPES)
        if name not in had:
            raise UsageError(
                f"dtypes has {name!r}, which this processor cannot convert: here it is left to "
                f"torch's operations. Choose from {', '.join(had)}."
            )
    return [getattr(torch, name) for name in chosen]


def _folder() -> Path:
    """The folder, which can be written."""
    folder = compilation.cache_folder()
    if folder is None:
        raise UsageError(
            "there is no folder to keep kernels in, as the user has no home: set THALWEG_CACHE to "
            "one."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"kernels cannot be kept in {folder} ({error.strerror}): set THALWEG_CACHE to a folder "
            "that can be written."
        ) from error
    return folder


def _variants(name: str) -> Iterator[Callable[[Sequence[torch.Tensor]], Optimizer]]:
    """What makes the optimizer, with each of its options and under each convention."""
    rule = OPTIMIZERS[name]
    made: Callable[..., Any] = CLASSES[rule.title]
    parameters = inspect.signature(made).parameters
    taken = {*parameters}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        taken |= {*rule.hypers, *rule.flags}
    options = {option: values for option, values in _OPTIONS.items() if option in taken}
    for values in product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        velocity = chosen.get("momentum") and not chosen.get("dampening")
        if velocity or not chosen.get("nesterov"):
            yield partial(made, backend="fused", **chosen)
    for convention in CONVENTIONS:
        yield partial(Optimizer, rule=rule, convention=convention, backend="fused")


def _step(made: Callable[[Sequence[torch.Tensor]], Optimizer], dtype: torch.dtype) -> None:
    p = torch.ones(1, dtype=dtype, requires_grad=True)
    p.grad = torch.ones(1, dtype=dtype)
    made([p]).step(lambda: None)
