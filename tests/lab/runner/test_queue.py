"""Which run comes next."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from thalweg.lab.contestant import contestant
from thalweg.lab.plan import Plan, Run, TaskPlan
from thalweg.lab.runner.queue import Queue
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.training import Record

FACTS = TaskFacts("digits", "", "accuracy", True, 1, 32, None)


def plan(*optimizers: str, trials: int = 1, tasks: tuple[str, ...] = ("digits",)) -> Plan:
    return Plan(
        tasks=tuple(TaskPlan(spec, 1, 32) for spec in tasks),
        contestants=tuple(contestant(name, trials) for name in optimizers),
        convention="paper",
        trials=trials,
        seeds=(1, 2),
    )


def study(of: Plan, *ended: Result) -> Study:
    return Study(of, {t.spec: FACTS for t in of.tasks}, ended)


def result(
    run: Run, metric: float = 0.5, seconds: float = 1.0, status: Status = "finished"
) -> Result:
    epochs = (Record(1, 1, 0.5, 0.5, 0.1, 0.1), Record(2, 2, 0.5, 0.5, metric, seconds))
    return Result(run, status, "", epochs, {})


def taken(queue: Queue, task: str | None = None) -> Iterator[Run]:
    while (order := queue.take(task)) is not None:
        yield order.run


def names(runs: Iterator[Run]) -> list[str]:
    return [run.optimizer for run in runs]


THREE = plan("sgd", "qhadam", "momentum")


def test_runs_that_take_most_operations_come_first():
    runs = list(taken(Queue(study(THREE))))
    assert names(iter(runs)) == ["qhadam"] * 2 + ["momentum"] * 2 + ["sgd"] * 2
    assert [run.seed for run in runs] == [1, 2] * 3
    chained = plan("sgd", "l2:weight_decay=0.1+sgd")
    assert next(taken(Queue(study(chained)))).optimizer == "l2:weight_decay=0.1+sgd"


def test_runs_that_took_longest_so_far_come_first():
    queue = Queue(study(THREE, result(Run("digits", "sgd", 0, 1), seconds=60.0)))
    queue.ended(result(Run("digits", "qhadam", 0, 1), seconds=20.0))
    # What is known of the two: 80 s for so many operations. Momentum takes less than QHAdam.
    assert names(taken(queue))[0] == "sgd"


def test_what_is_not_known_is_guessed_at_the_pace_of_what_is():
    slow = Queue(study(THREE, result(Run("digits", "sgd", 0, 1), seconds=1e3)))
    assert names(taken(slow)) == ["qhadam"] * 2 + ["momentum"] * 2 + ["sgd"]
    # 1 s for each of two, of which one has many operations: the third one takes between.
    found = (
        result(Run("digits", "qhadam", 0, 1), seconds=1.0),
        result(Run("digits", "sgd", 0, 1), seconds=1e3),
    )
    assert names(taken(Queue(study(THREE, *found)))) == ["sgd", "momentum", "momentum", "qhadam"]


@pytest.mark.parametrize("status", ["finished", "diverged", "failed"])
def test_only_what_has_not_ended_is_begun(status: Status):
    ended = [Run("digits", "qhadam", 0, 2), Run("digits", "sgd", 0, 1)]
    left = list(taken(Queue(study(THREE, *(result(r, status=status) for r in ended)))))
    assert len(left) == 4
    assert set(ended).isdisjoint(left)
    everything = [result(r) for r in taken(Queue(study(THREE)))]
    assert Queue(study(THREE, *everything)).take() is None


def test_the_best_trial_is_judged_as_soon_as_all_have_ended():
    two = plan("sgd", "adam", trials=3)
    queue = Queue(study(two, result(Run("digits", "sgd", 0, 0), metric=0.4)))
    runs = list(taken(queue))
    assert sorted((r.optimizer, r.trial) for r in runs) == [
        *[("adam", i) for i in range(3)],
        *[("sgd", i) for i in (1, 2)],
    ]
    assert {r.seed for r in runs} == {0}
    queue.ended(result(Run("digits", "adam", 2, 0), metric=1.0))
    queue.ended(result(Run("digits", "sgd", 2, 0), metric=0.9))
    assert queue.take() is None
    queue.ended(result(Run("digits", "sgd", 1, 0), metric=1.0, status="diverged"))
    fresh = [Run("digits", "sgd", 2, seed) for seed in (1, 2)]
    assert list(taken(queue)) == fresh
    for run in fresh:
        queue.ended(result(run))
    assert queue.take() is None


def test_an_optimizer_all_of_whose_trials_fail_is_not_judged():
    one = plan("sgd", trials=2)
    queue = Queue(study(one))
    for run in list(taken(queue)):
        queue.ended(result(run, status="failed"))
    assert queue.take() is None


def test_what_was_judged_before_more_trials_is_not_judged_again():
    one = plan("sgd", trials=3)
    first = Run("digits", "sgd", 1, 1)
    done = [result(Run("digits", "sgd", i, 0), metric=0.1 + 0.1 * i) for i in range(2)]
    queue = Queue(study(one, *done, result(first)))
    assert list(taken(queue)) == [Run("digits", "sgd", 2, 0)]
    queue.ended(result(Run("digits", "sgd", 2, 0), metric=0.0))
    assert list(taken(queue)) == [Run("digits", "sgd", 1, 2)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1.5, ["sgd", "momentum", "momentum"]), (2.5, ["momentum", "momentum", "sgd"])],
)
def test_a_trial_counts_twice_since_a_run_comes_after_it(seconds: float, expected: list[str]):
    found = [result(Run("digits", "momentum", i, 0), seconds=seconds) for i in range(2)]
    found.append(result(Run("digits", "sgd", 0, 0), seconds=1.0))
    two = plan("sgd", "momentum", trials=2)
    assert names(taken(Queue(study(two, *found)))) == expected


def test_runs_of_a_task_go_together_and_with_who_has_its_data():
    several = plan("sgd", "adam", tasks=("mnist", "digits"))
    assert [r.task for r in taken(Queue(study(several)))] == ["mnist"] * 4 + ["digits"] * 4
    found = [r.task for r in taken(Queue(study(several)), "digits")]
    assert found == ["digits"] * 4 + ["mnist"] * 4


def test_an_order_is_that_of_the_plan():
    one = replace(plan("sgd", trials=2), reshuffle=False)
    given = Queue(study(one)).take()
    planned = one.order(Run("digits", "sgd", 0, 0))
    assert given is not None
    assert replace(given, rule=planned.rule) == planned
    assert given.rule.given == planned.rule.given


def test_ten_thousand_runs_take_little_of_the_parents_time():
    many = plan(*(f"momentum:gamma={i / 100}" for i in range(20)), trials=500)
    queue = Queue(study(many))
    started, count = time.process_time(), 0
    for run in taken(queue):
        queue.ended(result(run))
        count += 1
    assert count == 20 * 502
    # A run: 0.2 ms, measured; to look through all results each time takes 5 ms and more.
    assert time.process_time() - started < 10
