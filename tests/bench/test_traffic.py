"""What a step reads and writes."""

import pytest
import torch

from thalweg.bench.contestants import OURS, contestants, needs
from thalweg.rules import OPTIMIZERS

# Counted by hand from the papers: arrays read, arrays written.
BY_HAND = {
    "sgd": (2, 1),  # theta, g; theta
    "momentum": (3, 2),
    "nag": (3, 2),
    "qhm": (3, 2),
    "aggmo": (5, 4),  # three velocities
    "adagrad": (3, 2),
    "adadelta": (4, 3),
    "rmsprop": (3, 2),
    "adam": (4, 3),
    "amsgrad": (5, 4),
    "adamax": (4, 3),
    "nadam": (4, 3),
    "qhadam": (4, 3),
    "adamw": (4, 3),
    "radam": (4, 3),
    "rprop": (4, 3),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_streams_are_those_counted_by_hand(name: str):
    reads, writes = BY_HAND[name]
    found = needs(name, torch.float32)
    assert (found.reads, found.writes, found.bytes) == (reads, writes, 4 * (reads + writes))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bytes_are_those_of_what_the_optimizer_keeps(name: str, dtype: torch.dtype):
    p = torch.nn.Parameter(torch.ones(7, dtype=dtype))
    p.grad = torch.ones_like(p)
    made = contestants(name, [p], compiled=False)[OURS]()
    (own,) = made.optimizer.param_groups[0]["params"]
    # Without a momentum SGD keeps nothing.
    kept = [x for x in made.optimizer.state[own].values() if x.shape == p.shape]
    found = needs(name, dtype)
    assert found.writes == 1 + len(kept)
    assert found.bytes == 3 * dtype.itemsize + 2 * sum(x.element_size() for x in kept)
