"""The learning rate range test: it finds what is there, and leaves no trace."""

import math
import os
import random
import signal
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from cases import CASES, Case
from thalweg import Data, Optimizer, Task, UsageError
from thalweg.cli import main
from thalweg.schedules import linear
from thalweg.training.interruption import Interrupted
from thalweg.training.lr_curve import read
from thalweg.training.range_test import lr_find, lr_range_test

TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    name: getattr(torch.optim, name)
    for name in (
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS"),
        *("NAdam", "RAdam", "RMSprop", "SGD"),
    )
}
SWEEPABLE = [c for c in CASES if "delta_min" not in c.rule.hypers]
RPROPS = [c for c in CASES if "delta_min" in c.rule.hypers]


class Net(nn.Module):
    """Has all that a test could leave a trace in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        noise = random.random() + float(np.random.rand())
        return self.head(self.frozen(self.body(x)).relu()) * (1 + 1e-3 * noise)


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 8, 4, generator=generator)
    return list(zip(x, x[..., :2].sign() + 0.1, strict=True))


def made(make: Callable[[Any], torch.optim.Optimizer]) -> tuple[Net, torch.optim.Optimizer]:
    """A model and its optimizer in the middle of their training."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    net = Net()
    optimizer = make([*net.body.parameters(), net.head.weight])
    trained(net, optimizer)
    # Of these two nothing may be changed either.
    net.body[1].eval()
    net.head.bias.grad = torch.full((2,), 3.0)
    return net, optimizer


def trained(net: Net, optimizer: torch.optim.Optimizer) -> None:
    for x, y in batches(3):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


def plain(value: Any) -> Any:
    """The same as bytes and plain data, which are equal only bit by bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return [(k, plain(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return repr(value)


def everything(net: Net, optimizer: torch.optim.Optimizer) -> Any:
    held = vars(optimizer)["state"]
    params = [p for g in optimizer.param_groups for p in g["params"]]
    parts = {
        "net": dict(net.state_dict()),
        "parameters": [(id(p), p.data_ptr(), p.requires_grad) for p in net.parameters()],
        "buffers": [(id(b), b.data_ptr()) for b in net.buffers()],
        "gradients": [(id(p.grad), p.grad) for p in net.parameters()],
        "modes": [m.training for m in net.modules()],
        "state": [(id(held.get(p)), held.get(p)) for p in params],
        "tensors": [
            [id(x) for x in held.get(p, {}).values() if isinstance(x, Tensor)] for p in params
        ],
        "groups": [
            (id(g), {k: [*map(id, v)] if k == "params" else v for k, v in g.items()})
            for g in optimizer.param_groups
        ],
        "attributes": [*vars(optimizer)],
        "random": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
    }
    # Short, so that what differs is told and told at once.
    return {name: sha256(repr(plain(part)).encode()).hexdigest() for name, part in parts.items()}


def of_case(case: Case) -> Callable[[Any], torch.optim.Optimizer]:
    settings = {n: v for n, v in case.settings.items() if n != "lr"}
    return lambda params: Optimizer(params, case.rule, convention=case.convention, **settings)


EVERY = [
    *(pytest.param(of_case(case), id=case.name) for case in SWEEPABLE),
    *(pytest.param(make, id=f"torch-{name}") for name, make in TORCHS.items()),
    pytest.param(lambda p: thalweg.AdamW(p, lr=linear(1e-3, 1e-4, 100)), id="schedule"),
]


@pytest.mark.parametrize("make", EVERY)
def test_everything_is_left_as_it_was_and_training_goes_on_as_without_it(make: Any) -> None:
    net, optimizer = made(make)
    before = everything(net, optimizer)
    test = lr_range_test(net, optimizer, nn.functional.mse_loss, batches(), start=1e-5, steps=10)
    assert len(test.losses) > 1
    assert everything(net, optimizer) == before
    trained(net, optimizer)
    other, untested = made(make)
    trained(other, untested)
    assert plain(net.state_dict()) == plain(other.state_dict())
    assert plain(optimizer.state_dict()) == plain(untested.state_dict())


class BrokenError(Exception):
    pass


def failing(how: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches(3)
    how()
    yield from batches(100)


def broken() -> None:
    raise BrokenError


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupted_twice() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    pytest.fail("the second one waited")


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize(
    ("how", "raised"),
    [(broken, BrokenError), (interrupted, Interrupted), (interrupted_twice, Interrupted)],
)
def test_so_it_is_after_an_error_and_ctrl_c(make: Any, how: Any, raised: Any) -> None:
    net, optimizer = made(make)
    before = everything(net, optimizer)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(raised):
        lr_range_test(net, optimizer, nn.functional.mse_loss, failing(how))
    assert everything(net, optimizer) == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_is_heard_after_the_step() -> None:
    net, optimizer = made(torch.optim.SGD)
    steps = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return nn.functional.mse_loss(outputs, targets)

    with pytest.raises(Interrupted):
        lr_range_test(net, optimizer, loss, failing(interrupted))
    assert steps == 4


def test_parts_in_evaluation_mode_stay_in_it() -> None:
    net, optimizer = made(torch.optim.SGD)
    modes: set[bool] = set()
    net.body[1].register_forward_pre_hook(lambda m, _: modes.add(m.training))
    lr_range_test(net, optimizer, nn.functional.mse_loss, batches())
    assert modes == {False}


def test_an_error_in_the_backward_pass_leaves_nothing_either() -> None:
    net, optimizer = made(thalweg.Adam)
    before = everything(net, optimizer)
    count = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += 1
        outputs.register_hook(lambda g: broken() if count == 4 else None)
        return nn.functional.mse_loss(outputs, targets)

    with pytest.raises(BrokenError):
        lr_range_test(net, optimizer, loss, batches())
    assert everything(net, optimizer) == before


def test_an_optimizer_around_another_is_left_as_it_was() -> None:
    class Around(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            self.inner = torch.optim.Adam(params)
            super().__init__(self.inner.param_groups[0]["params"], {})
            self.param_groups = self.inner.param_groups

        def step(self, closure: Any = None) -> Any:
            self.param_groups[0][f"note {len(self.param_groups[0])}"] = True
            return self.inner.step(closure)

    net, optimizer = made(Around)
    before = everything(net, optimizer), plain(optimizer.inner.state_dict())
    lr_range_test(net, optimizer, nn.functional.mse_loss, batches())
    assert (everything(net, optimizer), plain(optimizer.inner.state_dict())) == before


def test_what_the_model_itself_unfreezes_is_frozen_again() -> None:
    net, optimizer = made(thalweg.SGD)
    net.register_forward_hook(lambda *_: net.frozen.requires_grad_(True) and None)
    before = everything(net, optimizer)
    lr_range_test(net, optimizer, nn.functional.mse_loss, batches())
    assert everything(net, optimizer) == before


def test_a_scheduler_of_torchs_is_not_moved() -> None:
    net, optimizer = made(lambda p: torch.optim.SGD(p, lr=0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    before = everything(net, optimizer), plain(scheduler.state_dict())
    lr_range_test(net, optimizer, nn.functional.mse_loss, batches())
    assert (everything(net, optimizer), plain(scheduler.state_dict())) == before


class Watched(torch.optim.SGD):
    """Notes the learning rates it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[float, ...]] = []

    def step(self, closure: Any = None) -> Any:
        self.seen.append(tuple(float(g["lr"]) for g in self.param_groups))
        return super().step(closure)


def test_the_learning_rate_rises_by_a_factor_and_groups_keep_their_ratios() -> None:
    net = Net()
    groups = [{"params": net.body.parameters(), "lr": 0.01}, {"params": net.head.parameters()}]
    optimizer = Watched(groups, lr=torch.tensor(0.04))
    lr_range_test(
        net, optimizer, lambda out, y: out.mean() * 0 + 1, batches(), start=1e-3, end=1.0, steps=31
    )
    highest = [high for _, high in optimizer.seen]
    assert highest == pytest.approx([1e-3 * 10 ** (i / 10) for i in range(31)], rel=1e-9)
    assert [low / high for low, high in optimizer.seen] == pytest.approx([0.25] * 31)


def test_a_schedule_of_the_learning_rate_stands_aside() -> None:
    net = Net()
    optimizer = thalweg.SGD(net.parameters(), lr=linear(1e-3, 1e-4, 100))
    seen: list[float] = []
    optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    test = lr_range_test(net, optimizer, nn.functional.mse_loss, batches(), steps=20)
    assert seen == pytest.approx(test.lrs)


def test_the_losses_are_those_of_training_by_hand() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    with torch.no_grad():
        test = lr_range_test(
            net, thalweg.SGD(net.parameters()), nn.functional.mse_loss, batches(), steps=50
        )
    weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
    for i, loss in enumerate(test.losses):
        x, y = batches()[i % 4]
        found = nn.functional.mse_loss(nn.functional.linear(x, *weights), y)
        assert loss == pytest.approx(float(found.detach()), rel=1e-5)
        for w, g in zip(weights, torch.autograd.grad(found, weights), strict=True):
            w.data -= 1e-7 * 1e8 ** (i / 49) * g


def test_a_loss_that_is_a_module_is_left_as_it_was() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.mse_loss(self.norm(outputs), targets)

    net, loss = Net(), Loss()
    before = plain(dict(loss.state_dict()))
    lr_range_test(net, thalweg.SGD(net.parameters()), loss, batches())
    assert plain(dict(loss.state_dict())) == before


def test_a_model_in_evaluation_mode_is_tested_in_training_mode() -> None:
    net = Net().eval()
    modes: set[tuple[bool, bool]] = set()
    net.register_forward_pre_hook(lambda *_: modes.add((net.training, net.body.training)))
    lr_range_test(net, thalweg.SGD(net.parameters()), nn.functional.mse_loss, batches())
    assert modes == {(True, True)}
    assert not any(m.training for m in net.modules())


def test_batches_begin_anew_where_they_can() -> None:
    net = Net()
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    test = lr_range_test(
        net, thalweg.SGD(net.parameters()), nn.functional.mse_loss, loader, end=1e-3, steps=30
    )
    assert len(test.losses) == 30


# What the curve says. Losses without noise, smoothed by nothing, over lr from 1e-5 to 1.

LRS = [10 ** (-5 + i / 20) for i in range(101)]


def curve(loss: Callable[[float], float]) -> Any:
    """What is read from a loss that is a function of the logarithm of lr."""
    losses = [loss(math.log10(lr)) for lr in LRS]
    return read(LRS, losses, losses, diverged=False)


def test_suggestions_are_where_they_are_said_to_be() -> None:
    # Falls from 1e-4 to 1e-1, most steeply at 1e-2, and rises after it.
    def loss(x: float) -> float:
        down = 1 / (1 + math.exp(4 * (x + 2)))
        return 2 + down + (x + 1) ** 2 * (x > -1) + 1e-3 * min(0, -4 - x) * -1

    test = curve(loss)
    assert test.suggestions["steepest"].lr == pytest.approx(1e-2, rel=0.15)
    low = min(LRS, key=lambda lr: loss(math.log10(lr)))
    assert test.suggestions["minimum"].lr == pytest.approx(low / 10)
    # The falling stretch begins after the first tenth, at 10^-4.5.
    falling = [lr for lr in LRS[10:] if lr <= low]
    top = max(falling, key=lambda lr: loss(math.log10(lr)))
    expected = math.log10(top) + 2 / 3 * (math.log10(low) - math.log10(top))
    assert math.log10(test.suggestions["valley"].lr) == pytest.approx(expected, abs=0.04)
    middle = sorted(s.lr for s in test.suggestions.values())[1]
    assert test.lr == middle
    assert f"lr={test.lr:.2g} ({test.recommended})" in str(test)
    assert all(s.reason in str(test) for s in test.suggestions.values())


def test_the_longest_falling_stretch_leaves_single_rises_out() -> None:
    losses = [2.0] * 10 + [2 - i / 40 + (0.3 if i % 7 == 3 else 0) for i in range(41)] + [3.0] * 50
    test = read(LRS, losses, losses, diverged=True)
    begin, end = LRS[10], LRS[50]
    assert f"{begin:.2g} to {end:.2g}" in test.suggestions["valley"].reason
    assert test.suggestions["valley"].lr == LRS[10 + round(40 * 2 / 3)]


def test_a_steeper_fall_beyond_the_minimum_does_not_count() -> None:
    up = [1.5 + i / 10 for i in range(10)]
    losses = [2.0] * 20 + [2 - i / 40 for i in range(41)] + up + [2.5 - i / 7 for i in range(10)]
    losses += [3.0] * 20
    test = read(LRS, losses, losses, diverged=True)
    assert LRS[20] < test.suggestions["steepest"].lr < LRS[61]


def noise(seed: int) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(2.3, 0.1) for _ in LRS]


def test_noise_is_not_taken_for_a_fall() -> None:
    for smoothing in (0.95, 0.5):
        found = 0
        for seed in range(200):
            losses = noise(seed)
            smoothed = smooth(losses, smoothing)
            test = read(LRS, losses, smoothed, diverged=False)
            found += test.lr is not None
        assert found <= 4


def smooth(losses: list[float], keep: float) -> list[float]:
    average, found = 0.0, list[float]()
    for i, loss in enumerate(losses, 1):
        average = keep * average + (1 - keep) * loss
        found.append(average / (1 - keep**i))
    return found


def test_a_fall_is_seen_through_noise() -> None:
    for seed in range(50):
        losses = [
            x - min(1.0, max(0, i - 40) / 30) + max(0, i - 85) ** 2 / 10
            for i, x in enumerate(noise(seed))
        ]
        test = read(LRS, losses, smooth(losses, 0.9), diverged=True)
        assert test.lr is not None
        assert LRS[20] < test.lr < LRS[90]


@pytest.mark.parametrize(
    ("loss", "diverged", "says"),
    [
        (lambda x: 2.0, False, "does not fall"),
        (lambda x: 2 + 10**x, False, "does not fall"),
        (lambda x: 2 + 10**x, True, "Begin lower (start)"),
        (lambda x: 2 - x, False, "Go higher (end)"),
    ],
)
def test_where_nothing_is_sound_it_says_so(
    loss: Callable[[float], float], diverged: bool, says: str
) -> None:
    losses = [loss(math.log10(lr)) for lr in LRS]
    test = read(LRS, losses, losses, diverged=diverged)
    assert test.recommended is test.lr is None
    assert not test.suggestions
    assert says in test.verdict
    assert "No learning rate can be recommended" in str(test)


def test_it_stops_where_the_loss_diverges() -> None:
    net = nn.Linear(4, 2)
    optimizer = thalweg.SGD(net.parameters())
    test = lr_range_test(
        net, optimizer, nn.functional.mse_loss, batches(), start=0.1, steps=1000, smoothing=0.5
    )
    assert test.diverged
    assert len(test.losses) < 1000
    *others, last = test.smoothed
    assert last > 4 * min(others)
    assert all(x <= 4 * min(others[: i + 1]) for i, x in enumerate(others))
    assert test.smoothed == pytest.approx(smooth(list(test.losses), 0.5))


def test_it_stops_at_four_times_the_best() -> None:
    net = nn.Linear(4, 2)
    values = [2.0, 1.0, *(1.0 + i / 10 for i in range(98))]
    left = iter(values)
    test = lr_range_test(
        net,
        thalweg.SGD(net.parameters()),
        lambda out, y: out.mean() * 0 + next(left),
        batches(),
        smoothing=0.0,
    )
    # The last one, 4.1, is the first above 4.
    assert test.losses == pytest.approx(values[:34])


def test_a_negative_loss_does_not_count_as_diverged() -> None:
    net = nn.Linear(4, 2)
    test = lr_range_test(
        net,
        thalweg.SGD(net.parameters()),
        lambda out, y: nn.functional.mse_loss(out, y) - 5,
        batches(),
        end=1e-3,
    )
    assert not test.diverged
    assert len(test.losses) == 100


def test_it_stops_where_the_loss_is_not_finite() -> None:
    net = nn.Linear(4, 2)
    calls: list[int] = []

    def loss(out: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return nn.functional.mse_loss(out, y) * (math.nan if len(calls) == 15 else 1)

    test = lr_range_test(net, thalweg.SGD(net.parameters()), loss, batches())
    assert test.diverged
    assert len(test.losses) == 14
    assert np.isfinite(test.losses).all()


def data() -> Data:
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x))


TASK = Task(
    "line",
    data,
    lambda: nn.Linear(1, 1),
    nn.functional.mse_loss,
    nn.functional.mse_loss,
    higher_is_better=False,
    batch_size=16,
)


def test_a_task_is_tested_as_it_would_be_trained() -> None:
    before = torch.get_rng_state()
    test = lr_find(TASK, thalweg.SGD, end=100, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert lr_find(TASK, thalweg.SGD, end=100, seed=3) == test
    assert lr_find(TASK, thalweg.SGD, end=100, seed=4) != test
    # The first batch of training with this seed, at weights that have not moved.
    first = next(thalweg.train(TASK, lambda p: thalweg.SGD(p, lr=0.0), epochs=1, seed=3))
    assert np.mean(test.losses[:4]) == pytest.approx(first.train_loss, rel=1e-5)


def test_a_task_is_augmented() -> None:
    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, y + 100

    changed = Task(**{**vars(TASK), "augment": augment})
    assert lr_find(changed, thalweg.SGD).losses[0] > 1000 > lr_find(TASK, thalweg.SGD).losses[0]


SGD = thalweg.SGD


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"start": 0.0}, ["start is 0.0", "above 0"]),
        ({"start": math.nan}, ["start is nan"]),
        ({"end": math.inf}, ["end is inf"]),
        ({"start": 1.0, "end": 0.1}, ["end is 0.1 and start is 1.0", "swap"]),
        ({"start": 1.0, "end": 1.0}, ["must rise"]),
        ({"steps": 1}, ["steps is 1", "from 10"]),
        ({"steps": 20.5}, ["steps is 20.5"]),
        ({"smoothing": 1.0}, ["smoothing is 1.0", "[0, 1)"]),
        ({"batches": []}, ["ended after 0 of 100"]),
        ({"batches": islice(batches(7), 7)}, ["ended after 7 of 100", "DataLoader"]),
        ({"batches": [3]}, ["type int", "pair of inputs and targets"]),
        ({"model": nn.ReLU()}, ["no parameter that is trained"]),
        ({"model": nn.Linear(4, 2)}, ["none of the model's parameters"]),
        ({"loss": lambda out, y: out.mean() * math.nan}, ["first batch is nan"]),
    ],
)
def test_mistakes_are_named_and_change_nothing(change: dict[str, Any], says: list[str]) -> None:
    net, optimizer = made(thalweg.Adam)
    before = everything(net, optimizer)
    arguments = {
        "model": net,
        "optimizer": optimizer,
        "loss": nn.functional.mse_loss,
        "batches": batches(),
    }
    with pytest.raises(UsageError) as raised:
        lr_range_test(**{**arguments, **change})
    assert all(part in str(raised.value) for part in says)
    assert everything(net, optimizer) == before


def test_a_model_that_has_no_shape_yet_is_refused() -> None:
    net = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(UsageError, match="from the first batch"):
        lr_range_test(net, torch.optim.SGD(net.parameters()), nn.functional.mse_loss, batches())


@pytest.mark.parametrize("make", [*(of_case(c) for c in RPROPS), thalweg.Rprop, torch.optim.Rprop])
def test_what_does_not_train_by_lr_is_refused(make: Any) -> None:
    net, optimizer = made(make)
    before = everything(net, optimizer)
    with pytest.raises(UsageError, match="reads lr in its first step only"):
        lr_range_test(net, optimizer, nn.functional.mse_loss, batches())
    assert everything(net, optimizer) == before


LINE = """
from torch import nn
import torch
from thalweg import Data, Task

def data():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return Data(train=(x, 2 * x), validation=(x, 2 * x))

task = Task("line", data, lambda: nn.Linear(1, 1), nn.functional.mse_loss, nn.functional.mse_loss,
            higher_is_better=False, batch_size=16)
"""


def command(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Any, str, str]:
    """How the command ends, and what it says."""
    (folder / "line.py").write_text(LINE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["thalweg", "lr-find", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_the_command_suggests_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    line = "line.py --optimizer adam --beta1 0.5 --weight-decay=0.01 --end 1e3 --seed 3"
    files = "--png a.png --html a.html"
    code, said, _ = command(f"{line} {files}", tmp_path, monkeypatch, capsys)
    assert code == 0

    def adam(params: Any) -> Any:
        return thalweg.Adam(params, convention="paper", beta1=0.5, weight_decay=0.01)

    test = lr_find(TASK, adam, end=1e3, seed=3)
    assert said == f"{test}\n\n{test.plot(60)}\n"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert all(f"{n}, {s.lr:.2g}" in page for n, s in test.suggestions.items())


def test_the_command_ends_with_1_where_it_has_nothing_to_suggest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = command("line.py --end 1e-6", tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "No learning rate can be recommended" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lime.py", ["lime.py does not exist"]),
        ("line.py --optimizer sdg", ["'sdg'", "Did you mean sgd"]),
        ("line.py --optimizer adam --beta3 0.5", ["unknown setting of Adam", "'beta3'", "beta1"]),
        ("line.py --optimizer adam --beta1 2", ["beta1 is 2", "[0, 1)"]),
        ("line.py --end 1e-9", ["the learning rate must rise"]),
        ("line.py --steps 1", ["steps is 1"]),
        ("line.py --batch-size 0", ["batch_size is 0"]),
        ("line.py --optimizer rprop", ["Rprop reads lr in its first step only"]),
        ("line.py --end 1e3 --png no/a.png", ["no/a.png cannot be written"]),
        ("line.py --end 1e3 --html no/a.html", ["no/a.html cannot be written"]),
    ],
)
def test_mistakes_of_the_command_are_named(
    line: str,
    says: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, said = command(line, tmp_path, monkeypatch, capsys)
    assert code == 2
    assert all(part in said for part in says)


def test_the_plot_marks_the_suggestions_where_they_are() -> None:
    test = curve(lambda x: 2 + (x + 2) ** 2 / 9)
    lines = test.plot(80).splitlines()
    marks, axis = lines[-3], lines[-4]
    first, last = axis.index("└") + 1, len(axis) - 1
    for name, suggestion in test.suggestions.items():
        share = (math.log10(suggestion.lr) + 5) / 5
        assert marks[round(first + share * (last - first))] in (name[0], "*")
    assert lines[-2].split() == ["1e-05", "lr", "1"]
    assert max(map(len, lines)) <= 80
