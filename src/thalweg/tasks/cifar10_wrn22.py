"""CIFAR-10 with a wide residual network of 22 layers, as in fast.ai's runs of 2018.

What it reaches there, with AdamW and 1cycle: 94% in 30 epochs, in 18 with test-time augmentation
(S. Gugger & J. Howard 2018, https://www.fast.ai/posts/2018-07-02-adam-weight-decay.html).
"""

from collections import OrderedDict

from torch import Tensor, nn

from thalweg.tasks import TASKS
from thalweg.tasks.cifar10_batches import data
from thalweg.tasks.classification import accuracy
from thalweg.tasks.photographs import Pixels, crop_and_flip, mirrored_and_shifted
from thalweg.tasks.task import Task

__all__ = ["Block", "model", "task"]


class Block(nn.Module):
    """Two convolutions, each after normalization and ReLU, whose result is added to the input.

    The basic block of Zagoruyko & Komodakis 2016, arXiv:1605.07146, fig. 1a, in the form of
    `wrn_22` in the fastai library (fastai/vision/models/wrn.py): what goes past the convolutions
    is taken after the first ReLU, and a fifth of their result is added to it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(x)
        return self.shortcut(x) + 0.2 * self.residual(x)


def model() -> nn.Module:
    """The network with width factor 6: three groups of three blocks."""
    widths = (16, 96, 192, 384)
    blocks = [
        Block(outputs if again else inputs, outputs, 1 if again else stride)
        for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
        for again in (False, True, True)
    ]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        pixels=Pixels(),
        stem=nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
        blocks=nn.Sequential(*blocks),
        head=nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], 10),
        ),
    )
    return nn.Sequential(parts)


task = Task(
    name="cifar10-wrn22",
    data=data,
    model=model,
    loss=nn.functional.cross_entropy,
    metric=accuracy,
    epochs=30,
    batch_size=128,
    target=0.94,
    about=TASKS["cifar10-wrn22"],
    augment=crop_and_flip,
    views=mirrored_and_shifted,
    precision="bfloat16",
)
