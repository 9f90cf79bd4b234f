"""The training loop against one written out by hand, and every number it reports."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg import Data, Record, Task, UsageError, train
from thalweg.schedules import linear
from thalweg.training import DivergenceError, Phase, Progress

N = 20
Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def data() -> Data:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(N + 6, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 1
    return Data((x[:N], y[:N]), (x[N:], y[N:]))


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


TASK = Task("plane", data, network, nn.functional.mse_loss, distance, "distance", False, 3, 6)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class Watched:
    """A task that remembers its models and each batch that its loss was computed for."""

    def __init__(self, task: Task = TASK) -> None:
        self.models: list[nn.Module] = []
        self.initial: list[Tensor] = []
        self.batches: list[Tensor] = []
        self.modes: list[tuple[bool, bool]] = []
        self._task = task
        self.task = replace(task, model=self._model, loss=self._loss, metric=self._metric)

    def _model(self) -> nn.Module:
        model = self._task.model()
        self.models.append(model)
        self.initial += [p.detach().clone() for p in model.parameters()]
        return model

    def _note(self) -> None:
        self.modes.append((self.models[-1].training, torch.is_grad_enabled()))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._note()
        if torch.is_grad_enabled():
            self.batches.append(targets.clone())
        return self._task.loss(outputs, targets)

    def _metric(self, outputs: Tensor, targets: Tensor) -> Tensor | float:
        self._note()
        return self._task.metric(outputs, targets)


def by_hand(
    task: Task, optimizer: Factory, epochs: int, size: int, seed: int
) -> tuple[nn.Module, list[tuple[float, float, float]]]:
    """What everybody writes, without anything clever."""
    (x, y), (x_val, y_val) = task.data().train, task.data().validation
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model = task.model()
    descent = optimizer(model.parameters())
    numbers: list[tuple[float, float, float]] = []
    for _ in range(epochs):
        model.train()
        total = 0.0
        shuffled = torch.randperm(len(x), generator=order).tolist()
        for start in range(0, len(x), size):
            rows = shuffled[start : start + size]
            descent.zero_grad()
            loss = task.loss(model(x[rows]), y[rows])
            loss.backward()
            descent.step()
            total += loss.item() * len(rows)
        model.eval()
        with torch.no_grad():
            outputs = model(x_val)
            ends = float(task.loss(outputs, y_val)), float(task.metric(outputs, y_val))
        numbers.append((total / len(x), *ends))
    return model, numbers


@pytest.mark.parametrize("size", [1, 6, 10, N, N + 1])
@pytest.mark.parametrize("seed", [0, 3])
def test_it_is_the_plain_loop_to_the_last_bit(size: int, seed: int):
    watched = Watched()
    epochs = list(train(watched.task, sgd, epochs=3, batch_size=size, seed=seed))
    model, numbers = by_hand(TASK, sgd, 3, size, seed)
    for p, q in zip(watched.models[0].parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    for i, (epoch, (train_loss, validation_loss, metric)) in enumerate(
        zip(epochs, numbers, strict=True), 1
    ):
        assert epoch.epoch == i
        assert epoch.steps == i * math.ceil(N / size)
        assert epoch.train_loss == pytest.approx(train_loss, rel=1e-12)
        assert epoch.validation_loss == validation_loss
        assert epoch.metric == metric


def test_batch_descent_is_one_step_per_epoch_on_all_data():
    watched, same = Watched(), Watched()
    epochs = list(train(watched.task, sgd, batch_size="full"))
    assert [e.steps for e in epochs] == [1, 2, 3]
    assert [len(b) for b in watched.batches] == [N] * 3
    assert numbers(epochs) == numbers(train(same.task, sgd, batch_size=N))


def numbers(epochs: Iterable[Record]) -> list[Record]:
    """Everything but the time taken."""
    return [replace(e, seconds=0.0) for e in epochs]


def test_number_of_epochs_and_batch_size_are_the_tasks_own_unless_given():
    watched = Watched()
    assert [e.steps for e in train(watched.task, sgd)] == [4, 8, 12]
    assert [len(b) for b in watched.batches] == [6, 6, 6, 2] * 3


@pytest.mark.parametrize("size", [1, 3, 2047, 2048, 2049, 4000])
def test_every_sample_is_in_one_batch_of_each_epoch(size: int):
    # More samples than are gathered at once.
    samples = 5000 if size > 3 else 2100
    x = torch.arange(float(samples)).unsqueeze(1)
    many = replace(TASK, data=lambda: Data((x, x), (x[:1], x[:1])))
    watched = Watched(replace(many, model=lambda: nn.Linear(1, 1), loss=lambda o, t: o.mean() * 0))
    list(train(watched.task, sgd, epochs=2, batch_size=size))
    assert torch.cat(watched.batches).shape == (2 * samples, 1)
    first, second = torch.cat(watched.batches).flatten().split(samples)
    assert torch.equal(first.sort().values, x.flatten())
    assert torch.equal(second.sort().values, x.flatten())
    assert not torch.equal(first, second)
    rest = samples % size
    sizes = [size] * (samples // size) + ([rest] if rest else [])
    assert [len(b) for b in watched.batches] == 2 * sizes


def test_inputs_stay_with_their_targets():
    x = torch.arange(50.0).unsqueeze(1)
    seen: list[Tensor] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.detach() - targets)
        return 0 * outputs.mean()

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.zero

    list(train(replace(TASK, data=lambda: Data((x, x), (x, x)), model=Same, loss=loss), sgd))
    assert not torch.cat(seen).any()


FACTORIES: dict[str, Factory] = {
    "torch": sgd,
    "adam": thalweg.Adam,
    "fused": lambda p: thalweg.Momentum(p, lr=0.1, backend="fused"),
    "noisy": lambda p: thalweg.Optimizer(p, thalweg.chain(thalweg.noise(), thalweg.sgd())),
    "lookahead": lambda p: thalweg.NAG(p, lookahead=True),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_every_optimizer_gets_the_same_weights_and_batches_for_a_seed(name: str):
    reference, other = Watched(), Watched()
    list(train(reference.task, lambda p: torch.optim.SGD(p, lr=0), seed=5))
    list(train(other.task, FACTORIES[name], seed=5))
    assert len(reference.batches) == 12
    for kind in ("initial", "batches"):
        for a, b in zip(getattr(reference, kind), getattr(other, kind), strict=True):
            assert torch.equal(a, b)


def test_another_seed_gives_other_weights_and_batches():
    runs = [Watched(), Watched()]
    for seed, run in enumerate(runs):
        list(train(run.task, sgd, seed=seed))
    assert not torch.equal(runs[0].initial[0], runs[1].initial[0])
    assert not torch.equal(torch.cat(runs[0].batches[:4]), torch.cat(runs[1].batches[:4]))


def test_data_are_shuffled_anew_for_each_epoch():
    watched = Watched()
    list(train(watched.task, sgd))
    epochs = torch.cat(watched.batches).flatten().split(N)
    assert len({tuple(e.tolist()) for e in epochs}) == 3
    assert len({tuple(e.sort().values.tolist()) for e in epochs}) == 1


def test_order_of_the_first_epoch_can_be_repeated():
    watched, shuffled = Watched(), Watched()
    list(train(watched.task, sgd, seed=3, reshuffle=False))
    list(train(shuffled.task, sgd, seed=3))
    first, *others = torch.cat(watched.batches).flatten().split(N)
    assert torch.equal(first, torch.cat(shuffled.batches).flatten()[:N])
    assert not torch.equal(first, first.sort().values)
    for other in others:
        assert torch.equal(other, first)


def test_model_is_in_training_mode_for_steps_and_in_evaluation_mode_after_them():
    watched = Watched()
    list(train(watched.task, sgd, epochs=2))
    steps, evaluation = [(True, True)] * 4, [(False, False)] * 2
    assert watched.modes == 2 * (steps + evaluation)


def test_validation_numbers_are_of_all_the_data_in_parts():
    # 3000 samples pass through the model 1024 at a time; their metric is one number.
    x = torch.arange(3000.0).unsqueeze(1)
    parts: list[int] = []

    class Counting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if not self.training:
                parts.append(len(input))
            return super().forward(input)

    task = replace(
        TASK,
        data=lambda: Data((x[:4] / 3000, x[:4]), (x / 3000, x)),
        model=lambda: Counting(1, 1),
        metric=lambda o, t: (o - t).median(),
    )
    watched = Watched(task)
    [epoch] = train(watched.task, lambda p: torch.optim.SGD(p, lr=0.01), epochs=1)
    assert parts == [1024, 1024, 952]
    with torch.no_grad():
        outputs = watched.models[0](x / 3000)
    assert epoch.metric == pytest.approx(float((outputs - x).median()), rel=1e-6)
    assert epoch.validation_loss == pytest.approx(float(((outputs - x) ** 2).mean()), rel=1e-6)


def test_a_metric_may_be_a_plain_number():
    [epoch] = train(replace(TASK, metric=lambda o, t: 1), sgd, epochs=1)
    assert epoch.metric == 1.0
    assert type(epoch.metric) is float


def test_data_that_are_loaded_already_are_used():
    def never() -> Data:
        raise AssertionError("loaded again")

    given = train(replace(TASK, data=never), sgd, data=data())
    assert numbers(given) == numbers(train(TASK, sgd))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_divergence_names_the_step(value: float):
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        broken = torch.is_grad_enabled() and calls >= 7
        return nn.functional.mse_loss(outputs, targets) + (value if broken else 0)

    epochs = train(replace(TASK, loss=loss), sgd)
    assert next(epochs).steps == 4
    with pytest.raises(DivergenceError, match=rf"training loss was {value:g} at step 7$"):
        next(epochs)
    assert calls == 7
    assert list(epochs) == []


def test_divergence_at_the_first_step():
    broken = replace(TASK, loss=lambda o, t: o.mean() * math.nan)
    with pytest.raises(DivergenceError, match=r"was nan at step 1$"):
        next(train(broken, sgd))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_names_the_metric_and_the_epoch(value: float):
    results = iter([0.5, value])
    epochs = train(replace(TASK, metric=lambda o, t: next(results)), sgd)
    assert next(epochs).metric == 0.5
    with pytest.raises(DivergenceError, match=rf"metric \(distance\) was {value:g} after epoch 2$"):
        next(epochs)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 0}, "epochs is 0, but must be a number of passes above 0"),
        ({"epochs": -1}, "epochs is -1, but must be a number of passes above 0"),
        ({"batch_size": 0}, "batch_size is 0, but must be a whole number from 1"),
        ({"batch_size": -5}, "batch_size is -5, but must be a whole number from 1"),
    ],
)
def test_numbers_out_of_range_are_a_mistake(settings: dict[str, int], says: str):
    with pytest.raises(UsageError, match=says):
        next(train(TASK, sgd, **settings))  # pyright: ignore


def test_lookahead_takes_the_gradient_away_from_the_parameters():
    watched = Watched()
    list(train(watched.task, lambda p: thalweg.NAG(p, lr=0.05, gamma=0.8, lookahead=True)))

    torch.manual_seed(0)
    order = torch.Generator().manual_seed(0)
    model, (x, y) = network(), data().train
    parameters = list(model.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    for _ in range(3):
        for rows in torch.randperm(N, generator=order).split(6):
            before = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p, v in zip(parameters, velocities, strict=True):
                    p -= 0.05 * 0.8 * v
            gradients = torch.autograd.grad(
                nn.functional.mse_loss(model(x[rows]), y[rows]), parameters
            )
            with torch.no_grad():
                for p, old, v, g in zip(parameters, before, velocities, gradients, strict=True):
                    v.mul_(0.8).add_(g)
                    p.copy_(old - 0.05 * v)
    for p, q in zip(watched.models[0].parameters(), parameters, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


class Closures(torch.optim.SGD):
    """Looks at what it is given to call."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, lr=0.0)
        self.seen: list[tuple[bool, float, bool]] = []

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        assert closure is not None
        [group] = self.param_groups
        before = [p.grad for p in group["params"]]
        loss = closure()
        first = [p.grad.clone() for p in group["params"]]
        closure()
        again = all(torch.equal(p.grad, g) for p, g in zip(group["params"], first, strict=True))
        fresh = all(p.grad is not b for p, b in zip(group["params"], before, strict=True))
        self.seen.append((again and fresh, float(loss.detach()), loss.requires_grad))
        return loss


def test_closure_starts_from_no_gradient_and_returns_the_loss():
    made: list[Closures] = []

    def factory(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(Closures(parameters))
        return made[0]

    [epoch] = train(TASK, factory, epochs=1, batch_size="full")
    [(clean, loss, differentiable)] = made[0].seen
    assert clean
    assert differentiable
    assert loss == pytest.approx(epoch.train_loss, rel=1e-6)


def test_an_optimizer_that_calls_the_closure_often_takes_one_step_per_batch():
    def lbfgs(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)

    assert [e.steps for e in train(TASK, lbfgs)] == [4, 8, 12]


def test_threads_are_left_alone():
    before = torch.get_num_threads()
    other = before + 1
    torch.set_num_threads(other)
    try:
        list(train(TASK, thalweg.Adam, epochs=1))
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)


def test_dropout_is_the_same_for_the_same_seed():
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    task = replace(TASK, model=dropping)

    def gentle(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.01)

    def weights(seed: int) -> Tensor:
        watched = Watched(task)
        list(train(watched.task, gentle, seed=seed))
        return torch.cat([p.detach().flatten() for p in watched.models[0].parameters()])

    first = weights(1)
    torch.rand(10)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)
    model, _ = by_hand(task, gentle, 3, 6, 1)
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), first)


def test_an_epoch_is_trained_when_it_is_asked_for():
    watched = Watched()
    epochs = train(watched.task, sgd)
    assert isinstance(epochs, Iterator)
    assert watched.models == []
    for count in (1, 2, 3):
        assert next(epochs).epoch == count
        assert len(watched.batches) == 4 * count
    with pytest.raises(StopIteration):
        next(epochs)


def test_seconds_grow_and_leave_out_evaluation(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    def clock() -> float:
        return now

    def spending(seconds: float, of: Callable[[Tensor, Tensor], Tensor]):
        def spent(outputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal now
            now += seconds if torch.is_grad_enabled() else 1000.0
            return of(outputs, targets)

        return spent

    monkeypatch.setattr("thalweg.training.loop.perf_counter", clock)
    loss = spending(0.25, nn.functional.mse_loss)
    epochs = list(train(replace(TASK, loss=loss, metric=spending(0, distance)), sgd))
    assert [e.seconds for e in epochs] == [1.0, 2.0, 3.0]


# What else a run may be asked for:


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def jolted(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return x + torch.randn(x.shape, generator=generator), y


def drawing(outputs: Tensor, targets: Tensor) -> Tensor:
    torch.rand(5)
    return distance(outputs, targets)


EVERYTHING = replace(TASK, model=dropping, augment=jolted, metric=drawing)


def final(watched: Watched) -> list[Tensor]:
    return [x.detach().clone() for x in watched.models[0].state_dict().values()]


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (0.5, [2, 4, 6, 8, 10, 12]),
        (2, [8, 12]),
        (0.3, [1, 2, 4, 5, 6, 7, 8, 10, 11, 12]),
        (0.01, [*range(1, 13)]),
        (100, [12]),
    ],
)
def test_how_often_it_is_evaluated_does_not_change_the_training(every: float, steps: list[int]):
    often, plain = Watched(EVERYTHING), Watched(EVERYTHING)
    options: dict = {"ema": 0.5, "clip_norm": 1.0}
    found = list(train(often.task, sgd, evaluate_every=every, **options))
    expected = list(train(plain.task, sgd, **options))
    assert [r.steps for r in found] == steps
    assert [r.epoch for r in found] == [s / 4 for s in steps]
    for a, b in zip(final(often), final(plain), strict=True):
        assert torch.equal(a, b)
    assert found[-1].metric == expected[-1].metric
    # Each tells the loss of the samples since the one before.
    assert len({r.train_loss for r in found}) == len(found)
    weighted = sum(
        r.train_loss * (samples(r.steps) - samples(before))
        for r, before in zip(found, [0, *steps], strict=False)
    )
    assert weighted == pytest.approx(N * sum(r.train_loss for r in expected), rel=1e-6)


def samples(steps: int) -> int:
    return N * (steps // 4) + 6 * (steps % 4)


def gentle(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def test_what_augmentation_draws_depends_on_the_seed_alone():
    drawn: list[list[Tensor]] = [[], [], []]

    def task(into: list[Tensor]) -> Task:
        def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            into.append(torch.rand(3, generator=generator))
            return x, y + into[-1].mean()

        return replace(TASK, augment=augment)

    seen = Watched(task(drawn[0]))
    list(train(seen.task, gentle, seed=1))
    list(train(replace(task(drawn[1]), model=dropping), gentle, seed=1))
    list(train(task(drawn[2]), gentle, seed=2))
    assert len(drawn[0]) == 12
    assert len({tuple(d.tolist()) for d in drawn[0]}) == 12
    for a, b, c in zip(*drawn, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    # It is no copy of what the order or the weights are drawn from.
    assert not torch.equal(drawn[0][0], torch.rand(3, generator=torch.Generator().manual_seed(1)))
    # What it returns is trained on, and the order stays as it is.
    plain = Watched()
    list(train(plain.task, gentle, seed=1))
    for found, batch, by in zip(seen.batches, plain.batches, drawn[0], strict=True):
        assert torch.equal(found, batch + by.mean())


def data_with_a_test() -> Data:
    given = data()
    x, y = given.validation
    return Data(given.train, given.validation, (x * 2, y * 3))


def test_test_data_are_looked_at_once_and_only_if_asked_for():
    looked: list[Tensor] = []

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        looked.append(outputs)
        return distance(outputs, targets)

    views = lambda x: (x, -x)  # noqa: E731
    task = replace(TASK, data=data_with_a_test, metric=metric, views=views)
    assert {(r.test, r.test_tta) for r in train(task, sgd)} == {(None, None)}
    assert len(looked) == 3
    watched = Watched(task)
    *others, last = train(watched.task, sgd, test=True, tta=True)
    assert {(r.test, r.test_tta) for r in others} == {(None, None)}
    x, y = data_with_a_test().test or ()
    with torch.no_grad():
        plain, turned = watched.models[0](x), watched.models[0](-x)
        assert last.test == float(distance(plain, y))
        assert last.test_tta == pytest.approx(float(distance((plain + turned) / 2, y)), rel=1e-6)
    *_, last = train(task, sgd, test=True)
    assert last.test is not None
    assert last.test_tta is None


def test_progress_is_told_four_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch):
    now = 50.0

    def clock() -> float:
        return now

    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal now
        now += 1 / 32
        return x, y

    monkeypatch.setattr("thalweg.training.loop.perf_counter", clock)
    told: list[Progress] = []
    list(train(replace(TASK, augment=augment), sgd, watch=told.append))
    assert [p.steps for p in told] == [1, 9]
    assert [p.seconds for p in told] == [p.steps / 32 for p in told]
    assert {(p.total, p.epochs) for p in told} == {(12, 3)}
    assert [p.epoch for p in told] == [p.steps / 4 for p in told]
    assert {p.settings["lr"] for p in told} == {0.1}
    # Of what it has trained on, batches are counted as full.
    assert [p.samples for p in told] == [6 * p.steps for p in told]


def test_epochs_and_phases_are_not_both_given():
    with pytest.raises(UsageError, match="epochs is 3, but phases say how long the run is"):
        next(train(TASK, sgd, [Phase(1)], epochs=3))


def test_a_record_tells_its_phase_and_the_settings_of_its_last_step():
    lr = linear(0.1, 0.01)
    phases = [Phase(1), Phase(0.5, lr=lr), Phase(1.5, momentum=0.5)]
    found = list(train(TASK, sgd, phases))
    assert [r.phase for r in found] == [0, 2, 2]
    assert [r.settings["momentum"] for r in found] == [0.9, 0.5, 0.5]
    found = list(train(TASK, sgd, phases, evaluate_every=0.25))
    assert [r.phase for r in found] == [0] * 4 + [1] * 2 + [2] * 6
    assert [r.settings["lr"] for r in found[4:6]] == [lr.over(2)(0), lr.over(2)(1)]


def test_a_mistake_in_a_late_phase_is_found_before_the_first_step():
    watched = Watched()
    phases = [Phase(1), Phase(1, lr=lambda step: 0.1 if step < 3 else -1.0)]
    with pytest.raises(UsageError, match="at step 7: "):
        next(train(watched.task, sgd, phases))
    assert watched.batches == []


def test_all_data_at_once_with_everything():
    watched = Watched(EVERYTHING)
    options: dict = {"accumulate": 2, "clip_norm": 1.0, "ema": 0.5, "nonfinite": "skip"}
    found = list(train(watched.task, sgd, batch_size="full", device="cpu", **options))
    assert [r.steps for r in found] == [1, 2, 3]
    assert [len(b) for b in watched.batches] == [N] * 3


def test_layers_that_a_task_names_must_hold_every_parameter_once():
    def layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
        first, _, second = model.children()
        return {"in": list(first.parameters()), "out": list(second.parameters())}

    watched = Watched(replace(TASK, layers=layers))
    list(train(watched.task, sgd, [Phase(1, freeze="in", lr=(0.1, 0.2))]))
    assert torch.equal(watched.models[0][0].weight, watched.initial[0])
    assert not torch.equal(watched.models[0][2].weight, watched.initial[2])
    half = replace(TASK, layers=lambda model: {"in": layers(model)["in"]})
    with pytest.raises(UsageError, match="but have 2 of 4"):
        next(train(half, sgd))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tta": True}, "tta is True, but the task plane has no views"),
        ({"device": "nowhere"}, "device is 'nowhere', which torch cannot use"),
        ({"save_every": math.nan}, "save_every is nan, but must be"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_step(options: dict[str, Any], says: str):
    watched = Watched()
    with pytest.raises(UsageError, match=says):
        next(train(watched.task, sgd, **options))
    assert watched.batches == []
