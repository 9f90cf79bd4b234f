"""What a study says of its own runs: which trial is chosen, and what is still to run."""

import pickle
from dataclasses import fields
from typing import Any

from thalweg.lab.contestant import contestants
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.tasks import Task
from thalweg.training import Record


def never(*_: object) -> None:
    raise AssertionError("called")


TASK = Task("name", never, never, never, never, "error", False, 3, 16, 0.25, "about")  # pyright: ignore
FACTS = TaskFacts.of(TASK, has_test=True, parameters=7)


def test_facts_are_the_tasks() -> None:
    assert TaskFacts("name", "about", "error", False, 3, 16, 0.25, True, 7) == FACTS
    for field in fields(TaskFacts):
        if field.name not in ("has_test", "parameters"):
            assert getattr(FACTS, field.name) == getattr(TASK, field.name)


def test_facts_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(FACTS)) == FACTS


def test_the_sign_makes_more_better() -> None:
    assert FACTS.sign == -1
    assert TaskFacts("", "", "", True, 1, 1, None).sign == 1


def result(run: Run, metric: float, status: Status = "finished") -> Result:
    return Result(run, status, "", (Record(1, 10, 1.0, 1.0, metric, 1.0),), {})


def study(*results: Result, **changes: Any) -> Study:
    found, _ = contestants(["adam", "sgd:lr=0.1"], 3)
    plan = Plan((TaskPlan("t", 1, 8),), found, "paper", 3, (1, 2))
    return Study(plan, {"t": changes.get("facts", FACTS)}, results)


def trials(*metrics: float, failed: tuple[int, ...] = ()) -> list[Result]:
    return [
        result(Run("t", "adam", i, 0), m, "diverged" if i in failed else "finished")
        for i, m in enumerate(metrics)
    ]


def test_the_best_trial_is_chosen_by_the_validation_metric() -> None:
    assert study(*trials(0.3, 0.1, 0.2)).chosen("t", "adam") == 1
    accuracy = TaskFacts("", "", "accuracy", True, 1, 1, None)
    assert study(*trials(0.3, 0.1, 0.2), facts=accuracy).chosen("t", "adam") == 0


def test_of_two_equal_trials_the_earlier_one_is_chosen() -> None:
    assert study(*trials(0.3, 0.1, 0.1)).chosen("t", "adam") == 1
    assert study(*reversed(trials(0.3, 0.1, 0.1))).chosen("t", "adam") == 1


def test_nothing_is_chosen_before_all_trials_have_ended() -> None:
    assert study(*trials(0.3, 0.1)).chosen("t", "adam") is None


def test_what_did_not_finish_is_not_chosen() -> None:
    assert study(*trials(0.3, 0.1, 0.2, failed=(1,))).chosen("t", "adam") == 2
    assert study(*trials(0.3, 0.1, 0.2, failed=(0, 1, 2))).chosen("t", "adam") is None


def test_a_single_configuration_needs_no_choice() -> None:
    assert study().chosen("t", "sgd:lr=0.1") == 0


def test_only_runs_of_the_chosen_trial_judge() -> None:
    fresh = [result(Run("t", "adam", trial, seed), 0.5) for seed in (2, 1) for trial in (1, 2)]
    whole = study(*trials(0.3, 0.1, 0.2), *fresh)
    assert [r.run for r in whole.judging("t", "adam")] == [
        Run("t", "adam", 1, 1),
        Run("t", "adam", 1, 2),
    ]
    assert [r.run.trial for r in whole.tuning("t", "adam")] == [0, 1, 2]
    assert study(*fresh).judging("t", "adam") == []


def test_what_can_begin_now() -> None:
    sgd = [Run("t", "sgd:lr=0.1", 0, seed) for seed in (1, 2)]
    assert study().pending() == [*(Run("t", "adam", i, 0) for i in range(3)), *sgd]
    some = study(*trials(0.3, 0.1), result(sgd[0], 0.1))
    assert some.pending() == [Run("t", "adam", 2, 0), sgd[1]]
    chosen = study(*trials(0.3, 0.1, 0.2), result(Run("t", "adam", 1, 1), 0.1))
    assert chosen.pending() == [Run("t", "adam", 1, 2), *sgd]
