"""What a mistake is answered with."""

import pickle

import pytest

from thalweg.errors import UsageError, unknown

KNOWN = ("sgd", "momentum", "adam", "adamw", "Adamax")


def test_mistake_is_a_value_error_of_its_own():
    assert issubclass(UsageError, ValueError)
    assert not issubclass(UsageError, AttributeError)
    again = pickle.loads(pickle.dumps(UsageError("lr is -1")))
    assert isinstance(again, UsageError)
    assert str(again) == "lr is -1"


def test_unknown_name_is_answered_with_the_nearest_and_with_all():
    error = unknown("optimizer", "momentun", KNOWN)
    assert isinstance(error, UsageError)
    assert str(error) == (
        "unknown optimizer 'momentun'. Did you mean momentum? "
        "Known: Adamax, adam, adamw, momentum, sgd."
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("SGD", "sgd"),
        ("Momentum ", "momentum"),
        ("adamx", "Adamax"),
        ("ADAMW", "adamw or adam or Adamax"),
    ],
)
def test_nearest_is_found_whatever_the_case(name: str, near: str):
    said = str(unknown("optimizer", name, KNOWN))
    offered = said.partition("Did you mean ")[2].partition("?")[0].split(" or ")
    assert offered[0] in near.split(" or ")
    assert near.split(" or ")[0] in offered


@pytest.mark.parametrize("name", ["", "xyzzy", "qqqqqqqqqqqqqqqq", "1"])
def test_nothing_is_offered_for_what_is_like_nothing(name: str):
    said = str(unknown("optimizer", name, KNOWN))
    assert said == f"unknown optimizer {name!r}. Known: Adamax, adam, adamw, momentum, sgd."


def test_at_most_three_are_offered():
    said = str(unknown("setting", "beta", [f"beta{i}" for i in range(9)]))
    assert said.partition("?")[0].count("beta") == 1 + 3


def test_what_is_known_may_be_any_iterable():
    assert str(unknown("task", "b", iter({"b2": 1, "a": 2}))).endswith("Known: a, b2.")


def test_name_of_the_same_case_is_offered():
    assert "Did you mean Adam" in str(unknown("name", "Adm", ["adam", "Adam"]))
