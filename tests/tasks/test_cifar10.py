"""CIFAR-10: which samples are for what, that files are read safely, and the two networks."""

import lzma
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cifar10_files import empty, fill, pickled, write
from thalweg.errors import UsageError
from thalweg.tasks import TASKS, cifar10_batches
from thalweg.tasks.cifar10 import task
from thalweg.tasks.cifar10_wrn22 import Block
from thalweg.tasks.cifar10_wrn22 import task as wide
from thalweg.tasks.evaluation import casting
from thalweg.tasks.task import Task


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty(tmp_path, monkeypatch)


@pytest.fixture
def batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    return fill(folder, monkeypatch)


def test_first_images_train_and_the_last_validate(batches: dict[str, dict[str, object]]):
    data = task.data()
    assert data.test is not None
    *train, test = batches.values()
    pixels = np.concatenate([b["data"] for b in train])
    labels = [label for b in train for label in b["labels"]]
    for (x, y), part in ((data.train, slice(0, 25)), (data.validation, slice(25, 30))):
        assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
        # Three planes of 32 rows, one after the other.
        np.testing.assert_array_equal(x.numpy(), pixels[part].reshape(-1, 3, 32, 32))
        assert y.tolist() == labels[part]
    np.testing.assert_array_equal(data.test[0].flatten(1).numpy(), test["data"])
    assert data.test[1].tolist() == test["labels"]


def test_compressed_files_are_read(batches: dict[str, dict[str, object]], folder: Path):
    expected = task.data()
    for path in list(folder.iterdir())[::2]:
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    assert torch.equal(task.data().train[0], expected.train[0])


@pytest.mark.parametrize("name", cifar10_batches.SHA256)
def test_each_file_is_checked(batches: dict[str, dict[str, object]], folder: Path, name: str):
    path = folder / name
    altered = path.read_bytes()[:-100]
    path.write_bytes(altered)
    with pytest.raises(UsageError) as caught:
        task.data()
    for part in (path, sha256(altered).hexdigest(), cifar10_batches.SHA256[name], ".tar.gz"):
        assert str(part) in str(caught.value)


class Evil:
    """When it is unpickled, a file is made; it could be anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_what_is_in_no_such_file_is_refused_unseen(
    batches: dict[str, dict[str, object]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    made = tmp_path / "made"
    write(folder, "test_batch", pickled({"data": Evil(made), "labels": []}), monkeypatch)
    with pytest.raises(UsageError, match=r"test_batch is not a batch .* wants \w+\.mkdir"):
        task.data()
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickled({"labels": [1]}), "it has no 'data'"),
        (pickled({"data": np.zeros((1, 3072), np.uint8)}), "it has no 'labels'"),
        (pickled({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}), "3071"),
        (pickled({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "2 images and 1 labels"),
        (pickled([1, 2]), "indices must be integers"),
        (b"no pickle", "load key"),
    ],
)
def test_file_with_something_else_in_it(
    batches: dict[str, dict[str, object]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    says: str,
):
    write(folder, "data_batch_3", content, monkeypatch)
    with pytest.raises(UsageError, match=rf"data_batch_3 is not a batch of CIFAR-10: .*{says}"):
        task.data()


@pytest.mark.parametrize("task", [task, wide], ids=lambda task: task.name)
def test_a_few_steps_lower_the_loss(task: Task):
    torch.manual_seed(0)
    model = task.model()
    x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    y = torch.tensor([3, 1, 4, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses: list[float] = []
    cast = casting(task.precision, x.device)
    for _ in range(4):
        if cast is None:
            outputs = model(x)
        else:
            with cast:
                outputs = model(x).float()
        loss = task.loss(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert outputs.shape == (4, 10)
    assert losses[-1] < losses[0] < 4
    assert task.about == TASKS[task.name]


def test_layer_groups_go_from_input_to_output():
    for model in (task.model(), wide.model()):
        assert [name for name, _ in model.named_children()] == ["pixels", "stem", "blocks", "head"]


def test_small_network_has_as_many_parameters_as_it_says():
    count = sum(p.numel() for p in task.model().parameters())
    assert f"{count:,}" in str(task.model.__doc__)
    assert f"{count:,}"[:5] in task.about


def test_wide_network_is_the_one_of_fastai():
    model = wide.model()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    # One at the start, two in each of nine blocks, and those in the shortcuts of three.
    assert len(convolutions) == 22
    assert [c.out_channels for c in convolutions if c.kernel_size == (1, 1)] == [96, 192, 384]
    # Convolutions: 3x3 of 3-16, 16-96 and 5 of 96-96, 96-192 and 5 of 192-192, 192-384 and 5 of
    # 384-384, 1x1 of 16-96, 96-192 and 192-384; normalizations of 16, 6 of 96, 6 of 192 and 6 of
    # 384; the linear layer 384-10.
    weights = 9 * (48 + 1536 + 5 * 96**2 + 18432 + 5 * 192**2 + 73728 + 5 * 384**2)
    weights += 1536 + 18432 + 73728 + 2 * (16 + 6 * (96 + 192 + 384)) + 3850
    assert sum(p.numel() for p in model.parameters()) == weights
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    assert len(blocks) == 9
    x = torch.rand(1, 16, 32, 32)
    sizes = []
    for block in blocks:
        x = block(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(96, 32, 32)] * 3 + [(192, 16, 16)] * 3 + [(384, 8, 8)] * 3


def test_block_adds_a_fifth_to_what_was_activated():
    block = Block(4, 4, 1).eval()
    x = torch.randn(2, 4, 8, 8)
    norm = block.activation[0]
    activated = (x / (1 + norm.eps) ** 0.5).clamp(min=0)
    expected = activated + 0.2 * block.residual(activated)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.skipif(not os.environ.get("THALWEG_DATA"), reason="THALWEG_DATA is not set")
def test_real_data():
    data = task.data()
    assert data.test is not None
    pairs = (data.train, data.validation, data.test)
    assert [tuple(x.shape) for x, _ in pairs] == [(n, 3, 32, 32) for n in (45000, 5000, 10000)]
    counts = [y.bincount(minlength=10) for _, y in pairs]
    assert (counts[0] + counts[1]).tolist() == [5000] * 10
    assert counts[2].tolist() == [1000] * 10
    # Frog, truck, truck, deer: how the published training labels start.
    assert data.train[1][:4].tolist() == [6, 9, 9, 4]
    # The first 1,000 are enough to see that channels and rows are in their places.
    first = task.model()[0](data.train[0])
    assert first.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert (first.std(dim=(0, 2, 3)) - 1).abs().max() < 0.01
