"""Fashion-MNIST: images of clothes, 28x28 pixels, in 10 classes.

H. Xiao, K. Rasul & R. Vollgraf 2017, arXiv:1708.07747. MIT licence, Copyright (c) 2017 Zalando SE.
"""

from torch import nn

from thalweg.tasks import TASKS
from thalweg.tasks.classification import accuracy, mlp
from thalweg.tasks.idx_images import images
from thalweg.tasks.task import Data, Task

__all__ = ["data", "model", "task"]

_SOURCES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
SHA256 = {
    "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def data() -> Data:
    """55,000 images for training, 5,000 for validation and 10,000 for testing.

    They are rows of 784 pixels, as `thalweg.tasks.idx_images.images` reads them.

    Raises:
        UsageError: a file cannot be had, or it is not the one that was published.
    """
    return images("FashionMNIST/raw", SHA256, _SOURCES)


def model() -> nn.Module:
    """A perceptron with three hidden layers of 100 units, 99,710 parameters."""
    return mlp(784, 100, 100, 100, 10)


task = Task(
    name="fashion-mnist",
    data=data,
    model=model,
    loss=nn.functional.cross_entropy,
    metric=accuracy,
    epochs=10,
    batch_size=32,
    target=0.85,
    about=TASKS["fashion-mnist"],
)
