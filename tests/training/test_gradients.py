"""The gradients of a step: of one batch or of several, clipped, and in another precision."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import Data, Task
from thalweg.tasks import evaluation
from thalweg.training import train

N = 22


def task(dtype: torch.dtype, models: list[nn.Module]) -> Task:
    def data() -> Data:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(N + 6, 3, generator=generator).to(dtype)
        y = x.sum(dim=1, keepdim=True)
        return Data((x[:N], y[:N]), (x[N:], y[N:]))

    def model() -> nn.Module:
        models.append(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype))
        return models[-1]

    return Task("sums", data, model, nn.functional.mse_loss, lambda o, t: (o - t).abs().mean())


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def run(dtype: torch.dtype = torch.float32, optimizer: Any = sgd, **options: Any) -> Any:
    models: list[nn.Module] = []
    records = list(train(task(dtype, models), optimizer, epochs=2, **options))
    return [p.detach() for p in models[0].parameters()], records


Leave = Callable[[nn.Module, Tensor, Tensor], None]


def by_hand(leave: Leave, rows: int, optimizer: Any = sgd) -> list[Tensor]:
    """Weights after two epochs of steps along the gradients that `leave` leaves behind."""
    models: list[nn.Module] = []
    plain = task(torch.float32, models)
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(0)
    (x, y), model = plain.data().train, plain.model()
    descent = optimizer(list(model.parameters()))
    for _ in range(2):
        for part in torch.randperm(N, generator=order).split(rows):
            descent.zero_grad()
            leave(model, x[part], y[part])
            descent.step()
    return [p.detach() for p in model.parameters()]


def assert_equal(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for p, q in zip(found, expected, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("size", "count"), [(4, 3), (5, 2), (1, 22), (4, 50)])
def test_several_batches_are_one_large_one_up_to_rounding(size: int, count: int) -> None:
    """The last of an epoch, and the last step, have fewer samples."""
    found, records = run(torch.float64, batch_size=size, accumulate=count)
    expected, others = run(torch.float64, batch_size=min(size * count, N))
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    assert [r.steps for r in records] == [r.steps for r in others]
    assert [r.train_loss for r in records] == pytest.approx([r.train_loss for r in others])


def test_several_batches_are_what_is_written_by_hand_to_the_last_bit() -> None:
    def leave(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for a, b in zip(x.split(4), y.split(4), strict=True):
            loss = nn.functional.mse_loss(model(a), b)
            (loss if len(a) == len(x) else loss * (len(a) / len(x))).backward()

    assert_equal(run(batch_size=4, accumulate=2)[0], by_hand(leave, 8))


def clipped(norm: float) -> Leave:
    def leave(model: nn.Module, x: Tensor, y: Tensor) -> None:
        nn.functional.mse_loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    return leave


@pytest.mark.parametrize("optimizer", [sgd, lambda p: tw.NAG(p, lr=0.1)], ids=["torch", "ours"])
@pytest.mark.parametrize("norm", [0.25, 1e9])
def test_gradients_are_clipped_as_torch_does(optimizer: Any, norm: float) -> None:
    found, _ = run(optimizer=optimizer, batch_size=8, clip_norm=norm)
    assert_equal(found, by_hand(clipped(norm), 8, optimizer))
    plain, _ = run(optimizer=optimizer, batch_size=8)
    assert all(torch.equal(p, q) for p, q in zip(found, plain, strict=True)) == (norm == 1e9)


def test_the_average_is_clipped_not_its_parts() -> None:
    found, _ = run(torch.float64, batch_size=2, accumulate=4, clip_norm=0.25)
    expected, _ = run(torch.float64, batch_size=8, clip_norm=0.25)
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_autocast_is_for_the_model_and_leaves_loss_and_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "_has_bfloat16", lambda: True)

    def leave(model: nn.Module, x: Tensor, y: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x)
        assert outputs.dtype is torch.bfloat16
        nn.functional.mse_loss(outputs.float(), y).backward()

    found, records = run(batch_size=8, precision="bfloat16")
    assert_equal(found, by_hand(leave, 8))
    assert {p.dtype for p in found} == {torch.float32}
    # Evaluated likewise: a metric in float32 has digits that bfloat16 does not.
    plain, others = run(batch_size=8)
    assert not torch.equal(found[0], plain[0])
    assert records[-1].metric == pytest.approx(others[-1].metric, rel=0.1)


def test_autocast_is_left_out_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_has_bfloat16", lambda: False)
    assert_equal(run(batch_size=8, precision="bfloat16")[0], run(batch_size=8)[0])


def test_what_is_frozen_is_not_part_of_the_norm() -> None:
    def leave(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for p in model[0].parameters():
            p.requires_grad_(False)
        clipped(0.25)(model, x, y)

    models: list[nn.Module] = []
    phases = [tw.training.Phase(2, freeze="0")]
    list(train(task(torch.float32, models), sgd, phases, batch_size=8, clip_norm=0.25))
    assert_equal([p.detach() for p in models[0].parameters()], by_hand(leave, 8))


class Doubled(torch.autograd.Function):
    """The gradient is doubled where it lies, which torch's own loop forgives."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, g: Tensor) -> Tensor:
        return g.mul_(2)


class Own(Tensor):
    """A loss of a class of its own, which goes backward in its own way."""

    def backward(self, *_: Any) -> None:
        super().backward(torch.tensor(3.0))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scalar": nn.functional.mse_loss,
    "one element": lambda o, t: nn.functional.mse_loss(o, t).reshape(1),
    "float64": lambda o, t: nn.functional.mse_loss(o.double(), t.double()),
    "of a class": lambda o, t: nn.functional.mse_loss(o, t).as_subclass(Own),
    "changed in place": lambda o, t: Doubled.apply(nn.functional.mse_loss(o, t)),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_whatever_the_loss_is_its_gradients_are_those_of_backward(kind: str) -> None:
    def leave(model: nn.Module, x: Tensor, y: Tensor) -> None:
        LOSSES[kind](model(x), y).backward()

    models: list[nn.Module] = []
    lossy = replace(task(torch.float32, models), loss=LOSSES[kind])
    list(train(lossy, sgd, epochs=2, batch_size=4))
    assert_equal([p.detach() for p in models[0].parameters()], by_hand(leave, 4))


def test_a_loss_that_is_complex_is_refused_as_backward_does() -> None:
    odd = replace(task(torch.float32, []), loss=lambda o, t: (o - t).mean() * 1j)
    with pytest.raises(RuntimeError, match="real scalar"):
        next(train(odd, sgd, epochs=1, batch_size=4))
