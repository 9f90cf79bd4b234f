"""The compiled backend: it agrees with the reference and keeps to its buffers."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import thalweg as tw
from backends.agreement import (
    DENSE,
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
from thalweg.backends import kernel
from thalweg.backends import program as programs
from thalweg.backends.program import Program, program
from thalweg.rules.reference import inputs

QUIET = [case for case in CASES if all(link.name != "noise" for link in case.rule.links)]


def compiled(program: Program, buffers: Buffers, streams: Sequence[int]) -> Take:
    """The kernel; it must take every step."""
    bound = kernel.bound(program, buffers)
    assert bound is not None

    def take(numbers: Sequence[float], grads: list[Tensor]) -> None:
        assert bound(numbers, grads)

    return take


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", QUIET, ids=lambda case: case.name)
def test_it_agrees_with_the_reference(case: Case, dtype: torch.dtype) -> None:
    for seed in range(2):
        compare(compiled, case, dtype, [*DENSE, *DENSE], seed=seed, steps=8)


@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_rules_of_ones_own(case: Case) -> None:
    compare(compiled, case, torch.float64, DENSE, seed=0, steps=5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_special_values_are_numpys(dtype: torch.dtype) -> None:
    compare_special_values(compiled, dtype, [*SPECIAL])


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Compile anew: what a broken generator makes must not outlive the test."""
    monkeypatch.setattr(kernel, "_kernel", lru_cache(kernel._kernel.__wrapped__))
    return monkeypatch


@rules.rule("Swap", paper="")
def swap(g, a, b, *, lr=rules.hyper(0.1, "[0, 1]", "")):
    return lr * (g + b), b, a


def swapped() -> None:
    made = program(swap.trace(swap.settings()))
    theta, a, b = (torch.full((5,), x, dtype=torch.float64) for x in (1.0, 2.0, 3.0))
    take = compiled(made, {"theta": [theta], "a": [a], "b": [b]}, [0])
    for expected in ((3.0, 2.0), (2.0, 3.0)):
        take(made.scalars({"lr": 0.1, "t": 1})[0], [torch.zeros(5, dtype=torch.float64)])
        assert (a[0].item(), b[0].item()) == expected
    torch.testing.assert_close(theta, torch.full_like(theta, 1 - 0.1 * (3 + 2)))


def test_states_that_are_exchanged() -> None:
    swapped()


def test_a_value_read_after_it_was_written_is_caught(fresh) -> None:
    right = kernel._update_source

    def late(*args) -> str:
        lines = right(*args).split("\n")
        read = next(line for line in lines if "old_a =" in line)
        lines.remove(read)
        written = next(i for i, line in enumerate(lines) if "at_a[i] =" in line)
        return "\n".join([*lines[: written + 1], read, *lines[written + 1 :]])

    fresh.setattr(kernel, "_update_source", late)
    with pytest.raises(AssertionError):
        swapped()


PLANTED = {
    "add": "({} + {}) * 1.001",
    "sub": "({} - {}) * 1.001",
    "mul": "{} * {} * 1.001",
    "div": "{} / {} * 1.001",
    "pow": "{} ** {} * 1.001",
    "abs": "abs({}) * 1.001",
    "gt": "{} < {}",
    "sqrt": "sqrt({}) * 1.001",
    "sign": "copysign(one, -{})",
    "maximum": "{0} if {0} <= {1} else {1}",
    "minimum": "{0} if {0} >= {1} else {1}",
    "where": "{2} if {0} else {1}",
}


@pytest.mark.parametrize("op", PLANTED)
def test_a_planted_error_is_caught(op: str, fresh) -> None:
    # Numbers of the host are computed by functions that were made before, and stay right.
    program(everything.trace(everything.settings()))
    fresh.setitem(programs._PYTHON, op, PLANTED[op])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(compiled, own(everything), torch.float64, ["contiguous"], seed=0, steps=3)


def test_an_error_is_planted_in_every_operation() -> None:
    # The program turns -x into -1 x.
    assert {*programs._PYTHON} - {*PLANTED} == {"neg"}


@pytest.fixture
def arena() -> Iterator[Tensor]:
    """Memory with a guard value wherever no tensor lies."""
    memory = torch.full((4000,), 7.25)
    yield memory
    assert torch.all(memory == 7.25)


class Carved:
    """Tensors that lie in one piece of memory, one element apart."""

    def __init__(self, memory: Tensor) -> None:
        self.memory, self.end = memory, 1
        self.pieces: list[Tensor] = []

    def __call__(self, values: Tensor) -> Tensor:
        piece = self.memory[self.end : self.end + values.numel()].view(values.shape)
        self.end += values.numel() + 1
        assert self.end <= self.memory.numel()
        self.pieces.append(piece.copy_(values))
        return piece

    def cleared(self, guard: float) -> None:
        for piece in self.pieces:
            piece.fill_(guard)


@pytest.mark.parametrize("rule", [rules.sgd, rules.adam, rules.aggmo, rules.rmsprop], ids=repr)
def test_nothing_is_written_beside_the_buffers(rule: tw.Rule, arena: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(37,), (), (0,), (1,), (3, 5), (64,), (2, 2, 2), (101,)]
    settings = rule.settings()
    trace = rule.trace(settings)
    made, carved = program(trace), Carved(arena)
    apart, together = {}, {}
    for name in ("theta", "g", *trace.states):
        apart[name] = [torch.rand(s, generator=generator) for s in shapes]
        together[name] = [carved(x) for x in apart[name]]
    for buffers in (apart, together):
        grads = buffers.pop("g")
        before = [g.clone() for g in grads]
        take = compiled(made, buffers, range(len(shapes)))
        for t in range(1, 4):
            take(made.scalars({**inputs(settings), "t": t})[0], grads)
        assert all(map(torch.equal, grads, before))
    for name, tensors in together.items():
        assert all(map(torch.equal, tensors, apart[name]))
    carved.cleared(7.25)


def test_only_what_is_written_has_a_new_version() -> None:
    p, frozen = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = tw.Adam([p, frozen], backend="numba")
    p.grad = torch.ones(3)
    optimizer.step()
    versions = [x._version for x in (p, optimizer.state[p]["exp_avg"], p.grad, frozen)]
    optimizer.step()
    after = [x._version for x in (p, optimizer.state[p]["exp_avg"], p.grad, frozen)]
    assert [new > old for old, new in zip(versions, after, strict=True)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "made",
    [
        lambda params: tw.SGD(params, lr=0.1, backend="numba"),
        lambda params: tw.SGD(params, lr=0.1, backend="eager"),
        lambda params: torch.optim.SGD(params, lr=0.1),
    ],
    ids=["numba", "eager", "torch"],
)
def test_backward_knows_that_a_saved_value_is_stale(made) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = made([p])
    loss = (p**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
