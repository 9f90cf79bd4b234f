"""Steps that autograd follows, or that a device captures, are those that any backend takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from cases import CASES, Case
from thalweg import compiled, optimizer


def walked(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], set[int]]:
    """Where five steps lead, what is kept then, and the places that states have been in."""
    generator = torch.Generator().manual_seed(1)
    params = [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((3, 2), (), (5,))]
    settings = case.drawn(np.random.default_rng(2))
    descent = tw.Optimizer(params, case.rule, convention=case.convention, **settings)
    places: set[int] = set()
    for _ in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
        descent.step(lambda: None)
        places |= {x.data_ptr() for state in descent.state.values() for x in state.values()}
    states = [x for p in params for x in descent.state[p].values()]
    return params, states, places


CAPTURABLE = [case for case in CASES if not case.flags.get("lookahead")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("case", CAPTURABLE, ids=lambda case: case.name)
def test_a_captured_step_is_any_others(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, states, _ = walked(case, dtype)
    made = compiled.compiled
    monkeypatch.setattr(optimizer, "compiled", lambda *group: replace(made(*group), followed=True))
    captured, kept, places = walked(case, dtype)
    for x, y in zip([*captured, *kept], [*params, *states], strict=True):
        torch.testing.assert_close(x.to(y.dtype), y, rtol=1e-12, atol=1e-14)
    # What has been captured goes on in the same memory.
    assert len(places) == len(kept)
