"""Averaged weights against the formulas, in float64."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg import Data, Record, Task, UsageError
from thalweg.training import train

N, PER_EPOCH = 24, 3


def data() -> Data:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(N + 6, 3, generator=generator, dtype=torch.float64) + 2
    y = x.sum(dim=1, keepdim=True)
    return Data((x[:N], y[:N]), (x[N:], y[N:]))


def network() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double()


class Followed(torch.optim.SGD):
    """Remembers the model after each of its steps."""

    def __init__(self, params: Iterable[nn.Parameter], model: list[nn.Module]) -> None:
        super().__init__(params, lr=0.1, momentum=0.5)
        self.model = model
        self.after: list[dict[str, Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.after.append({n: x.clone() for n, x in self.model[0].state_dict().items()})
        return loss


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def run(out: Path, **recipe: Any) -> tuple[list[dict[str, Tensor]], list[Record]]:
    """The model after each step, and the records."""
    models: list[nn.Module] = []
    made: list[Followed] = []

    def model() -> nn.Module:
        models.append(network())
        return models[-1]

    def optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(Followed(params, models))
        return made[0]

    task = Task("sums", data, model, nn.functional.mse_loss, distance)
    records = list(train(task, optimizer, batch_size=8, out=out, **recipe))
    return made[0].after, records


def final(out: Path) -> dict[str, Tensor]:
    return torch.load(out / "model.pt", weights_only=True)


def metric(weights: dict[str, Tensor]) -> float:
    model = network()
    model.load_state_dict(weights)
    x, y = data().validation
    with torch.no_grad():
        return float(distance(model.eval()(x), y))


def mean(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {n: sum(part[n] for part in parts) / len(parts) for n in parts[0]}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], names: Iterable[str]):
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


WEIGHTS = ["0.weight", "0.bias", "1.weight", "1.bias"]
STATISTICS = ["0.running_mean", "0.running_var"]


def test_an_exponential_average_begins_with_the_first_step(tmp_path: Path) -> None:
    after, records = run(tmp_path / "run", epochs=3, ema=0.75)
    average = after[0]
    metrics: list[float] = []
    for step, now in enumerate(after, 1):
        if step > 1:
            average = {n: 0.75 * average[n] + 0.25 * now[n] for n in now}
        if step % PER_EPOCH == 0:
            metrics.append(metric(average))
    assert_close(final(tmp_path / "run"), average, WEIGHTS + STATISTICS)
    assert [r.metric for r in records] == pytest.approx(metrics, rel=1e-12)


def test_the_ends_of_epochs_are_averaged_after_the_one_named(tmp_path: Path) -> None:
    after, records = run(tmp_path / "run", epochs=4, swa=2)
    ends = after[PER_EPOCH - 1 :: PER_EPOCH]
    expected = mean(ends[2:])
    found = final(tmp_path / "run")
    assert_close(found, expected, WEIGHTS)
    # Batch normalization has seen the training data anew, with the averaged weights.
    x, _ = data().train
    torch.testing.assert_close(found["0.running_mean"], x.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["0.running_var"], x.var(dim=0), rtol=1e-12, atol=0)
    # Before there is an average, the weights themselves are evaluated.
    metrics = [metric(ends[0]), metric(ends[1]), metric(ends[2]), metric(found)]
    assert [r.metric for r in records] == pytest.approx(metrics, rel=1e-12)


def test_a_fraction_of_an_epoch_at_the_end_is_no_end_of_an_epoch(tmp_path: Path) -> None:
    after, _ = run(tmp_path / "run", epochs=2 + 1 / 3, swa=0)
    assert_close(final(tmp_path / "run"), mean([after[2], after[5]]), WEIGHTS)


def test_training_goes_on_with_the_weights_themselves(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", epochs=3)
    for i, recipe in enumerate(({"ema": 0.75}, {"swa": 1})):
        after, _ = run(tmp_path / str(i), epochs=3, **recipe)
        for a, b in zip(after, plain, strict=True):
            assert all(torch.equal(a[n], b[n]) for n in b)
    assert torch.equal(final(tmp_path / "plain")["1.weight"], plain[-1]["1.weight"])


def test_a_mistake_is_found_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ema is 2"):
        run(tmp_path / "run", ema=2)
    assert not (tmp_path / "run").exists()
