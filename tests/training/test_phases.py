"""Phases as they are written down, and where they stand among the steps of a run."""

import json
from typing import Any

import pytest

import thalweg as tw
from thalweg import UsageError
from thalweg.schedules import constant, cosine, join, linear, warmup
from thalweg.training import Phase
from thalweg.training.phases import spans


def doubled(step: int) -> float:
    return 2.0 * step


PHASES = [
    Phase(3),
    Phase(0.5, freeze="body", decay="l2", lr=0.1),
    Phase(2, freeze=("0", "2.weight"), lr=(1e-3, cosine(3e-3), 1e-2), momentum=0.5),
    Phase(1, lr=tw.one_cycle(1e-2), beta1=join(warmup(3), linear(0.9, 0.8))),
]


@pytest.mark.parametrize("phase", PHASES, ids=str)
def test_a_phase_is_the_same_after_json(phase: Phase) -> None:
    assert Phase.from_data(json.loads(json.dumps(phase.data()))) == phase


@pytest.mark.parametrize("phase", PHASES, ids=str)
def test_a_phase_can_be_typed_back(phase: Phase) -> None:
    names: dict[str, Any] = {**vars(tw.schedules), "Phase": Phase}
    assert eval(repr(phase), names) == phase


def test_a_function_of_ones_own_is_told_but_not_taken_back() -> None:
    for value in (doubled, join(linear(1, 2, 3), doubled)):
        data = json.loads(json.dumps(Phase(1, lr=(value, 1.0)).data()))
        assert "function" in data["settings"]["lr"][0]
        with pytest.raises(UsageError, match="go on with that program"):
            Phase.from_data(data)
    assert Phase(1, lr=doubled).data()["settings"] == {"lr": {"function": "doubled"}}


def test_lists_are_tuples() -> None:
    assert Phase(1, freeze=["0"], lr=[1.0, 2.0]) == Phase(1, freeze=("0",), lr=(1.0, 2.0))


@pytest.mark.parametrize("epochs", [0, -1, float("nan"), float("inf"), "3", True, None])
def test_epochs_are_a_number_above_0(epochs: Any) -> None:
    with pytest.raises(UsageError, match=r"epochs is .*, but must be a number of passes above 0"):
        Phase(epochs)


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [
        ([1, 2], [7, 14]),
        # Ends are rounded, so that halves are neither lost nor found: 2.1, 4.2, 6.3, 7.
        ([0.3, 0.3, 0.3, 0.1], [2, 2, 2, 1]),
        ([1 / 7] * 7, [1] * 7),
        ([0.5, 0.5, 1.0], [4, 3, 7]),
    ],
)
def test_phases_are_back_to_back_and_fractions_do_not_add_up(
    epochs: list[float], steps: list[int]
) -> None:
    found = spans([Phase(n) for n in epochs], 7)
    assert [s.steps for s in found] == steps
    assert [s.first for s in found] == [sum(steps[:i]) for i in range(len(steps))]


def test_schedules_are_as_long_as_their_phase() -> None:
    [first, second] = spans(
        [Phase(1, lr=linear(1.0, 0.0)), Phase(2, lr=(0.5, cosine(1.0)), beta1=constant(0.5))], 7
    )
    assert first.phase.settings == {"lr": linear(1.0, 0.0, 7)}
    assert second.phase.settings == {"lr": (0.5, cosine(1.0, steps=14)), "beta1": constant(0.5)}


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ([], r"phases is empty, but a run needs one"),
        ([Phase(1), Phase(0.01)], r"phase 1 has 0\.01 epochs, less than a step: .* 7 steps"),
        (
            [Phase(1), Phase(1, lr=(0.1, tw.one_cycle(0.1, steps=8)))],
            r"lr in phase 1 has a schedule of 8 steps, but there are 7",
        ),
        ([Phase(1, beta1=tw.one_cycle(0.1, steps=6))], "beta1 in phase 0 .* 6 steps.* are 7"),
    ],
)
def test_what_does_not_fit_is_a_mistake(phases: list[Phase], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        spans(phases, 7)
