"""Numbers that are not finite: the run stops and says where, or goes on without them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import Data, Record, Task
from thalweg.training import DivergenceError, train
from thalweg.training.folder import read_run
from thalweg.training.snapshots import Snapshots

TOTAL = 6


class Poisoned:
    """A task, some of whose steps bring a number that is not finite."""

    def __init__(self, where: str = "", value: float = math.nan, steps: Any = ()) -> None:
        self.where, self.value, self.steps = where, value, steps
        self.step = 0
        self.task = Task(
            "sums", data, self._network, self._loss, distance, augment=self._augment, epochs=2
        )

    def __call__(self, where: str, x: Tensor) -> Tensor:
        """What comes out of a place, if it is that one, in one sample of such a step."""
        if where != self.where or self.step not in self.steps or not torch.is_grad_enabled():
            return x
        if where == "gradient":
            x.register_hook(lambda g: torch.full_like(g, self.value))
            return x
        return x + torch.tensor([self.value] + [0.0] * (len(x) - 1)).unsqueeze(1)

    def _augment(self, x: Tensor, y: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
        self.step += 1
        return self("input", x), y

    def _network(self) -> nn.Module:
        self.model = nn.Sequential(
            nn.Linear(3, 4), Place(self), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)
        )
        return self.model

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return (self("loss", outputs) - targets).square().mean()
        return (outputs - targets).square().mean()


class Place(nn.Module):
    def __init__(self, poisoned: Poisoned) -> None:
        super().__init__()
        self.poisoned = poisoned

    def forward(self, x: Tensor) -> Tensor:
        return self.poisoned("gradient", x)


def data() -> Data:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(28, 3, generator=generator)
    y = x.sum(dim=1, keepdim=True)
    return Data((x[:24], y[:24]), (x[24:], y[24:]))


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean().nan_to_num(0)


OPTIMIZERS = {
    "torch": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
    "ours": lambda p: tw.Adam(p, lr=0.01),
    "lookahead": lambda p: tw.NAG(p, lr=0.1, lookahead=True),
}


def run(poisoned: Poisoned, optimizer: str = "torch", **options: Any) -> Iterator[Record]:
    return train(
        poisoned.task, OPTIMIZERS[optimizer], **{"batch_size": 8, "reshuffle": False, **options}
    )


def weights(poisoned: Poisoned) -> list[Tensor]:
    return [x.detach().clone() for x in poisoned.model.state_dict().values()]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 2, TOTAL])
@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "accumulate": 2}, {"clip_norm": 1.0}])
def test_a_loss_that_is_not_finite_stops_the_run(
    value: float, step: int, options: dict[str, Any]
) -> None:
    poisoned = Poisoned("loss", value, [step])
    # The square of minus infinity is plus infinity.
    says = "nan" if math.isnan(value) else "inf"
    with pytest.raises(DivergenceError, match=rf"^the training loss was {says} at step {step}$"):
        list(run(poisoned, **options))
    assert all(x.isfinite().all() for x in weights(poisoned))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 2])
def test_a_gradient_that_is_not_finite_is_noticed_by_the_step_after_it(
    value: float, step: int
) -> None:
    says = rf"at step {step + 1}: after step {step}, 0\.weight was not finite"
    with pytest.raises(DivergenceError, match=says):
        list(run(Poisoned("gradient", value, [step])))


@pytest.mark.parametrize("step", [3, TOTAL])
def test_and_at_the_latest_by_the_evaluation(step: int) -> None:
    with pytest.raises(DivergenceError, match=rf"^after step {step}, 0\.weight was not finite$"):
        list(run(Poisoned("gradient", math.nan, [step])))


def test_the_first_layer_whose_output_is_not_finite_is_named() -> None:
    with pytest.raises(DivergenceError, match=r"nan at step 2: the output of 0 was not finite$"):
        list(run(Poisoned("input", math.nan, [2])))


SKIPPED = [("loss", math.nan), ("loss", math.inf), ("gradient", math.nan), ("input", math.nan)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("where", "value"), SKIPPED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4, "accumulate": 2},
        {"clip_norm": 0.1, "ema": 0.5},
    ],
    ids=["plain", "accumulate", "clip, ema"],
)
def test_a_step_left_out_is_as_if_it_had_not_been(
    name: str, where: str, value: float, options: dict[str, Any]
) -> None:
    """The first steps, one in the middle and the last are left out of one of the runs."""
    out = (1, 4, TOTAL)
    poisoned = Poisoned(where, value, out)
    records = list(run(poisoned, name, nonfinite="skip", **options))
    assert [r.skipped for r in records] == [1, 3]

    # The other has the samples of the other steps only, in an order that shuffling puts right.
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([order.repeat(2)[8 * i : 8 * i + 8] for i in range(TOTAL) if i + 1 not in out])
    (x, y), validation = data().train, data().validation
    kept = torch.empty_like(rows)
    kept[order] = rows
    others = Poisoned()
    [record] = run(others, name, epochs=1, data=Data((x[kept], y[kept]), validation), **options)
    for a, b in zip(weights(poisoned), weights(others), strict=True):
        assert torch.equal(a, b)
    assert records[-1].metric == record.metric


@pytest.mark.parametrize(("where", "value"), SKIPPED)
def test_the_training_loss_is_of_the_steps_that_were_taken(where: str, value: float) -> None:
    [first, _] = run(Poisoned(where, value, [1, 2, 3]), nonfinite="skip")
    assert math.isnan(first.train_loss)
    [plain, _] = run(Poisoned())
    [first, _] = run(Poisoned(where, value, [3]), nonfinite="skip")
    assert math.isfinite(first.train_loss)
    assert first.train_loss != plain.train_loss


def test_shrinking_halves_the_learning_rate_from_then_on() -> None:
    records = list(
        run(Poisoned("loss", math.nan, [2, 6]), nonfinite="shrink", evaluate_every=1 / 3)
    )
    assert [r.settings["lr"] for r in records] == [0.1, 0.05, 0.05, 0.05, 0.05, 0.025]
    assert [r.skipped for r in records] == [0, 1, 1, 1, 1, 2]


def test_a_run_that_leaves_out_everything_ends() -> None:
    poisoned = Poisoned("loss", math.nan, range(1000))
    before: list[Tensor] = []

    def optimizer(params: Any) -> torch.optim.Optimizer:
        found = torch.optim.SGD(params, lr=0.1)
        before.extend(weights(poisoned))
        return found

    with pytest.raises(
        DivergenceError, match=r"100 steps in a row were left out, .* loss was nan at step 100$"
    ):
        list(train(poisoned.task, optimizer, epochs=100, batch_size=8, nonfinite="skip"))
    # One step that is taken begins the count anew.
    poisoned = Poisoned("loss", math.nan, {*range(1, 100), *range(101, 150)})
    [*_, last] = run(poisoned, epochs=50, nonfinite="skip")
    assert last.skipped == 148


@pytest.mark.parametrize("where", ["loss", "gradient", "input"])
@pytest.mark.parametrize("nonfinite", ["stop", "skip", "shrink"])
def test_nothing_that_is_not_finite_is_ever_saved(
    where: str, nonfinite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Snapshots.save

    def look(self: Snapshots, step: int, state: Any) -> Path:
        for kept in (state["model"], state["averages"]["weights"]):
            assert all(bool(x.isfinite().all()) for x in kept.values())
        saved.append(step)
        return save(self, step, state)

    monkeypatch.setattr(Snapshots, "save", look)
    options = {"save_every": 0.0, "nonfinite": nonfinite, "ema": 0.5, "out": tmp_path / "run"}
    records = run(Poisoned(where, math.inf, [5]), **options)
    if nonfinite != "stop":
        list(records)
        assert saved == [1, 2, 3, 4, 5, 6, 6]
        return
    with pytest.raises(
        DivergenceError, match=r"step 5.*/00000004-[0-9a-f]+\.pt is intact"
    ) as error:
        list(records)
    assert saved == [1, 2, 3, 4]
    status = read_run(tmp_path / "run")
    assert status["status"] == "diverged"
    assert "step 5" in status["reason"]
    assert str(error.value).startswith(status["reason"])
    # From there, the run can go on otherwise.
    options = {**options, "resume": True, "force": True, "nonfinite": "skip"}
    after = Poisoned(where, math.inf, [1])
    assert [r.skipped for r in run(after, **options)] == [0, 1]
