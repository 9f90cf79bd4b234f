"""What every schedule is: a pure function of the step, and data."""

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from thalweg import UsageError, schedules
from thalweg.schedules import SCHEDULES, Schedule

# One of each kind, its length given.
EACH = {name: form.of(form.example).over(60) for name, form in SCHEDULES.items()}


@pytest.fixture(params=EACH)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return EACH[request.param]


def test_it_is_a_function_of_the_step_alone(schedule: Schedule) -> None:
    steps = range(schedule.steps or 200)
    forward = [schedule(step) for step in steps]
    assert all(type(value) is float for value in forward)
    assert [schedule(step) for step in reversed(steps)] == forward[::-1]
    assert schedule(np.int64(3)) == forward[3]


def test_it_comes_back_from_its_repr_its_data_and_a_pickle(schedule: Schedule) -> None:
    data = json.loads(json.dumps(schedule.data()))
    for again in (
        eval(repr(schedule), vars(schedules)),
        Schedule.from_data(data),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
    ):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again.steps == schedule.steps
        assert again(7) == schedule(7)


def test_schedules_differ_by_any_setting() -> None:
    made = {*EACH.values(), schedules.cosine(0.1), schedules.cosine(0.1, steps=60)}
    assert len(made) == len(EACH) + 2
    assert schedules.cosine(1) == schedules.cosine(start=np.float64(1.0), end=0)


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (schedules.linear(0, 1, 60), None),
        (schedules.polynomial(1, steps=60), None),
        (schedules.constant(1), None),
        (schedules.cosine(1, steps=60), 60),
        (schedules.one_cycle(1, 60), 60),
        (schedules.one_cycle_momentum(steps=60), 60),
        (schedules.one_cycle_lr(1, 60), 60),
        (schedules.warmup_stable_decay(1, steps=60), 60),
        (schedules.join(schedules.warmup(5), schedules.cosine(1, steps=10)), 15),
        (schedules.join(schedules.warmup(5), schedules.linear(1, 0, 10)), None),
        # A lambda's address would make the name of the test another one in every process.
        (schedules.join(schedules.warmup(5), math.tanh), None),
    ],
    ids=repr,
)
def test_it_ends_where_it_says(schedule: Schedule, steps: int | None) -> None:
    assert schedule.steps == steps
    if steps is None:
        assert schedule(10**6) == schedule(10**6 + 1)
    else:
        assert schedule(steps - 1) is not None
        with pytest.raises(UsageError, match=rf"covers {steps} .* step {steps}:"):
            schedule(steps)


@pytest.mark.parametrize("name", ["linear", "polynomial", "cosine", "one_cycle", "one_cycle_lr"])
def test_a_length_that_is_left_open_is_filled_in(name: str) -> None:
    form = SCHEDULES[name]
    open_ = form.of(form.example)
    assert open_.open
    assert open_.steps is None
    with pytest.raises(UsageError, match=r"does not know its length.*\.over\(steps\)"):
        open_(0)
    filled = open_.over(60)
    assert filled == EACH[name] == form.of({**form.example, str(form.length): 60})
    assert not filled.open
    assert filled.over(99) is filled


def test_open_parts_share_what_is_left() -> None:
    cosine, linear = schedules.cosine, schedules.linear
    two = schedules.join(schedules.warmup(10), cosine(1, 0.5), linear(0.5, 0, 30), cosine(0.2))
    assert two.open
    filled = two.over(101)
    assert filled == schedules.join(
        schedules.warmup(10, end=1),
        cosine(1, 0.5, steps=30),
        linear(0.5, 0, 30),
        cosine(0.2, steps=31),
        at=[10, 40, 70],
    )
    assert filled.steps == 101
    within = schedules.join(schedules.warmup(10), schedules.join(cosine(1), cosine(0.5)))
    assert within.over(30).steps == 30


def test_parts_begin_where_at_says() -> None:
    joined = schedules.join(schedules.constant(1), schedules.cosine(0.5), at=3).over(7)
    assert [joined(step) for step in range(4)] == [1, 1, 1, 0.5]
    assert joined(5) == pytest.approx(0.25)
    assert joined.steps == 7
    held = schedules.join(schedules.linear(0, 1, 2), schedules.constant(5), at=[4])
    assert [held(step) for step in range(5)] == [0, 0.5, 1, 1, 5]


def test_a_warmup_leads_to_what_comes_after_it() -> None:
    warmup = schedules.warmup
    assert schedules.join(warmup(4), lambda step: 8.0 + step)(2) == 4
    twice = schedules.join(warmup(2), warmup(2, start=0.5), schedules.cosine(1)).over(8)
    assert [twice(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def wrong(expression: str) -> str:
    with pytest.raises(UsageError) as raised:
        eval(expression, {**vars(schedules), "inf": float("inf")})
    return str(raised.value)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("cosine()", ["cosine needs start", "finite number"]),
        ("cosine('a')", ["start of cosine is 'a'", "finite number"]),
        ("cosine(True)", ["start of cosine is True"]),
        ("cosine(inf)", ["start of cosine is inf"]),
        ("cosine(1, steps=0)", ["steps of cosine is 0", "whole number from 1"]),
        ("cosine(1, steps=2.5)", ["steps of cosine is 2.5"]),
        ("cosine(1, 0, 9, 4)", ["cosine takes start, end, steps", "4 values"]),
        ("cosine(1, start=2)", ["got start twice"]),
        ("cosine(1, stesp=2)", ["'stesp'", "Did you mean steps"]),
        ("cosine(1, steps=9)(-1)", ["step is -1", "from 0"]),
        ("cosine(1, steps=9)(1.5)", ["step is 1.5", "whole number"]),
        ("cosine(1).over(0)", ["steps of cosine is 0"]),
        ("exponential(1, 0)", ["factor of exponential is 0", "above 0"]),
        ("step(1)", ["every is None and at is []", "one of them"]),
        ("step(1, every=3, at=[3])", ["every is 3 and at is [3]", "one of them"]),
        ("step(1, at=[5, 3])", ["at of step is [5, 3]", "after the one before"]),
        ("one_cycle(1, final_share=1)", ["final_share of one_cycle is 1", "[0, 1)"]),
        ("one_cycle(1, end=-0.1)", ["end of one_cycle is -0.1", "from 0"]),
        ("one_cycle(1, steps=2)", ["steps is 2", "1 up and 1 down", "0.075"]),
        ("one_cycle(1).over(2)", ["steps is 2", "1 up and 1 down"]),
        ("one_cycle_lr(1, anneal_strategy='sine')", ["'sine'", "'cos' or 'linear'"]),
        ("one_cycle_lr(1, three_phase=1)", ["three_phase", "True or False"]),
        ("one_cycle_lr(1, 9, 0.6, three_phase=True)", ["pct_start is 0.6", "0.5 at most"]),
        (
            "warmup_stable_decay(1, steps=9, warmup_share=0.5, decay_share=0.7)",
            ["warmup_share is 0.5", "decay_share is 0.7", "1 at most"],
        ),
        ("warmup(5)(0)", ["join it before one"]),
        ("warmup(5).over(9)", ["join it before one"]),
        ("join(constant(1), warmup(3), at=[4])", ["warmup(steps=3)", "join it before one"]),
        ("join()", ["no schedules"]),
        ("join(3)", ["parts of join is (3,)", "a function of the step"]),
        ("join(constant(1), constant(2))", ["constant(value=1.0) has no end", "at=[100]"]),
        ("join(cosine(1), constant(2))", ["cosine(start=1.0) has no length", "give steps, or at"]),
        ("join(cosine(1), linear(1, 0, 5), constant(2))", ["constant(value=2.0) after it"]),
        (
            "join(cosine(1), constant(2), at=[4, 9])",
            ["at is [4, 9]", "2 schedules are joined at 1 "],
        ),
        (
            "join(cosine(1, steps=10), constant(1), at=[7])",
            ["cosine(start=1.0, steps=10)", "overlap at step 7", "begin at step 10"],
        ),
        (
            "join(constant(2), linear(1, 0, 10), constant(1), at=[5, 9])",
            ["linear(", "begins at step 5", "overlap at step 9", "begin at step 15"],
        ),
        (
            "join(cosine(1, steps=10), constant(1), at=[12])",
            ["cosine(start=1.0, steps=10)", "gap at step 10"],
        ),
        ("join(warmup(5), cosine(1)).over(5)", ["steps is 5", "take 5", "cosine(start=1.0)"]),
        ("join(lambda step: 1.0).data()", ["function of your own", "cannot be stored"]),
        ("Schedule.from_data({'schedule': 'cosin'})", ["unknown schedule 'cosin'", "cosine"]),
        ("Schedule.from_data({'schedule': 'cosine', 'strat': 1})", ["'strat'", "start"]),
    ],
)
def test_mistake_is_named_with_what_is_allowed(expression: str, says: list[str]) -> None:
    said = wrong(expression)
    for part in says:
        assert part in said


def test_functions_of_the_callers_own_can_be_compared() -> None:
    def own(step: int) -> float:
        return 1.0

    joined: Any = schedules.join(schedules.warmup(3), own)
    assert joined == schedules.join(schedules.warmup(3), own)
    assert joined != schedules.join(schedules.warmup(3), lambda step: 1.0)
