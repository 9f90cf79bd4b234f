"""Values worked by hand from the papers and from fast.ai's code."""

import math

import pytest

from thalweg import schedules
from thalweg.schedules import Schedule

WORKED: list[tuple[Schedule, dict[int, float]]] = [
    (
        # Of 40 steps, 0.925 * 40 / 2 = 18.5, so 18 go up, 18 down, and 4 are left.
        schedules.one_cycle(1.0, steps=40),
        {
            0: 0.1,
            9: 0.55,  # half of the way: (0.1 + 1) / 2
            18: 1.0,
            27: 0.55,
            36: 0.1,
            37: 0.07525,  # (1 - 0.99 * 1/4) / 10
            38: 0.0505,  # (1 - 0.99 * 2/4) / 10
            39: 0.02575,  # (1 - 0.99 * 3/4) / 10
        },
    ),
    (
        # A final share of 0.2 leaves 16 up and 16 down, and 8.
        schedules.one_cycle(0.5, 40, start=1 / 25, end=1 / 5, final=1 / 100, final_share=0.2),
        {
            0: 0.02,  # 0.5 / 25
            8: 0.26,  # (0.02 + 0.5) / 2
            16: 0.5,
            24: 0.3,  # (0.5 + 0.1) / 2
            32: 0.1,  # 0.5 / 5
            36: 0.0525,  # (0.1 + 0.005) / 2
        },
    ),
    (
        schedules.one_cycle_momentum(0.95, 0.85, steps=40),
        {0: 0.95, 9: 0.9, 18: 0.85, 27: 0.9, 36: 0.95, 37: 0.95, 39: 0.95},
    ),
    (
        # The paper's base model has a width of 512 and 4,000 steps of warm-up, counted from 1.
        schedules.inverse_sqrt(512**-0.5 * 4000**-0.5, warmup=4000),
        {
            0: 1.7469281074217e-7,  # 512^-0.5 * 1 * 4000^-1.5 = 0.04419417 * 3.9528471e-6
            1999: 3.4938562148434e-4,  # half of the peak
            3999: 6.9877124296868e-4,  # 0.04419417 * 0.01581139
            15999: 3.4938562148434e-4,  # 0.04419417 * 16000^-0.5, half of the peak again
        },
    ),
    (
        schedules.warmup_stable_decay(2.0, steps=100, warmup_share=0.1, decay_share=0.2),
        {0: 0.0, 5: 1.0, 10: 2.0, 79: 2.0, 80: 2.0, 90: 1.0, 99: 0.1},
    ),
    (
        schedules.warmup_stable_decay(1.0, 0.2, 100, 0.0, 0.5, decay="sqrt"),
        # 1 - sqrt(share) of the way from 0.2 to 1; shares of 0.16 and 0.64
        {0: 1.0, 50: 1.0, 58: 0.2 + 0.8 * (1 - 0.4), 82: 0.2 + 0.8 * (1 - 0.8)},
    ),
    (
        # No time in between.
        schedules.warmup_stable_decay(1.0, steps=8, warmup_share=0.5, decay_share=0.5),
        {0: 0.0, 3: 0.75, 4: 1.0, 7: 0.25},
    ),
    (
        # Batches of 8,192 images: from 0.1 to 0.1 * 8192 / 256 = 3.2 in 5 epochs of 156 steps.
        schedules.join(schedules.warmup(780, start=0.1), schedules.constant(3.2)),
        {0: 0.1, 390: 1.65, 780: 3.2, 5000: 3.2},
    ),
    (
        # cos of 60 and of 120 degrees
        schedules.cosine_restarts(1.0, 0.2, period=3, growth=2),
        {0: 1.0, 1: 0.2 + 0.8 * 0.75, 2: 0.2 + 0.8 * 0.25, 3: 1.0, 5: 0.2 + 0.8 * 0.75, 9: 1.0},
    ),
    (
        schedules.cosine_restarts(1.0, period=3),
        {0: 1.0, 2: 0.25, 3: 1.0, 5: 0.25, 6: 1.0, 3_000_001: 0.75},
    ),
]


@pytest.mark.parametrize(("schedule", "values"), WORKED, ids=lambda v: getattr(v, "name", ""))
def test_values_are_those_worked_by_hand(schedule: Schedule, values: dict[int, float]) -> None:
    for step, value in values.items():
        assert schedule(step) == pytest.approx(value, rel=1e-12, abs=1e-15), step


def test_momentum_goes_against_the_rate() -> None:
    rate = schedules.one_cycle(1.0, steps=301, final_share=0.3)
    momentum = schedules.momentum_of(rate, high=0.9, low=0.8)
    assert momentum == schedules.one_cycle_momentum(0.9, 0.8, steps=301, final_share=0.3)
    up, down = 105, 210  # 301 * 0.7 / 2 = 105.35
    assert [rate(up), momentum(up), rate(down), momentum(down)] == [1.0, 0.8, 0.1, 0.9]
    assert schedules.momentum_of(schedules.cosine(1.0)) is None


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("steps", range(1, 12))
def test_short_cycles_stay_within_their_values(steps: int, three_phase: bool) -> None:
    for share in (0.0, 0.1, 0.25, 0.5, *(() if three_phase else (0.9,))):
        cycle = schedules.one_cycle_lr(1.0, steps, share, three_phase=three_phase)
        values = [cycle(step) for step in range(steps)]
        assert all(0 < value <= 1 for value in values)
        assert values[-1] == pytest.approx(1 / 25 / 1e4)


def test_what_grows_without_end_is_infinite() -> None:
    assert schedules.exponential(1.0, 2.0)(5000) == math.inf
