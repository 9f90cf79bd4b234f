"""The random states that training draws from, besides a run's own generators."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["drawn", "put_back", "same_randomness"]


def drawn() -> dict[str, Any]:
    """The states of torch's, NumPy's and Python's global generators, as tensors and plain data."""
    import torch

    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        # To ask a device that has not been used yet would start it.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [kind, torch.as_tensor(np.asarray(keys, np.int64)), *rest],
        "python": random.getstate(),
    }


def put_back(state: Mapping[str, Any]) -> None:
    """Have the generators draw what they would have drawn when `drawn` returned `state`."""
    import torch

    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


@contextmanager
def same_randomness() -> Generator[None, None, None]:
    """Put the random states back at the end, whatever has been drawn meanwhile."""
    before = drawn()
    try:
        yield
    finally:
        put_back(before)
