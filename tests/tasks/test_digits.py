"""The digits: a fixed stratified split, and a model that learns them."""

import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

from thalweg.errors import UsageError
from thalweg.tasks import TASKS
from thalweg.tasks.classification import accuracy, mlp
from thalweg.tasks.digits import task
from thalweg.training import train

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_split_is_60_20_20_and_uses_every_sample_once():
    data = task.data()
    pairs = (data.train, data.validation, data.test)
    assert [len(x) for x, _ in pairs] == [1079, 359, 359]
    ours = sorted(
        (*(16 * x).int().tolist(), y)
        for xs, ys in pairs
        for x, y in zip(xs, ys.tolist(), strict=True)
    )
    pixels, classes = sklearn_datasets.load_digits(return_X_y=True)
    theirs = sorted((*x, y) for x, y in zip(pixels.astype(int).tolist(), classes, strict=True))
    assert ours == theirs


def test_split_is_stratified():
    data = task.data()
    train_counts, validation, test = (
        y.bincount() for _, y in (data.train, data.validation, data.test)
    )
    whole = train_counts + validation + test
    assert (train_counts - 0.6 * whole).abs().max() < 2
    assert (validation - 0.2 * whole).abs().max() < 1
    assert (test - 0.2 * whole).abs().max() < 1


def test_split_is_the_same_whatever_the_global_seeds():
    torch.manual_seed(1)
    first = task.data()
    torch.manual_seed(2)
    assert torch.equal(first.train[0], task.data().train[0])
    # A change of the split would make results incomparable with those published before it.
    assert first.validation[1][:10].tolist() == [2, 8, 4, 9, 0, 9, 5, 5, 8, 4]


def test_pixels_are_float32_from_0_to_1_and_classes_int64():
    x, y = task.data().train
    assert x.dtype == torch.float32
    assert x.shape[1:] == (64,)
    assert (x.min(), x.max()) == (0, 1)
    assert y.dtype == torch.int64
    assert set(y.tolist()) == set(range(10))


def test_missing_scikit_learn_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="pip install scikit-learn"):
        task.data()


def test_adam_reaches_the_target():
    epochs = list(train(task, torch.optim.Adam))
    assert len(epochs) == 20
    assert epochs[-1].steps == 20 * 34
    assert task.target is not None
    assert max(e.metric for e in epochs) > task.target
    assert task.higher_is_better
    assert task.loss is cross_entropy
    assert task.about == TASKS["digits"]


def test_accuracy_counts_the_largest_outputs():
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [-2.0, -1.0]])
    assert accuracy(outputs, torch.tensor([0, 1, 1, 1])) == 0.75


def test_accuracy_of_nan_is_nan():
    outputs = torch.tensor([[2.0, 1.0], [0.0, torch.nan]])
    assert accuracy(outputs, torch.tensor([0, 1])).isnan()


def test_mlp_starts_from_the_weights_of_keras():
    torch.manual_seed(0)
    hidden, relu, last = mlp(400, 300, 50)
    assert isinstance(relu, torch.nn.ReLU)
    assert hidden.weight.shape == (300, 400)
    assert last.weight.shape == (50, 300)
    # 120,000 and 15,000 weights: their standard deviations are known to 0.2 and 0.4 percent.
    std = (2 / 400) ** 0.5
    assert hidden.weight.std().item() == pytest.approx(std, rel=0.01)
    assert hidden.weight.mean().item() == pytest.approx(0, abs=0.01 * std)
    edge = 2 * std / 0.87962566103423978
    assert 0.99 * edge < hidden.weight.abs().max().item() <= edge
    limit = (6 / (300 + 50)) ** 0.5
    assert last.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert 0.99 * limit < last.weight.abs().max().item() <= limit
    assert not hidden.bias.any()
    assert not last.bias.any()
