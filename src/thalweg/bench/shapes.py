"""The sets of tensors that steps are timed on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypeAlias

__all__ = ["SETS", "Shape", "ShapeSet"]

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ShapeSet:
    """The parameters of a network, without their numbers.

    Attributes:
        about: what the network is, in a line.
        shapes: the shape of each parameter.
    """

    about: str
    shapes: Sequence[Shape]

    @property
    def elements(self) -> int:
        """How many numbers the parameters have together."""
        return sum(map(prod, self.shapes))


def _linear(inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]


def _mlp(*sizes: int) -> list[Shape]:
    return [shape for inputs, outputs in pairwise(sizes) for shape in _linear(inputs, outputs)]


def _wide_resnet(blocks: int, widths: Sequence[int]) -> list[Shape]:
    """Zagoruyko & Komodakis 2016, arXiv:1605.07146, with so many blocks of each width."""
    shapes: list[Shape] = [(widths[0], 3, 3, 3)]
    channels = widths[0]
    for width in widths:
        for _ in range(blocks):
            shapes += [(channels,), (channels,), (width, channels, 3, 3)]
            shapes += [(width,), (width,), (width, width, 3, 3)]
            if channels != width:
                shapes.append((width, channels, 1, 1))
            channels = width
    return [*shapes, (channels,), (channels,), *_linear(channels, 10)]


def _gpt2(layers: int, width: int, words: int, context: int) -> list[Shape]:
    """Radford et al. 2019; the last layer's weights are the embedding's."""
    norm: list[Shape] = [(width,), (width,)]
    block: list[Shape] = [
        *norm,
        *((width, 3 * width), (3 * width,), (width, width), (width,)),
        *norm,
        *((width, 4 * width), (4 * width,), (4 * width, width), (width,)),
    ]
    return [(words, width), (context, width), *block * layers, *norm]


SETS: Mapping[str, ShapeSet] = {
    "mlp": ShapeSet("the network of the task fashion-mnist", _mlp(784, 100, 100, 100, 10)),
    "small": ShapeSet("a wide ResNet of 100 layers", _wide_resnet(16, (24, 48, 96))),
    "gpt2": ShapeSet("GPT-2, the smallest", _gpt2(12, 768, 50257, 1024)),
    "large": ShapeSet("one tensor", [(2**25,)]),
}
