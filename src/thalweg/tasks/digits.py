"""Handwritten digits of 8x8 pixels: a task for trying things out, about a second per run.

The data come with scikit-learn: 1,797 images of the test set of E. Alpaydin & C. Kaynak's
"Optical Recognition of Handwritten Digits" (UCI repository, CC BY 4.0).
"""

import numpy as np
import torch
from torch import nn

from thalweg.errors import UsageError
from thalweg.tasks import TASKS
from thalweg.tasks.classification import accuracy, mlp
from thalweg.tasks.task import Data, Task

__all__ = ["data", "model", "task"]


def data() -> Data:
    """The digits as rows of 64 pixels from 0 to 1 (float32) and classes 0 to 9 (int64).

    They are split 60 : 20 : 20 into 1,079 for training, 359 for validation and 359 for testing,
    always alike: the order is drawn with a fixed seed, and the split is stratified, that is,
    each class is split in these proportions, to within less than two samples.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # pyright: ignore
    except ImportError as error:
        raise UsageError(
            "the task digits takes its data from scikit-learn, which is not installed. "
            "Install it: pip install scikit-learn"
        ) from error
    pixels, classes = load_digits(return_X_y=True)  # pyright: ignore
    x = torch.as_tensor(np.divide(pixels, 16, dtype=np.float32, casting="same_kind"))  # pyright: ignore
    y = torch.as_tensor(np.asarray(classes, dtype=np.int64))  # pyright: ignore
    # RandomState, since NumPy promises that its numbers never change.
    shuffled = torch.as_tensor(np.random.RandomState(0).permutation(len(y)))
    by_class = shuffled[y[shuffled].argsort(stable=True)]
    fifth = torch.arange(len(y)) % 5
    train, validation, test = (
        by_class[part].sort().values for part in (fifth < 3, fifth == 3, fifth == 4)
    )
    return Data((x[train], y[train]), (x[validation], y[validation]), (x[test], y[test]))


def model() -> nn.Module:
    """A perceptron with hidden layers of 64 and 32 units, 6,570 parameters."""
    return mlp(64, 64, 32, 10)


task = Task(
    name="digits",
    data=data,
    model=model,
    loss=nn.functional.cross_entropy,
    metric=accuracy,
    epochs=20,
    batch_size=32,
    target=0.95,
    about=TASKS["digits"],
)
