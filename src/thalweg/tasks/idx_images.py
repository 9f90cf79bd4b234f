"""Grey images in the four files that MNIST is published in, and its successors too."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.tasks.files import DataFile, idx, read
from thalweg.tasks.task import Data

__all__ = ["images"]

VALIDATION = 5_000


def images(folder: str, sha256: Mapping[str, str], sources: tuple[str, ...]) -> Data:
    """The images as rows of pixels from 0 to 1 (float32) and their classes (int64).

    The last 5,000 of the training file are for validation, those before them for training, and
    those of the test file for testing. Where the files are looked for: see
    `thalweg.tasks.files.read`.

    Args:
        folder: of the files below a folder of data sets, with / between the parts.
        sha256: of each file, by its name up to `-ubyte.gz`.
        sources: the addresses of folders that have the files, each with / at its end.

    Raises:
        UsageError: a file cannot be had, or it is not the one that was published.
    """

    def array(which: str) -> NDArray[np.uint8]:
        name = f"{which}-ubyte.gz"
        urls = tuple(source + name for source in sources)
        return idx(read(DataFile(f"{folder}/{name}", sha256[which], urls)), name)

    def pair(which: str) -> tuple[Tensor, Tensor]:
        pixels = array(f"{which}-images-idx3")
        labels = array(f"{which}-labels-idx1")
        rows = pixels.reshape(len(pixels), -1)  # pyright: ignore
        x = np.divide(rows, 255, dtype=np.float32)
        return torch.as_tensor(x), torch.as_tensor(labels.astype(np.int64))

    x, y = pair("train")
    return Data(
        train=(x[:-VALIDATION], y[:-VALIDATION]),
        validation=(x[-VALIDATION:], y[-VALIDATION:]),
        test=pair("t10k"),
    )
