"""A model and an optimizer that are lent for a trial, and come back as they were."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from thalweg.errors import UsageError
from thalweg.training.interruption import Interrupted, signals
from thalweg.training.randomness import same_randomness

__all__ = ["borrowed"]


@contextmanager
def borrowed(
    modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer
) -> Generator[Callable[[], None], None, None]:
    """Let the modules and the optimizer be trained, and put everything back afterwards.

    Bitwise as before, also after an error or Ctrl-C, are parameters, buffers, gradients,
    `requires_grad` and the training modes; the optimizer's state and groups; the random states of
    Python, NumPy and torch. Ctrl-C and SIGTERM wait for the function that is yielded; a second one
    does not.

    Args:
        modules: what is trained.
        optimizer: what trains it; optimizers that it holds are included.

    Yields:
        What is to be called where those may take effect; it raises Interrupted then.

    Raises:
        UsageError: a parameter has no values yet.
    """
    with signals() as caught, same_randomness(), ExitStack() as back:

        def check() -> None:
            if caught.received is not None:
                raise Interrupted(caught.received)

        # The tensors go back into what has been put back around them.
        back.callback(_kept_tensors(modules, optimizer))
        for module in modules:
            back.callback(_kept_module(module))
        for each in _optimizers(optimizer):
            back.callback(_kept_optimizer(each))
        try:
            yield check
            check()
        finally:
            # From here on another one has to wait until all is back.
            caught.received = None
    check()


def _kept_module(module: nn.Module) -> Callable[[], None]:
    modes = [(m, m.training) for m in module.modules()]
    # A module may put another tensor in a buffer's place.
    buffers = [
        (m, name, buffer)
        for m in module.modules()
        for name, buffer in m.named_buffers(recurse=False, remove_duplicate=False)
    ]

    def put_back() -> None:
        for m, training in modes:
            m.training = training
        for m, name, buffer in buffers:
            setattr(m, name, buffer)

    return put_back


def _kept_tensors(
    modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """Keep what is written to in place: it may be shared, so it goes back to where it was."""
    of_modules = chain.from_iterable(chain(m.parameters(), m.buffers()) for m in modules)
    trained = (p for group in optimizer.param_groups for p in group["params"])
    tensors = [*{id(x): x for x in chain(of_modules, trained)}.values()]
    if any(map(is_lazy, tensors)):
        raise UsageError(
            "model has parameters that take their shape from the first batch: call it with one "
            "before."
        )
    kept = [(x, x.detach().clone(), x.grad, x.requires_grad) for x in tensors]
    for x in tensors:
        x.grad = None

    def put_back() -> None:
        with torch.no_grad():
            for x, value, grad, requires in kept:
                x.requires_grad_(requires).copy_(value)
                x.grad = grad

    return put_back


def _optimizers(optimizer: Any) -> Iterator[torch.optim.Optimizer]:
    """The optimizer, and those it is built around."""
    yield optimizer
    for value in vars(optimizer).values():
        if isinstance(value, torch.optim.Optimizer):
            yield from _optimizers(value)


def _kept_optimizer(optimizer: Any) -> Callable[[], None]:
    """Keep its own state aside, and let it go on with a copy."""
    attributes = dict(vars(optimizer))
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    state = attributes["state"]
    # What is kept for a parameter is found by the parameter itself.
    optimizer.state = deepcopy(state, {id(p): p for group, _ in groups for p in group["params"]})

    def put_back() -> None:
        for group, values in groups:
            group.clear()
            group.update(values)
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        # Ours has to be told, as it knows where the states lie.
        optimizer.state = state

    return put_back
