"""MNIST: what is its own; how its files are read is held by the tests of Fashion-MNIST."""

import gzip
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.tasks import TASKS, idx_images, mnist
from thalweg.tasks.mnist import task


def test_its_own_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path))
    monkeypatch.setattr(idx_images, "VALIDATION", 1)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in mnist.SHA256:
        shape = (3, 28, 28) if "images" in name else (3,)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        content = gzip.compress(header + bytes([255, 2, 3]) * (np.prod(shape) // 3))
        (folder / f"{name}-ubyte.gz").write_bytes(content)
        monkeypatch.setitem(mnist.SHA256, name, sha256(content).hexdigest())
    x, y = task.data().train
    assert x.shape == (2, 784)
    assert x[0, :2].tolist() == pytest.approx([1, 2 / 255])
    assert y.tolist() == [255, 2]


def test_model_is_as_it_says():
    model = task.model()
    assert model(torch.zeros(3, 784)).shape == (3, 10)
    count = sum(p.numel() for p in model.parameters())
    assert f"{count:,}" in str(task.model.__doc__)
    assert f"{count:,}" in task.about == TASKS["mnist"]


@pytest.mark.skipif(not os.environ.get("THALWEG_DATA"), reason="THALWEG_DATA is not set")
def test_real_data():
    data = task.data()
    assert data.test is not None
    counts = [y.bincount(minlength=10) for _, y in (data.train, data.validation, data.test)]
    assert (counts[0] + counts[1])[:3].tolist() == [5923, 6742, 5958]
    assert counts[2][:3].tolist() == [980, 1135, 1032]
    pixels = torch.cat([data.train[0], data.validation[0]]).double()
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)
