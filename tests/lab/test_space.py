"""Ranges and choices, and the points that are spread over them."""

import json
import math

import pytest

from thalweg.errors import UsageError
from thalweg.lab.space import Choice, Range, dimension_from_data, drawn, searched
from thalweg.rules import OPTIMIZERS, STAGES
from thalweg.rules.declaration import Hyper

LR = Hyper(1e-3, "[0, inf)", "learning rate")
BETA = Hyper(0.9, "[0, 1)", "decay")


@pytest.mark.parametrize(
    ("dimension", "middle"),
    [
        (Range(1e-4, 1e-2, "log"), 1e-3),
        (Range(0.9, 0.999, "below 1"), 0.99),
        (Range(0.0, 0.99, "below 1"), 0.9),
        (Range(0.0, 4.0, "linear"), 2.0),
    ],
)
def test_a_range_is_spread_evenly_on_its_scale(dimension: Range, middle: float) -> None:
    assert dimension.at(0.5) == pytest.approx(middle, rel=1e-12)
    ends = (dimension.at(0), dimension.at(1))
    assert ends == pytest.approx((dimension.low, dimension.high), rel=1e-12)
    for share in (0.0, 0.2, 0.7, 1.0):
        assert dimension.share(dimension.at(share)) == pytest.approx(share, abs=1e-9)


def test_whole_numbers_stay_whole() -> None:
    found = {Range(1, 10, "log", integer=True).at(i / 100) for i in range(101)}
    assert found == set(range(1, 11))


def test_an_edge_is_a_twentieth_of_the_range() -> None:
    dimension = Range(1e-4, 1.0, "log")
    assert [dimension.is_edge(dimension.at(s)) for s in (0.0, 0.04, 0.06, 0.94, 0.96, 1.0)] == [
        *(True, True, False, False, True, True)
    ]


def test_a_choice_gives_each_option_its_share() -> None:
    choice = Choice(("a", "b", "c", "d"))
    assert [choice.at(s) for s in (0, 0.24, 0.26, 0.74, 0.76, 1)] == ["a", "a", "b", "c", "d", "d"]


@pytest.mark.parametrize(
    ("hyper", "low", "high", "scale"),
    [
        (LR, 1e-4, 1.0, "log"),
        (LR, 0.0, 1.0, "linear"),
        (BETA, 0.5, 0.999, "below 1"),
        (Hyper(0.7, "[0, 1]", "share"), 0.1, 1.0, "log"),
    ],
)
def test_the_scale_suits_the_hyperparameter(
    hyper: Hyper, low: float, high: float, scale: str
) -> None:
    assert searched("x", hyper, low, high) == Range(low, high, scale)  # pyright: ignore


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (1.0, 0.1, "must be below the high one: write lr=0.1..1"),
        (0.1, 0.1, "a single value: write lr=0.1"),
        (-1.0, 0.1, "lr is -1"),
        (0.1, math.nan, "lr is nan"),
    ],
)
def test_a_range_that_is_none(low: float, high: float, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        searched("lr", LR, low, high)


def test_every_declared_range_can_be_searched() -> None:
    for rule in (*OPTIMIZERS.values(), *STAGES.values()):
        for name, hyper in rule.hypers.items():
            if hyper.search is not None:
                found = searched(name, hyper, *hyper.search)
                for share in (0.0, 0.3, 1.0):
                    hyper.checked(name, found.at(share))


SPACE = {"lr": Range(1e-4, 1.0, "log"), "way": Choice(("up", "down")), "b": Range(0, 1, "linear")}


def test_more_points_begin_with_the_same_ones() -> None:
    many = drawn(SPACE, 40, "key")
    for count in (1, 2, 7, 16, 33):
        assert drawn(SPACE, count, "key") == many[:count]
    assert drawn(SPACE, 40, "other") != many
    assert drawn(SPACE, 0, "key") == drawn({}, 5, "key") == []


def test_points_fill_the_space_evenly() -> None:
    points = drawn(SPACE, 16, "key")
    # A scrambled Sobol net has one of 16 points in each sixteenth of every side.
    for name in ("lr", "b"):
        dimension = SPACE[name]
        assert isinstance(dimension, Range)
        places = sorted(dimension.share(float(p[name])) for p in points)
        assert [int(16 * place) for place in places] == list(range(16))
    assert [p["way"] for p in points].count("up") == 8


def test_dimensions_survive_being_written_down() -> None:
    for dimension in (*SPACE.values(), Choice(((0.0, 0.9), (0.5,))), Choice((True, False))):
        assert dimension_from_data(json.loads(json.dumps(dimension.data()))) == dimension
