"""MNIST by a perceptron of 20 hidden layers that starts from unsuitable weights.

A. Neelakantan et al. 2015, arXiv:1511.06807, section 4.1: 20 hidden layers of 50 units with ReLU,
all weights drawn from a normal distribution of standard deviation 0.1 whatever the layer's width,
where gradient noise is said to help.

    thalweg compare benchmarks/deep_mlp.py --optimizers sgd,noise+sgd,adam,noise+adam --trials 16
"""

from itertools import pairwise

from torch import nn

from thalweg.tasks import Task, mnist
from thalweg.tasks.classification import accuracy

_WIDTHS = (784, *[50] * 20, 10)


def model() -> nn.Module:
    """784-50-...-50-10, 88,210 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(_WIDTHS):
        linear = nn.Linear(inputs, outputs)
        nn.init.normal_(linear.weight, std=0.1)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


task = Task(
    name="deep-mlp",
    data=mnist.data,
    model=model,
    loss=nn.functional.cross_entropy,
    metric=accuracy,
    epochs=5,
    batch_size=64,
    about="28x28 handwritten digits; perceptron with 20 hidden layers, weights of std 0.1",
)
