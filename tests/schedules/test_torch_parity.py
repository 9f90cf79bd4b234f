"""Every schedule that torch has, beside torch's own, step by step."""

import random
from collections.abc import Callable
from math import isclose
from typing import Any

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from thalweg import schedules
from thalweg.schedules import Schedule

STEPS = 1500
TRIALS = range(5)


def theirs(make: Callable[[SGD], Any], lr: float, steps: int) -> list[float]:
    """What torch's scheduler sets for each step, in Python's own float64."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    values: list[float] = []
    optimizer.step()  # torch warns where none comes before the scheduler's
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return values


def agree(ours: Callable[[int], float], torchs: list[float]) -> None:
    for step, value in enumerate(torchs):
        assert isclose(ours(step), value, rel_tol=1e-12, abs_tol=1e-12), step


@pytest.fixture(params=TRIALS)
def draw(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)


def test_constant(draw: random.Random) -> None:
    lr, factor, steps = draw.uniform(1e-4, 1), draw.uniform(0.1, 1), draw.randint(1, 100)
    ours = schedules.join(schedules.constant(lr * factor), schedules.constant(lr), at=[steps])
    agree(ours, theirs(lambda o: lr_scheduler.ConstantLR(o, factor, steps), lr, STEPS))


def test_linear(draw: random.Random) -> None:
    lr, steps = draw.uniform(1e-4, 1), draw.randint(1, 1200)
    first, last = draw.uniform(0.01, 1), draw.uniform(0, 1)
    agree(
        schedules.linear(lr * first, lr * last, steps),
        theirs(lambda o: lr_scheduler.LinearLR(o, first, last, steps), lr, STEPS),
    )


def test_polynomial(draw: random.Random) -> None:
    lr, steps, power = draw.uniform(1e-4, 1), draw.randint(1, 1200), draw.choice([1, 0.9, 2, 3.5])
    agree(
        schedules.polynomial(lr, steps=steps, power=power),
        theirs(lambda o: lr_scheduler.PolynomialLR(o, steps, power), lr, STEPS),
    )


def test_exponential(draw: random.Random) -> None:
    lr, factor = draw.uniform(1e-4, 1), draw.uniform(0.9, 1)
    agree(
        schedules.exponential(lr, factor),
        theirs(lambda o: lr_scheduler.ExponentialLR(o, factor), lr, STEPS),
    )


def test_step(draw: random.Random) -> None:
    lr, factor, every = draw.uniform(1e-4, 1), draw.uniform(0.1, 1), draw.randint(1, 200)
    agree(
        schedules.step(lr, factor, every),
        theirs(lambda o: lr_scheduler.StepLR(o, every, factor), lr, STEPS),
    )


def test_step_at_boundaries(draw: random.Random) -> None:
    lr, factor = draw.uniform(1e-4, 1), draw.uniform(0.1, 1)
    at = sorted(draw.sample(range(1, 1400), draw.randint(1, 6)))
    agree(
        schedules.step(lr, factor, at=at),
        theirs(lambda o: lr_scheduler.MultiStepLR(o, at, factor), lr, STEPS),
    )


def test_cosine(draw: random.Random) -> None:
    lr, end, steps = draw.uniform(1e-2, 1), draw.uniform(0, 1e-2), draw.randint(1000, STEPS)
    agree(
        schedules.cosine(lr, end, steps),
        theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, steps, end), lr, steps),
    )


def test_cosine_restarts(draw: random.Random) -> None:
    lr, end = draw.uniform(1e-2, 1), draw.uniform(0, 1e-2)
    period, growth = draw.randint(1, 200), draw.randint(1, 3)
    agree(
        schedules.cosine_restarts(lr, end, period=period, growth=growth),
        theirs(
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, period, growth, end), lr, STEPS
        ),
    )


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("setting", ["momentum", "betas"])
def test_one_cycle_lr(draw: random.Random, strategy: str, three_phase: bool, setting: str) -> None:
    peak, share = draw.uniform(1e-3, 1), draw.uniform(0.1, 0.5)
    steps = draw.choice([draw.randint(10, 100), draw.randint(1000, STEPS)])
    divisor, final = draw.uniform(2, 50), draw.uniform(2, 1e4)
    low, high = draw.uniform(0.5, 0.85), draw.uniform(0.86, 0.99)

    def make(optimizer: Any) -> lr_scheduler.OneCycleLR:
        return lr_scheduler.OneCycleLR(
            optimizer,
            peak,
            steps,
            pct_start=share,
            anneal_strategy=strategy,  # pyright: ignore
            base_momentum=low,
            max_momentum=high,
            div_factor=divisor,
            final_div_factor=final,
            three_phase=three_phase,
        )

    ours = schedules.one_cycle_lr(peak, steps, share, strategy, divisor, final, three_phase)
    against = schedules.one_cycle_lr_momentum(low, high, steps, share, strategy, three_phase)
    assert schedules.momentum_of(ours, base_momentum=low, max_momentum=high) == against
    made = torch.optim.Adam if setting == "betas" else lambda p: SGD(p, momentum=0.9)
    optimizer: Any = made([torch.zeros(1, requires_grad=True)])
    scheduler = make(optimizer)
    optimizer.step()
    for step in range(steps):
        group = optimizer.param_groups[0]
        momentum = group["betas"][0] if setting == "betas" else group["momentum"]
        assert isclose(ours(step), group["lr"], rel_tol=1e-12, abs_tol=1e-12), step
        assert isclose(against(step), momentum, rel_tol=1e-12, abs_tol=1e-12), step
        if step < steps - 1:
            scheduler.step()


def test_join(draw: random.Random) -> None:
    lr, rise, steps = draw.uniform(1e-3, 1), draw.randint(1, 100), draw.randint(1000, 1400)
    ours = schedules.join(schedules.linear(lr / 10, lr, rise), schedules.cosine(lr, steps=steps))

    def make(optimizer: SGD) -> lr_scheduler.SequentialLR:
        first = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, rise)
        second = lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return lr_scheduler.SequentialLR(optimizer, [first, second], [rise])

    agree(ours, theirs(make, lr, rise + steps))
    assert ours.steps == rise + steps


def test_join_of_functions(draw: random.Random) -> None:
    lr, turn, power = draw.uniform(1e-3, 1), draw.randint(1, 1400), draw.uniform(0.1, 2)

    def first(step: int) -> float:
        return 1 / (1 + step) ** power

    def second(step: int) -> float:
        return 0.5 + step / 3000

    def make(optimizer: SGD) -> lr_scheduler.SequentialLR:
        parts: list[Any] = [lr_scheduler.LambdaLR(optimizer, f) for f in (first, second)]
        return lr_scheduler.SequentialLR(optimizer, parts, [turn])

    ours = schedules.join(lambda step: lr * first(step), lambda step: lr * second(step), at=[turn])
    agree(ours, theirs(make, lr, STEPS))


def test_join_of_lines_is_cyclic(draw: random.Random) -> None:
    low, high = draw.uniform(1e-4, 0.1), draw.uniform(0.2, 1)
    up, down = draw.randint(1, 200), draw.randint(1, 200)
    cycle = (schedules.linear(low, high, up), schedules.linear(high, low, down))
    ours: Schedule = schedules.join(*(cycle * (STEPS // (up + down) + 1)))
    agree(
        ours,
        theirs(
            lambda o: lr_scheduler.CyclicLR(o, low, high, up, down, cycle_momentum=False),
            low,
            STEPS,
        ),
    )
