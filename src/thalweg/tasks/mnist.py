"""MNIST: images of handwritten digits, 28x28 pixels, in 10 classes.

Y. LeCun, C. Cortes & C. J. C. Burges; usually cited as CC BY-SA 3.0.
"""

from torch import nn

from thalweg.tasks import TASKS
from thalweg.tasks.classification import accuracy
from thalweg.tasks.idx_images import images
from thalweg.tasks.task import Data, Task

__all__ = ["data", "model", "task"]

_SOURCES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def data() -> Data:
    """55,000 images for training, 5,000 for validation and 10,000 for testing.

    They are rows of 784 pixels, as `thalweg.tasks.idx_images.images` reads them.

    Raises:
        UsageError: a file cannot be had, or it is not the one that was published.
    """
    return images("MNIST/raw", SHA256, _SOURCES)


def model() -> nn.Module:
    """Two convolutions, each with ReLU and pooling, and a linear layer; 20,490 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


task = Task(
    name="mnist",
    data=data,
    model=model,
    loss=nn.functional.cross_entropy,
    metric=accuracy,
    epochs=5,
    batch_size=64,
    target=0.98,
    about=TASKS["mnist"],
)
