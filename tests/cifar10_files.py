"""Files in the form of CIFAR-10's, with a few images of noise, in the place of the real ones."""

import io
import pickle
import struct
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from thalweg.tasks import cifar10_batches

FOLDER = "cifar-10-batches-py"
SIZE = 6
VALIDATION = 5


class Python2Pickler(pickle._Pickler):  # pyright: ignore
    """Writes bytes as the strings they were in Python 2, in which the files were written."""

    dispatch = {  # noqa: RUF012
        **pickle._Pickler.dispatch,  # pyright: ignore
        bytes: lambda self, x: self.write(b"T" + struct.pack("<i", len(x)) + x),
    }


def pickled(batch: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def empty(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files, in which there is none yet, below a new folder of data sets."""
    monkeypatch.setenv("THALWEG_DATA", str(data))
    monkeypatch.setattr(cifar10_batches, "VALIDATION", VALIDATION)
    (data / FOLDER).mkdir(parents=True)
    return data / FOLDER


def write(folder: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file, and have it taken for the one that was published."""
    (folder / name).write_bytes(content)
    monkeypatch.setitem(cifar10_batches.SHA256, name, sha256(content).hexdigest())


def fill(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """Write all files, of `SIZE` images each; what is in them, by their names."""
    random = np.random.default_rng(0)
    made: dict[str, dict[str, object]] = {}
    for name in cifar10_batches.SHA256:
        made[name] = {
            "batch_label": name,
            "labels": random.integers(0, 10, SIZE).tolist(),
            "data": random.integers(0, 256, (SIZE, 3072), np.uint8),
            "filenames": ["a.png"] * SIZE,
        }
        write(folder, name, pickled(made[name]), monkeypatch)
    return made
