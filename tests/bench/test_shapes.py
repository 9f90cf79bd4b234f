"""The sets of tensors."""

from itertools import pairwise

import torch

from thalweg.bench.shapes import SETS
from thalweg.tasks import fashion_mnist


def test_mlp_is_the_network_of_the_task():
    model = fashion_mnist.model()
    assert [tuple(p.shape) for p in model.parameters()] == [*SETS["mlp"].shapes]


def test_gpt2_has_as_many_parameters_as_gpt2():
    assert SETS["gpt2"].elements == 124_439_808
    assert len(SETS["gpt2"].shapes) == 2 + 12 * 12 + 2


def test_small_is_a_network_of_many_small_tensors():
    shapes = SETS["small"].shapes
    convolutions = [s for s in shapes if s[2:] == (3, 3)]
    # A hundred layers, less the linear one and two that only make it wider.
    assert len(convolutions) == 6 * 16 + 1
    for before, after in pairwise(convolutions):
        assert after[1] == before[0]
    assert 3.4e6 < SETS["small"].elements < 3.8e6
    assert len(shapes) == 295


def test_elements_are_those_of_tensors_of_these_shapes():
    for name in ("mlp", "small"):
        chosen = SETS[name]
        assert chosen.elements == sum(torch.empty(s, device="meta").numel() for s in chosen.shapes)
    assert SETS["large"].elements == 2**25
