"""Fashion-MNIST: which samples are for what, on small files made up here and on the real ones."""

import gzip
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.errors import UsageError
from thalweg.tasks import TASKS, fashion_mnist, idx_images
from thalweg.tasks.fashion_mnist import task

SIZES = {"train": 30, "t10k": 8}


def idx_file(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small files in the place of the real ones, and what is in them."""
    random = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for which, size in SIZES.items():
        made[f"{which}-images-idx3"] = random.integers(0, 256, (size, 28, 28), np.uint8)
        made[f"{which}-labels-idx1"] = random.integers(0, 10, size, np.uint8)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in made.items():
        content = idx_file(array)
        (folder / f"{name}-ubyte.gz").write_bytes(content)
        monkeypatch.setitem(fashion_mnist.SHA256, name, sha256(content).hexdigest())
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path))
    monkeypatch.setattr(idx_images, "VALIDATION", 5)
    return made


def test_first_of_the_training_file_train_and_its_last_validate(arrays: dict[str, np.ndarray]):
    data = task.data()
    images, labels = arrays["train-images-idx3"], arrays["train-labels-idx1"]
    for (x, y), part in ((data.train, slice(0, 25)), (data.validation, slice(25, 30))):
        expected = images[part].reshape(-1, 784).astype(np.float32) / np.float32(255)
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        np.testing.assert_array_equal(x.numpy(), expected)
        assert y.tolist() == labels[part].tolist()
    assert data.test is not None
    assert data.test[0].shape == (8, 784)
    assert data.test[1].tolist() == arrays["t10k-labels-idx1"].tolist()


@pytest.mark.parametrize(
    "name", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
)
def test_each_file_is_checked(arrays: dict[str, np.ndarray], tmp_path: Path, name: str):
    path = tmp_path / "FashionMNIST" / "raw" / f"{name}-ubyte.gz"
    altered = arrays[name].copy()
    altered.flat[0] ^= 1
    path.write_bytes(idx_file(altered))
    found = sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UsageError) as caught:
        task.data()
    for part in (str(path), found, fashion_mnist.SHA256[name]):
        assert part in str(caught.value)


def test_a_missing_file_says_where_to_get_it(arrays: dict[str, np.ndarray], tmp_path: Path):
    path = tmp_path / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(UsageError) as caught:
        task.data()
    for part in (
        str(path),
        "THALWEG_DATA",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
        "t10k-labels-idx1-ubyte.gz",
    ):
        assert part in str(caught.value)


def test_model_and_settings():
    model = task.model()
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(100, 784), (100, 100), (100, 100), (10, 100)]
    assert model(torch.zeros(3, 784)).shape == (3, 10)
    assert (task.epochs, task.batch_size, task.target) == (10, 32, 0.85)
    assert task.about == TASKS["fashion-mnist"]


@pytest.mark.skipif(not os.environ.get("THALWEG_DATA"), reason="THALWEG_DATA is not set")
def test_real_data():
    data = task.data()
    assert data.test is not None
    pairs = (data.train, data.validation, data.test)
    assert [tuple(x.shape) for x, _ in pairs] == [(55000, 784), (5000, 784), (10000, 784)]
    counts = [y.bincount(minlength=10) for _, y in pairs]
    assert (counts[0] + counts[1]).tolist() == [6000] * 10
    assert counts[2].tolist() == [1000] * 10
    pixels = torch.cat([data.train[0], data.validation[0]]).double()
    assert pixels.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3530, abs=5e-5)
    # Ankle boot, T-shirt, T-shirt, dress: how the published training labels start.
    assert data.train[1][:4].tolist() == [9, 0, 0, 3]
