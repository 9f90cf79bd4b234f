"""The machine's own rate."""

import pytest
import torch

from thalweg.bench import rate
from thalweg.bench.contestants import needs
from thalweg.bench.measurement import Spread
from thalweg.bench.traffic import streams
from thalweg.rules import OPTIMIZERS
from thalweg.rules.vocabulary import walk


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_triad_has_a_rules_streams_and_next_to_no_arithmetic(name: str):
    wanted = needs(name, torch.float32)
    program = rate.triad(wanted.writes)
    assert streams(program, torch.float32) == wanted
    operations = [e for e in walk(*program.outputs.values()) if e.op != "symbol"]
    assert len(operations) == 2 * wanted.writes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_can_be_called_for_ever_and_the_numbers_stay_tame(dtype: torch.dtype):
    calls = rate.calls(3, 1000, dtype)
    assert set(rate.REFERENCES) < set(calls)
    for call in [*calls.values()] * 50:
        call()
    (triad, *_) = (call for name, call in calls.items() if name not in rate.REFERENCES)
    for (x,) in triad._tensors.values():
        assert x.isfinite().all()
        assert 1 <= float(x.min()) <= float(x.max()) <= 2


def test_triad_moves_every_array():
    calls = rate.calls(3, 1000, torch.float32)
    triad = calls["triad"]
    triad()
    values = {name: x.unique().tolist() for name, (x,) in triad._tensors.items()}
    assert values == {"theta": [1.5], "x1": [1.5], "x2": [1.5], "g": [1.0]}


def test_fastest_triad_is_chosen_and_no_reference():
    names = [*rate.calls(1, 10, torch.float32)]
    spreads = {name: Spread(5, 5, 5) for name in names}
    spreads["copy_"] = Spread(1, 1, 1)
    wanted = next(name for name in reversed(names) if name not in rate.REFERENCES)
    spreads[wanted] = Spread(2, 2, 2)
    assert rate.fastest_triad(spreads) == wanted
