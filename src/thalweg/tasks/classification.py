"""What the built-in classification tasks share: a perceptron and its accuracy."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["accuracy", "mlp"]

# The standard deviation of a standard normal variable cut off at -2 and 2.
_CUT_STD = 0.87962566103423978


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of samples whose largest output is at the place of their class.

    Args:
        outputs: logits, samples x classes.
        targets: the classes, counted from 0; one per sample.

    Returns:
        A scalar from 0 to 1; NaN if any output is NaN, so that a model that broke down is not
        credited with what guessing gets.
    """
    share = (outputs.argmax(dim=1) == targets).to(outputs.dtype).mean()
    return torch.where(outputs.isnan().any(), torch.nan, share)


def mlp(*sizes: int) -> nn.Sequential:
    """A perceptron with ReLU between its layers: `mlp(784, 100, 10)` has one hidden layer.

    The initial weights are those of Keras' `he_normal` (He et al. 2015, arXiv:1502.01852,
    eq. 10; a normal distribution cut off at two of its standard deviations and widened to have
    variance 2 / fan_in nevertheless) in hidden layers and of `glorot_uniform` (Glorot & Bengio
    2010, eq. 16) in the last, so that results compare with Keras'. Biases start at 0.

    Args:
        sizes: the number of inputs, of units in each hidden layer, and of outputs.
    """
    linear = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
    for layer in linear:
        nn.init.zeros_(layer.bias)
    for layer in linear[:-1]:
        std = math.sqrt(2 / layer.in_features) / _CUT_STD
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.xavier_uniform_(linear[-1].weight)
    layers: list[nn.Module] = []
    for layer in linear[:-1]:
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, linear[-1])
