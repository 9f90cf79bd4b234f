"""The facts that are known of a task where it is not loaded."""

import pickle
from dataclasses import fields

from thalweg.lab.study import TaskFacts
from thalweg.tasks import Task


def never(*_: object) -> None:
    raise AssertionError("called")


TASK = Task("name", never, never, never, never, "error", False, 3, 16, 0.25, "about")  # pyright: ignore


def test_facts_are_the_tasks():
    facts = TaskFacts.of(TASK)
    assert facts == TaskFacts("name", "about", "error", False, 3, 16, 0.25)
    for field in fields(TaskFacts):
        assert getattr(facts, field.name) == getattr(TASK, field.name)


def test_facts_can_be_sent_to_another_process():
    facts = TaskFacts.of(TASK)
    assert pickle.loads(pickle.dumps(facts)) == facts
