"""What a run may be asked for."""

import math
from typing import Any

import pytest

from thalweg import UsageError
from thalweg.training import Recipe


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("batch_size", [0, -1, 2.0, True, "all"], "a whole number from 1"),
        ("accumulate", [0, 1.5, None], "a whole number from 1"),
        ("seed", [-1, 2**32, 0.5], r"a whole number from 0 to 2\^32 - 1"),
        ("clip_norm", [0, -1.0, math.nan, math.inf, True, "1"], "a number above 0"),
        ("ema", [0, 1, 1.5, math.nan], "a number between 0 and 1"),
        ("swa", [-1, math.inf, "1"], "the number of an epoch, from 0"),
        ("evaluate_every", [0, -1, math.nan, math.inf], "a number of epochs above 0"),
    ],
)
def test_numbers_out_of_range(name: str, values: list[Any], says: str) -> None:
    for value in values:
        with pytest.raises(UsageError, match=rf"^{name} is {value!r}, but must be {says}"):
            Recipe(**{name: value})


@pytest.mark.parametrize("name", ["precision", "nonfinite"])
def test_words_that_are_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="'often'"):
        Recipe(**{name: "often"})  # type: ignore[arg-type]


def test_the_ends_of_ranges_are_allowed() -> None:
    Recipe(batch_size=1, accumulate=1, seed=2**32 - 1, clip_norm=1e-9, ema=0.5, evaluate_every=1e-9)
    Recipe(seed=0, swa=0)


def test_weights_are_averaged_in_one_way_only() -> None:
    with pytest.raises(UsageError, match=r"ema is 0\.9 and swa is 3, but"):
        Recipe(ema=0.9, swa=3)
