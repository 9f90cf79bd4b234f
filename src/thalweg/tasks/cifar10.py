"""CIFAR-10 with a small residual network, for a processor of a few cores."""

from collections import OrderedDict

from torch import Tensor, nn

from thalweg.tasks import TASKS
from thalweg.tasks.cifar10_batches import data
from thalweg.tasks.classification import accuracy
from thalweg.tasks.photographs import Pixels, crop_and_flip, mirrored_and_shifted
from thalweg.tasks.task import Task

__all__ = ["Eighth", "Residual", "loss", "model", "task"]


class Residual(nn.Sequential):
    """Layers whose result is added to their input (He et al. 2016, arXiv:1512.03385, eq. 1)."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)  # pyright: ignore


class Eighth(nn.Linear):
    """A linear layer whose outputs are an eighth as large: classes are not ruled out too early."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 8


def _convolution(inputs: int, outputs: int, *, halved: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        # Before the normalization, which then has a quarter as much to do.
        *([nn.MaxPool2d(2)] if halved else []),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def model() -> nn.Module:
    """A residual network of 8 convolutions and a linear layer, 1,646,112 parameters.

    It is the ResNet-9 of D. Page's "How to Train Your ResNet" (2018, the network for DAWNBench)
    with half as many channels. Its layer groups are `stem`, `blocks` and `head`.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        pixels=Pixels(),
        stem=_convolution(3, 32),
        blocks=nn.Sequential(
            _convolution(32, 64, halved=True),
            Residual(_convolution(64, 64), _convolution(64, 64)),
            _convolution(64, 128, halved=True),
            _convolution(128, 256, halved=True),
            Residual(_convolution(256, 256), _convolution(256, 256)),
        ),
        head=nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), Eighth(256, 10, bias=False)),
    )
    return nn.Sequential(parts)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with a tenth of each target spread over all classes.

    Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)


task = Task(
    name="cifar10",
    data=data,
    model=model,
    loss=loss,
    metric=accuracy,
    epochs=10,
    batch_size=256,
    target=0.9,
    about=TASKS["cifar10"],
    augment=crop_and_flip,
    views=mirrored_and_shifted,
    precision="bfloat16",
)
