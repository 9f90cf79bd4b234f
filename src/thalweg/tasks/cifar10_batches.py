"""CIFAR-10: photographs of 10 kinds of things, 32x32 pixels in colour, in their original files.

A. Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". No licence is stated;
https://www.cs.toronto.edu/~kriz/cifar.html asks for a citation of this report.
"""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UsageError
from thalweg.tasks.files import DataFile, read
from thalweg.tasks.task import Data

__all__ = ["data"]

VALIDATION = 5_000

_SOURCES = ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",)
_ARCHIVE = "md5:c58f30108f718f92721af3b95e74349a"
SHA256 = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}


def data() -> Data:
    """The images as samples x 3 x 32 x 32 (uint8; red, green, blue) and classes 0 to 9 (int64).

    The first 45,000 of the five training files are for training, the last 5,000 for validation,
    and the 10,000 of the test file for testing. Where the files are looked for: see
    `thalweg.tasks.files.read`.

    Raises:
        UsageError: a file cannot be had, or it is not the one that was published.
    """
    *names, last = SHA256
    # Where this one cannot be had, the others are not asked for: each attempt takes its time.
    test = _batch(last)
    # Decompression is most of the time, and Python lets threads do that side by side.
    with ThreadPoolExecutor() as threads:
        train = list(threads.map(_batch, names))
    x, y = (torch.cat(parts) for parts in zip(*train, strict=True))
    return Data(
        train=(x[:-VALIDATION], y[:-VALIDATION]),
        validation=(x[-VALIDATION:], y[-VALIDATION:]),
        test=test,
    )


def _batch(name: str) -> tuple[Tensor, Tensor]:
    path = f"cifar-10-batches-py/{name}"
    content = read(DataFile(path, SHA256[name], _SOURCES, _ARCHIVE))
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        x = torch.as_tensor(np.asarray(batch["data"], np.uint8)).reshape(-1, 3, 32, 32)
        y = torch.tensor(batch["labels"], dtype=torch.int64)
        if len(x) != len(y):
            raise ValueError(f"it has {len(x)} images and {len(y)} labels")
    # What a pickle can hold, and so what can be wrong with it, is without bounds.
    except Exception as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{path} is not a batch of CIFAR-10: {reason}.") from error
    return x, y


def _array(kind: type, shape: tuple[int, ...], _: object) -> "np.ndarray[Any, Any]":
    """What NumPy's pickles call to get an array, whose content they then set."""
    return np.ndarray(shape, np.uint8)


class _Unpickler(pickle.Unpickler):
    """Reads what these files hold, arrays in lists and dictionaries, and refuses all else.

    A pickle can name any function and have it called.
    """

    _ADMITTED: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it wants {module_name}.{global_name}, which is not in such a file"
            ) from None
