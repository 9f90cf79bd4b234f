"""Who takes the same step: torch's implementations of an optimizer, and ours."""

# torch's compiler has no public way to forget what it compiled, or to say whether it compiled.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from thalweg.backends.fused import Pass
from thalweg.backends.program import program
from thalweg.bench.traffic import Streams, streams
from thalweg.optim import CLASSES, Optimizer
from thalweg.rules import OPTIMIZERS

__all__ = [
    "COMPILED",
    "OURS",
    "TORCHS",
    "Contestant",
    "contestants",
    "forget_compiled",
    "needs",
    "outside_kernels",
]

OURS = "thalweg"
COMPILED = "compiled"
TORCHS = ("for-loop", "foreach", "fused", COMPILED)
LR = 1e-6
"""Small enough that parameters stay where they are over thousands of steps."""

_WAYS: Mapping[str, Mapping[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    COMPILED: {"foreach": True},
}
# Where it is not the class that is called as the rule is.
_CLASSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "momentum": ("SGD", {"momentum": 0.9}),
    "nag": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "amsgrad": ("Adam", {"amsgrad": True}),
}


@dataclass(frozen=True)
class Contestant:
    """One implementation of one optimizer.

    Attributes:
        optimizer: the optimizer; parameters, gradients and states are its own, so that nobody
            finds in a cache what another has just used.
        step: takes one step.
        first: seconds until the first step was taken, with all that is compiled for it.
        restore: gives the gradients their numbers back, if a step changes them; torch's foreach
            with Nesterov momentum does.
    """

    optimizer: torch.optim.Optimizer
    step: Callable[[], object]
    first: float
    restore: Callable[[], object] | None = None

    def strange(self) -> bool:
        """Whether numbers it works on are not finite or so small that processors slow down."""
        tensors = [p for group in self.optimizer.param_groups for p in group["params"]]
        tensors += [
            x
            for state in self.optimizer.state.values()
            for x in state.values()
            if isinstance(x, Tensor) and x.dim() and x.is_floating_point()
        ]
        return any(_strange(x.detach()) for x in tensors)


def _strange(x: Tensor) -> bool:
    size = x.abs()
    tiny = (size < torch.finfo(x.dtype).tiny) & (size > 0)
    return not bool(size.isfinite().all()) or bool(tiny.any())


def needs(name: str, dtype: torch.dtype) -> Streams:
    """What our step of an optimizer, in torch's reading of it, reads and writes."""
    rule = OPTIMIZERS[name]
    return streams(program(rule.trace(rule.settings("torch"))), dtype)


def contestants(
    name: str, params: Sequence[Tensor], *, compiled: bool
) -> dict[str, Callable[[], Contestant]]:
    """Functions that make those there are, of one optimizer, each for a copy of the parameters.

    Each takes a first step too, since much is only made in it, and raises whatever that raises.

    Args:
        name: a rule's.
        params: the parameters, all with gradients.
        compiled: whether torch's implementation is to be compiled too.
    """
    title, options = _CLASSES.get(name, (OPTIMIZERS[name].title, {}))
    made: dict[str, Callable[[], Contestant]] = {}
    theirs: Any = getattr(torch.optim, title, None)
    known = inspect.signature(theirs).parameters if theirs is not None else {}
    for way, chosen in _WAYS.items():
        if chosen.keys() <= known.keys() and (compiled or way != COMPILED):
            wrapped = _compiled if way == COMPILED else _plain
            made[way] = _maker(theirs, params, {**options, **chosen}, wrapped)
    made[OURS] = _maker(CLASSES[title], params, options, _plain)
    return made


def _maker(
    kind: Any,
    params: Sequence[Tensor],
    options: Mapping[str, Any],
    wrapped: Callable[[torch.optim.Optimizer], Callable[[], object]],
) -> Callable[[], Contestant]:
    grads = [p.grad for p in params if p.grad is not None]

    def make() -> Contestant:
        own = [nn.Parameter(p.detach().clone()) for p in params]
        own_grads = [g.clone() for g in grads]
        for p, g in zip(own, own_grads, strict=True):
            p.grad = g
        started = perf_counter()
        optimizer = kind(own, lr=LR, **options)
        step = wrapped(optimizer)
        first = perf_counter() - started
        restore = partial(_restore, own_grads, grads)
        changed = not all(map(torch.equal, own_grads, grads))
        restore()
        return Contestant(optimizer, step, first, restore if changed else None)

    return make


def _restore(own: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    for mine, g in zip(own, grads, strict=True):
        mine.copy_(g)


def _plain(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    optimizer.step()
    return optimizer.step


def _compiled(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    from torch._dynamo.utils import counters

    torch._logging.set_logs(dynamo=logging.ERROR)
    # It stops compiling after so many optimizers, which all have the same function.
    forget_compiled()
    counters.clear()
    step = torch.compile(optimizer.step)
    step()
    if not counters["stats"]["unique_graphs"]:
        raise RuntimeError("torch.compile found nothing to compile")
    return step


def forget_compiled() -> None:
    """Give back what compiled steps hold, such as the tensors they were compiled for."""
    from torch import _dynamo

    _dynamo.reset()


def outside_kernels(contestant: Contestant, steps: int) -> list[float]:
    """The seconds of each of so many steps of ours that are not spent in its kernels.

    They go into Python and into seeing that nothing has changed. Empty if there are no kernels.
    """
    optimizer = contestant.optimizer
    assert isinstance(optimizer, Optimizer)
    contestant.step()
    gatherings = optimizer._gathering.values()
    bounds = [b._bound for gathering in gatherings for b in gathering.batches if b._bound]
    passes = [bound.passes for bound in bounds]
    if not any(passes):
        return []
    inside = [0.0]

    def timed(one: Pass, numbers: Sequence[float]) -> None:
        before = perf_counter()
        one(numbers)
        inside[0] += perf_counter() - before

    for bound in bounds:
        bound.passes = [cast("Pass", partial(timed, one)) for one in bound.passes]
    outside: list[float] = []
    for _ in range(steps):
        inside[0] = 0.0
        before = perf_counter()
        contestant.step()
        outside.append(perf_counter() - before - inside[0])
    for bound, own in zip(bounds, passes, strict=True):
        bound.passes = own
    return outside
