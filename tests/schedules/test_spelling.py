"""Schedules written in one word."""

import pytest

from thalweg import UsageError, schedules
from thalweg.schedules import SCHEDULES, Schedule
from thalweg.schedules.spelling import example, names, parsed


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("one-cycle:lr=3e-3,final_share=0.1", schedules.one_cycle(3e-3, final_share=0.1)),
        ("one_cycle:lr=1e+3,start=1/25", schedules.one_cycle(1000, start=1 / 25)),
        ("cosine", schedules.cosine(0.5)),
        ("step:at=30/60", schedules.step(0.5, at=[30, 60])),
        ("step:every=30", schedules.step(0.5, every=30)),
        ("one-cycle-lr:three-phase=true", schedules.one_cycle_lr(0.5, three_phase=True)),
        ("one-cycle-momentum:low=0.8", schedules.one_cycle_momentum(low=0.8)),
        (
            "warmup:steps=500+cosine:end=1e-5",
            schedules.join(schedules.warmup(500), schedules.cosine(0.5, 1e-5)),
        ),
        (
            "join:at=30+constant:value=0.1+exponential:start=1e+1,factor=0.9",
            schedules.join(schedules.constant(0.1), schedules.exponential(10, 0.9), at=[30]),
        ),
    ],
)
def test_text_is_the_schedule(text: str, schedule: Schedule) -> None:
    assert names(text)
    assert parsed(text, value=0.5) == schedule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cosin", ["unknown schedule 'cosin'", "Did you mean cosine"]),
        ("cosine:strat=1", ["'strat'", "Did you mean start"]),
        ("cosine:start", ["'start' in 'cosine:start'", "setting=value"]),
        ("cosine:start=abc", ["start of cosine is 'abc'", "finite number"]),
        ("cosine:start=1/0", ["start of cosine is '1/0'"]),
        ("cosine", ["cosine needs start"]),
        ("warmup+cosine:start=1", ["warmup needs steps"]),
    ],
)
def test_mistake_is_named_with_what_is_allowed(text: str, says: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        parsed(text)
    for part in says:
        assert part in str(raised.value)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_example_shows_a_schedule_by_its_name_alone(name: str) -> None:
    values = [example(name.replace("_", "-")).over(50)(step) for step in range(50)]
    assert max(values) <= 1


def test_an_example_gives_way_to_what_is_said() -> None:
    assert example("step:every=10") == schedules.step(1, every=10)
    assert example("cosine-restarts:growth=3") == schedules.cosine_restarts(1, period=20, growth=3)


def test_optimizers_are_not_schedules() -> None:
    assert not names("adam:lr=1+decay")
    assert not names("adamw")
