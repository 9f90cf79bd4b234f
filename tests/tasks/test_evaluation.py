"""Evaluation: the same whatever the size of parts, averaged over views, in the precision asked."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import UsageError
from thalweg.tasks import Data, Task, evaluation
from thalweg.tasks.classification import accuracy
from thalweg.tasks.evaluation import casting, evaluate

CPU = torch.device("cpu")


def data() -> Data:
    raise AssertionError("evaluation is given its data")


def correlation(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric that is no mean over samples."""
    return torch.corrcoef(torch.stack([outputs[:, 0], targets]))[0, 1]


@pytest.fixture
def task() -> Task:
    return Task("t", data, lambda: nn.Linear(3, 1), mean_square, correlation)


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    assert outputs.dtype == torch.float32
    return (outputs[:, 0] - targets).square().mean()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(50, 3), torch.randn(50)


@pytest.mark.parametrize("size", [1, 7, 49, 1024])
def test_size_of_parts_does_not_matter(task: Task, pair: tuple[Tensor, Tensor], size: int):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model(pair[0])
    found = evaluate(task, model, pair, size=size)
    with torch.no_grad():
        outputs = model.eval()(pair[0])
    expected = (float(mean_square(outputs, pair[1])), float(correlation(outputs, pair[1])))
    assert found == pytest.approx(expected, rel=1e-5)


def test_model_is_left_in_evaluation_mode_and_unchanged(task: Task, pair: tuple[Tensor, Tensor]):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(task, model, pair)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def scaled(x: Tensor) -> Iterator[Tensor]:
    yield x
    yield 3 * x


def test_outputs_for_views_are_averaged(task: Task, pair: tuple[Tensor, Tensor]):
    model = nn.Linear(3, 1, bias=False)
    with_views = replace(task, views=scaled)
    doubled = evaluate(task, nn.Sequential(model, Double()), pair)
    assert evaluate(with_views, model, pair, tta=True, size=7) == pytest.approx(doubled, rel=1e-5)
    assert evaluate(with_views, model, pair) == evaluate(task, model, pair)
    # A task without views has one, the inputs as they are.
    assert evaluate(task, model, pair, tta=True) == evaluate(task, model, pair)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_for_processors_that_have_it(
    task: Task, pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, has: bool
):
    monkeypatch.setattr(evaluation, "_has_bfloat16", lambda: has)
    seen: list[torch.dtype] = []
    model = nn.Linear(3, 1)
    model.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    evaluate(task, model, pair, precision="bfloat16")
    assert seen == [torch.bfloat16 if has else torch.float32]
    assert casting("float32", CPU) is None


def test_classes_are_counted_over_all_parts():
    task = Task("t", data, nn.Identity, nn.functional.cross_entropy, accuracy)
    x = torch.eye(3).repeat(4, 1)
    y = torch.tensor([0, 1, 2] * 3 + [1, 2, 0])
    assert evaluate(task, nn.Identity(), (x, y), size=5)[1] == 0.75


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "gave None instead of one number: does it lack its return"),
        ("good", "gave 'good' instead of one number: give a number"),
        (torch.ones(3), r"gave a Tensor of shape \(3,\) instead of one number"),
    ],
)
def test_a_metric_that_is_no_number_is_told(
    task: Task, pair: tuple[Tensor, Tensor], value: object, says: str
) -> None:
    wrong = replace(task, metric=lambda outputs, targets: value, metric_name="m")
    with pytest.raises(UsageError, match=r"the metric \(m\) " + says):
        evaluate(wrong, nn.Linear(3, 1), pair)
