"""The eager backend against the float64 reference."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from backends.agreement import (
    LAYOUTS,
    OWN,
    SPECIAL,
    TOLERANCE,
    Buffers,
    Take,
    compare,
    compare_special_values,
    everything,
    own,
)
from cases import CASES, Case
from thalweg import rules
from thalweg.backends import eager
from thalweg.backends.program import Program
from thalweg.rules.reference import MEANING


def eagerly(program: Program, buffers: Buffers, streams: Sequence[int]) -> Take:
    def take(numbers: Sequence[float], grads: list[Tensor]) -> None:
        eager.step(program, numbers, {**buffers, "g": grads}, streams)

    return take


NOISY = own(rules.chain(rules.noise, everything))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "strided, gradient contiguous"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_agrees_with_the_reference(case: Case, layout: str, dtype: torch.dtype) -> None:
    compare(eagerly, case, dtype, [layout, layout], seed=3, steps=8)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_operation_takes_every_layout(layout: str, dtype: torch.dtype) -> None:
    """torch takes another path where all tensors of a list lie alike than where they do not."""
    for case in (*OWN, NOISY):
        compare(eagerly, case, dtype, [layout, layout], seed=3, steps=8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_layouts_at_once_over_many_steps(case: Case) -> None:
    compare(eagerly, case, torch.float64, [*LAYOUTS], seed=0, steps=25)


@pytest.mark.parametrize("case", [*OWN, NOISY], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rules_of_ones_own(case: Case, dtype: torch.dtype) -> None:
    compare(eagerly, case, dtype, [*LAYOUTS], seed=0, steps=5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values_are_numpys(name: str, dtype: torch.dtype) -> None:
    compare_special_values(eagerly, dtype, [name])


# The program turns -x into -1 x, so a backend is never asked for that one.
REWRITTEN = {"neg"}
FORMS = [(table, form) for table in ("_CALLS", "_IN_PLACE") for form in getattr(eager, table)]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Programs lowered anew, and no trace left of what they were lowered to."""
    eager._lowered.cache_clear()
    yield
    eager._lowered.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("table", "form"), FORMS, ids=str)
def test_a_planted_error_is_caught(table: str, form: str, monkeypatch) -> None:
    right = getattr(eager, table)[form]

    def wrong(*operands):
        result = right(*operands)
        if result[0].dtype == torch.bool:
            return [~x for x in result]
        torch._foreach_mul_(result, 1.001)
        return result

    def everything_agrees() -> None:
        for case in (NOISY, *CASES):
            compare(eagerly, case, torch.float64, ["contiguous"], seed=0, steps=3)

    everything_agrees()
    eager._lowered.cache_clear()
    monkeypatch.setitem(getattr(eager, table), form, wrong)
    with pytest.raises(AssertionError):
        everything_agrees()


def test_every_operation_can_be_lowered() -> None:
    assert {*MEANING, "normal"} - set(eager._CALLS) == REWRITTEN
    assert set(eager._IN_PLACE) <= set(eager._CALLS)
