"""The compiled backend: it agrees with the reference, to the last place, and keeps to its buffers.

Every test that must hold of a backend is also run on broken ones, which it has to tell from this.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from llvmlite import ir
from torch import Tensor

import thalweg as tw
from backends.agreement import (
    LAYOUTS,
    OWN,
    SPECIAL,
    TOLERANCE,
    Buffers,
    Take,
    Walk,
    compare,
    compare_each_step,
    compare_special_values,
    equal,
    everything,
    exchange,
    own,
)
from cases import CASES, Case
from thalweg import rules
from thalweg.backends import compilation, fused, lowering, memory
from thalweg.backends.fused import Pass
from thalweg.backends.instructions import INT, OPERATIONS, WORD, splat
from thalweg.backends.lowering import _Kernel
from thalweg.backends.program import Program, program
from thalweg.rules.reference import evaluate, inputs
from thalweg.rules.vocabulary import symbol, walk

NOISY = own(rules.chain(rules.noise, everything))
HALVES = [torch.bfloat16, torch.float16]
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def compiled(program: Program, buffers: Buffers, streams: Sequence[int], **options: Any) -> Take:
    """The pass over these buffers and gradients, which may be others at each step."""
    bound: list[Pass] = []

    def take(numbers: Sequence[float], grads: list[Tensor]) -> None:
        if not bound:
            for i, theta in enumerate(buffers["theta"]):
                states = [row[i] for name, row in buffers.items() if name != "theta"]
                assert fused.refusal(theta, grads[i], states) is None
            bound.append(Pass(program, {**buffers, "g": grads}, streams, **options))
        for word, g in zip(bound[0].gradient_words(), grads, strict=True):
            ctypes.c_uint64.from_address(word).value = g.data_ptr()
        bound[0](numbers)

    return take


def in_chunks(chunk: int) -> Any:
    def bind(program: Program, buffers: Buffers, streams: Sequence[int]) -> Take:
        return compiled(program, buffers, streams, chunk=chunk)

    return bind


def one_by_one(program: Program, buffers: Buffers, streams: Sequence[int]) -> Take:
    """A pass for each parameter."""
    takes = [
        compiled(program, {name: [row[i]] for name, row in buffers.items()}, [stream])
        for i, stream in enumerate(streams)
    ]

    def take(numbers: Sequence[float], grads: list[Tensor]) -> None:
        for one, g in zip(takes, grads, strict=True):
            one(numbers, [g])

    return take


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path) -> pytest.MonkeyPatch:
    """Compile anew: what a broken generator makes must not outlive the test."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path))
    monkeypatch.setattr(fused, "kernel", lru_cache(fused.kernel.__wrapped__))
    return monkeypatch


# Agreement with the reference


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@by_name
def test_it_agrees_with_the_reference(case: Case, dtype: torch.dtype) -> None:
    compare(compiled, case, dtype, [*LAYOUTS, *LAYOUTS], seed=0, steps=8)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@by_name
def test_each_step_is_right_to_the_last_place(case: Case, dtype: torch.dtype) -> None:
    for seed in range(2):
        compare_each_step(compiled, case, dtype, [*LAYOUTS], seed=seed, steps=4)


@pytest.mark.parametrize("case", [*OWN, NOISY], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rules_of_ones_own(case: Case, dtype: torch.dtype) -> None:
    compare(compiled, case, dtype, [*LAYOUTS], seed=0, steps=5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_special_values_are_numpys(dtype: torch.dtype) -> None:
    compare_special_values(compiled, dtype, [*SPECIAL])


def is_noisy(case: Case) -> bool:
    return any(link.name == "noise" for link in case.rule.links)


def wild(x: Tensor) -> Tensor:
    """The same numbers with some that are not finite, zeros, and very small and large ones."""
    top, tiny = torch.finfo(x.dtype).max, torch.finfo(x.dtype).smallest_normal
    others = [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, top, -top, tiny, -tiny / 4, tiny / 3]
    x = x.clone()
    x.view(-1)[: 3 * len(others) : 3] = torch.tensor(others, dtype=torch.float64).to(x.dtype)
    return x


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "case", [case for case in CASES if not is_noisy(case)], ids=lambda case: case.name
)
def test_the_numbers_are_numpys_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    """No operation is contracted, reordered or approximated, in whatever lane it is."""
    path = Walk(compiled, case, dtype, ["whole", "odd", "channels_last"], 5)
    for t in range(1, 4):
        grads = [wild(g) if t == 3 and g.is_contiguous() else g for g in path.gradients()]
        given = [
            {name: row[i].numpy().copy() for name, row in path.buffers.items()} | {"g": g.numpy()}
            for i, g in enumerate(grads)
        ]
        number = np.float32 if dtype is torch.float32 else np.float64
        ks = path.take(t, grads)
        named = {f"k{j}": number(k) for j, k in enumerate(ks)}
        for i, values in enumerate(given):
            with np.errstate(all="ignore"):
                expected = evaluate(path.made.outputs, {**values, **named})
            for name, value in expected.items():
                assert equal(path.buffers[name][i], torch.from_numpy(np.asarray(value))), name


# Types with few digits


def halved(case: Case, dtype: torch.dtype) -> None:
    """Parameters of a type with few digits: the float32 results, rounded once."""
    if dtype is torch.float16 and not compilation.has_float16():
        pytest.skip("this processor does not convert float16")
    path = Walk(compiled, case, torch.float32, [*LAYOUTS], 2)
    layouts = [LAYOUTS[name] for name in LAYOUTS]
    small = {name: [x.clone() for x in row] for name, row in path.buffers.items()}
    small["theta"] = [torch.empty_like(p, dtype=dtype).copy_(p) for p in path.buffers["theta"]]
    take = compiled(path.made, small, range(len(layouts)))
    for t in range(1, 5):
        grads = [g.to(dtype) for g in path.gradients()]
        if t == 4:
            grads = [wild(g) if g.is_contiguous() and g.numel() > 30 else g for g in grads]
        for p, q in zip(path.buffers["theta"], small["theta"], strict=True):
            p.copy_(q)
        scalars = path.given(t, grads)
        take(path.made.scalars(scalars)[0], grads)
        before = [g.float() for g in grads]
        path._take(path.made.scalars(scalars)[0], before)
        path.scalars = path.made.scalars(scalars)[1]
        for name, row in path.buffers.items():
            for layout, x, y in zip(LAYOUTS, row, small[name], strict=True):
                assert equal(x.to(dtype) if name == "theta" else x, y), (name, layout, t)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@by_name
def test_parameters_with_few_digits_are_float32s_results_rounded(
    case: Case, dtype: torch.dtype
) -> None:
    halved(case, dtype)


def rounded(dtype: torch.dtype, values: Tensor) -> Tensor:
    """Numbers of float32 as a kernel writes them to a buffer of another type."""
    theta = torch.zeros(len(values), dtype=dtype)
    a, g = values.clone(), torch.zeros(len(values), dtype=dtype)
    kept = symbol("a", element=True)
    made = Program((), lambda given: ((), {}), 0, {"theta": kept, "a": kept}, None)
    compiled(made, {"theta": [theta], "a": [a]}, [0])((), [g])
    assert equal(a, values)
    return theta


def hard_to_round(dtype: torch.dtype) -> Tensor:
    """Every number of the type as float32, those halfway to the next, and their neighbours."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    every = bits.view(dtype).float()
    following = (bits + 1).view(dtype).float()
    halfway = ((every.double() + following.double()) / 2).float()
    points = torch.cat([every, halfway])
    points = torch.cat([points, -points])
    ends = [torch.full_like(points, end) for end in (torch.inf, -torch.inf)]
    near = [torch.nextafter(points, end) for end in ends]
    random = torch.randint(-(1 << 31), 1 << 31, (200_000,), generator=torch.Generator())
    # The least and largest of float32, of which 16 bits hold little.
    return torch.cat([points, *near, random.to(torch.int32).view(torch.float32)])


def rounds_as_torch_does(dtype: torch.dtype) -> None:
    values = hard_to_round(dtype)
    assert equal(rounded(dtype, values), values.to(dtype))


def reads_every_number(dtype: torch.dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    theta, g = symbol("theta", element=True), symbol("g", element=True)
    made = Program((), lambda given: ((), {}), 0, {"theta": theta, "a": g}, None)
    p, a = torch.zeros(1 << 16, dtype=dtype), torch.zeros(1 << 16)
    compiled(made, {"theta": [p], "a": [a]}, [0])((), [every])
    assert equal(a, every.float())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_number_is_read_and_rounded_as_torch_does(dtype: torch.dtype) -> None:
    if dtype is torch.float16 and not compilation.has_float16():
        pytest.skip("this processor does not convert float16")
    reads_every_number(dtype)
    rounds_as_torch_does(dtype)


# The same bits however the work is divided


DIVIDED = {
    "chunks of 1": in_chunks(1),
    "chunks of 7": in_chunks(7),
    "chunks of 64": in_chunks(64),
    "chunks of 1000": in_chunks(1000),
    "one by one": one_by_one,
}
SOME = [own(rules.adam), own(rules.chain(rules.noise, rules.rmsprop)), own(rules.aggmo)]


def end(bind: Any, case: Case, dtype: torch.dtype, layouts: Sequence[str]) -> list[Tensor]:
    path = Walk(bind, case, dtype, layouts, 1)
    for t in range(1, 4):
        path.take(t, path.gradients())
    return [x for row in path.buffers.values() for x in row]


@pytest.mark.parametrize("divided", DIVIDED.values(), ids=DIVIDED)
@pytest.mark.parametrize("case", [*SOME, NOISY], ids=lambda case: case.name)
def test_the_result_does_not_depend_on_how_the_work_is_divided(case: Case, divided) -> None:
    for dtype in TOLERANCE:
        whole = end(compiled, case, dtype, [*LAYOUTS])
        assert all(map(equal, end(divided, case, dtype, [*LAYOUTS]), whole))


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's number of threads, as it was before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("case", [*SOME, NOISY], ids=lambda case: case.name)
def test_the_result_does_not_depend_on_the_number_of_threads(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(fused, "_ALONE", 0)
    settings = case.rule.settings()
    trace = case.rule.trace(settings)
    made, numbers = program(trace), inputs(settings)
    ends = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        generator = torch.Generator().manual_seed(0)
        shapes = [(300, 301), (10_007,), (0,), (3,), ()]
        tensors = {
            name: [torch.rand(s, generator=generator) for s in shapes]
            for name in ("theta", "g", *trace.states)
        }
        tensors["theta"][0] = tensors["theta"][0].t()
        tensors["g"][0] = tensors["g"][0].view(301, 300)
        for name in trace.states:
            tensors[name][0] = torch.rand((301, 300), generator=generator)
        take = Pass(made, tensors, range(len(shapes)))
        for t in range(1, 4):
            take(made.scalars({**numbers, "t": t})[0])
        ends.append([x for row in tensors.values() for x in row])
    for other in ends[1:]:
        assert all(map(equal, other, ends[0]))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_result_does_not_depend_on_the_size_of_vectors(size: int, fresh) -> None:
    for case in (*SOME, NOISY):
        for dtype in TOLERANCE:
            fused.kernel.cache_clear()
            expected = end(compiled, case, dtype, [*LAYOUTS])
            with fresh.context() as patch:
                fused.kernel.cache_clear()
                patch.setattr(compilation, "vector_bytes", lambda: size)
                assert all(map(equal, end(compiled, case, dtype, [*LAYOUTS]), expected))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", [*SOME, NOISY], ids=lambda case: case.name)
def test_the_result_does_not_depend_on_the_layout(case: Case, dtype: torch.dtype) -> None:
    alike = [name for name in LAYOUTS if LAYOUTS[name][0](torch.ones(3, 4, 4, 2)).dim() == 4]
    alike = [name for name in alike if name not in ("empty", "whole, gradient expanded")]
    assert len(alike) >= 5

    def end(layout: str) -> list[Tensor]:
        path = Walk(compiled, case, dtype, [layout], 1)
        for t in range(1, 4):
            path.take(t, path.gradients())
        return [row[0] for row in path.buffers.values()]

    for layout in alike:
        assert all(map(equal, end(layout), end("whole")))


# States that are exchanged


@rules.rule("Swap", paper="")
def swap(g, a, b, *, lr=rules.hyper(0.1, "[0, 1]", "")):
    return lr * (g + b), b, a


def swapped() -> None:
    made = program(swap.trace(swap.settings()))
    # A whole vector and some more.
    theta, a, b = (torch.full((37,), x, dtype=torch.float64) for x in (1.0, 2.0, 3.0))
    take = compiled(made, {"theta": [theta], "a": [a], "b": [b]}, [0])
    for expected in ((3.0, 2.0), (2.0, 3.0)):
        take(made.scalars({"lr": 0.1, "t": 1})[0], [torch.zeros(37, dtype=torch.float64)])
        assert torch.all(a == expected[0])
        assert torch.all(b == expected[1])
    torch.testing.assert_close(theta, torch.full_like(theta, 1 - 0.1 * (3 + 2)))


def test_states_that_are_exchanged() -> None:
    swapped()


# Planted errors


def off(value: Any, at: Any) -> Any:
    """A thousandth too much."""
    return at.build.fmul(value, splat(at.real, 1.001, at.lanes))


RIGHT = dict(OPERATIONS)
PLANTED = {
    name: lambda at, *operands, right=RIGHT[name]: off(right(at, *operands), at)
    for name in ("add", "sub", "mul", "div", "pow", "neg", "abs", "sqrt")
} | {
    "gt": lambda at, x, y: RIGHT["gt"](at, y, x),
    "sign": lambda at, x: at.build.fneg(RIGHT["sign"](at, x)),
    "maximum": RIGHT["minimum"],
    "minimum": RIGHT["maximum"],
    "where": lambda at, condition, x, y: RIGHT["where"](at, condition, y, x),
}
# The program turns -x into -1 x, so a kernel is never asked for that one.
REWRITTEN = {"neg"}


def test_an_error_is_planted_in_every_operation() -> None:
    assert {*PLANTED} == {*OPERATIONS}
    used = {
        e.op
        for case in (NOISY, *OWN, *CASES)
        for e in walk(*program(case.rule.trace(case.rule.settings())).outputs.values())
    }
    assert {*OPERATIONS} - used == REWRITTEN


@pytest.mark.parametrize("op", sorted({*PLANTED} - REWRITTEN))
def test_a_planted_error_is_caught(op: str, fresh) -> None:
    fresh.setitem(OPERATIONS, op, PLANTED[op])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(compiled, own(everything), torch.float64, ["contiguous"], seed=0, steps=3)


def test_a_planted_negation_is_caught(fresh) -> None:
    x = symbol("theta", element=True)
    made = Program((), lambda given: ((), {}), 0, {"theta": -x}, None)

    def negated() -> Tensor:
        theta = torch.full((5,), 2.0)
        compiled(made, {"theta": [theta]}, [0])((), [theta.clone()])
        return theta

    assert torch.all(negated() == -2)
    fused.kernel.cache_clear()
    fresh.setitem(OPERATIONS, "neg", PLANTED["neg"])
    assert torch.all(negated() != -2)


@pytest.mark.parametrize("op", ["add", "mul", "div", "sqrt"])
def test_an_error_of_a_few_units_in_the_last_place_is_caught(op: str, fresh) -> None:
    def slightly(at: Any, *operands: Any) -> Any:
        return at.build.fmul(RIGHT[op](at, *operands), splat(at.real, 1 + 2.0**-20, at.lanes))

    # Its velocity is made by all four; a parameter hides the errors of small steps.
    rmsprop = next(case for case in CASES if case.name == "rmsprop-momentum-torch")
    fresh.setitem(OPERATIONS, op, slightly)
    with pytest.raises(AssertionError, match="instead of"):
        compare_each_step(compiled, rmsprop, torch.float32, [*LAYOUTS], seed=0, steps=6)


FULL = ["whole", *(name for name in LAYOUTS if name.startswith(("whole,", "channels_last")))]
"""Layouts of equally many numbers, dense but for gradients: what is mixed up stays inside."""


def in_layouts() -> None:
    for case in (own(exchange), own(rules.chain(rules.noise, rules.adam))):
        compare_each_step(in_chunks(32), case, torch.float32, [*FULL, "odd"], seed=0, steps=2)


def beside_guards() -> None:
    guarded(rules.adam)


def with_few_digits() -> None:
    reads_every_number(torch.bfloat16)
    rounds_as_torch_does(torch.bfloat16)


def reads_after_writing(patch: pytest.MonkeyPatch) -> None:
    right = _Kernel._update

    def late(self, places, position, lanes) -> None:
        whole = self.program
        for name, e in whole.outputs.items():
            self.program = replace(whole, outputs={name: e})
            right(self, places, position, lanes)
        self.program = whole

    patch.setattr(_Kernel, "_update", late)


def with_loops(patch: pytest.MonkeyPatch, vector: bool, more: int) -> None:
    right = _Kernel.loop

    def loop(self, start, stop, step):
        # The tail's is the only loop of single steps that does not start at 0 or end at a run.
        if (step > 1) is vector and (vector or not isinstance(start, ir.Constant)):
            stop = self.at.add(stop, ir.Constant(WORD, more))
        return right(self, start, stop, step)

    patch.setattr(_Kernel, "loop", loop)


def tail_too_short(patch: pytest.MonkeyPatch) -> None:
    with_loops(patch, vector=False, more=-1)


def tail_too_long(patch: pytest.MonkeyPatch) -> None:
    with_loops(patch, vector=False, more=1)


def vectors_past_the_end(patch: pytest.MonkeyPatch) -> None:
    with_loops(patch, vector=True, more=1)


def vectors_short_of_the_end(patch: pytest.MonkeyPatch) -> None:
    with_loops(patch, vector=True, more=-16)


def with_strides(patch: pytest.MonkeyPatch, change: Any) -> None:
    right = memory.layout

    def layout(tensors, *, positions):
        words = right(tensors, positions=positions)
        if words is not None:
            n = int(words[0])
            change(words[1 : 1 + n], words[1 + n :].reshape(-1, n))
        return words

    patch.setattr(memory, "layout", layout)


def gradients_by_the_parameters_strides(patch: pytest.MonkeyPatch) -> None:
    # The buffers that are written come first, as many as a rule has, then the gradient.
    def change(sizes: np.ndarray, strides: np.ndarray) -> None:
        strides[3] = strides[0]

    with_strides(patch, change)


def states_by_the_gradients_strides(patch: pytest.MonkeyPatch) -> None:
    def change(sizes: np.ndarray, strides: np.ndarray) -> None:
        least, *_, gradients = strides[:4]
        if np.all(gradients) and (sizes - 1) @ gradients == (sizes - 1) @ least:
            strides[1] = gradients

    with_strides(patch, change)


def positions_in_the_order_of_memory(patch: pytest.MonkeyPatch) -> None:
    def change(sizes: np.ndarray, strides: np.ndarray) -> None:
        strides[-1] = strides[0]

    with_strides(patch, change)


def layouts_all_taken_for_dense(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "layout", lambda tensors, *, positions: None)


def last_chunk_left_out(patch: pytest.MonkeyPatch) -> None:
    right = Pass._chunked
    patch.setattr(Pass, "_chunked", lambda *args: right(*args)[:-1])


def chunks_that_start_anew(patch: pytest.MonkeyPatch) -> None:
    right = Pass._chunked

    def chunked(*args):
        chunks = right(*args)
        chunks[:, 1] = 0
        return chunks

    patch.setattr(Pass, "_chunked", chunked)


def noise_of_the_next_element(patch: pytest.MonkeyPatch) -> None:
    right = lowering.normal

    def normal(at, position, **given):
        return right(at, at.build.add(position, ir.Constant(WORD, 1)), **given)

    patch.setattr(lowering, "normal", normal)


def noise_that_starts_anew_with_each_chunk(patch: pytest.MonkeyPatch) -> None:
    right = lowering._Kernel._dense

    def dense(self, start, length) -> None:
        real = self.at.add

        def add(x, y, *args):
            # The position is the chunk's start and the index in it.
            return y if x is start else real(x, y, *args)

        self.at.add = add
        right(self, start, length)
        self.at.add = real

    patch.setattr(_Kernel, "_dense", dense)


def noise_of_another_parameter(patch: pytest.MonkeyPatch) -> None:
    right = lowering.normal

    def normal(at, position, *, stream, **given):
        return right(at, position, stream=at.build.add(stream, ir.Constant(WORD, 1)), **given)

    patch.setattr(lowering, "normal", normal)


def one_draw_for_all_lanes(patch: pytest.MonkeyPatch) -> None:
    right = lowering.normal

    def normal(at, position, **given):
        single = type(at)(at.build, at.real, 1)
        return at.broadcast(right(single, position, **given))

    patch.setattr(lowering, "normal", normal)


def words_of_other_gradients(patch: pytest.MonkeyPatch) -> None:
    right = Pass.gradient_words
    patch.setattr(Pass, "gradient_words", lambda self: right(self)[1:] + right(self)[:1])


def bfloat16_cut_off(patch: pytest.MonkeyPatch) -> None:
    def cut(self, value, lanes):
        kind = ir.VectorType(INT, lanes) if lanes > 1 else INT
        half = ir.VectorType(ir.IntType(16), lanes) if lanes > 1 else ir.IntType(16)
        bits = self.at.bitcast(value, kind)
        return self.at.trunc(self.at.lshr(bits, splat(INT, 16, lanes)), half)

    patch.setattr(_Kernel, "_bfloat16", cut)


def bfloat16_with_ties_away(patch: pytest.MonkeyPatch) -> None:
    right = lowering.splat

    def changed(kind, value, lanes):
        return right(kind, {0x7FFF: 0x8000, 1: 0}.get(value, value), lanes)

    patch.setattr(lowering, "splat", changed)


def bfloat16_without_nan(patch: pytest.MonkeyPatch) -> None:
    right = lowering.splat

    def changed(kind, value, lanes):
        return right(kind, 0x7F80 if value == 0x7FC0 else value, lanes)

    patch.setattr(lowering, "splat", changed)


MISTAKES = {
    swapped: [reads_after_writing],
    # These write outside, and so are let loose among guards alone.
    beside_guards: [tail_too_long, vectors_past_the_end],
    in_layouts: [
        tail_too_short,
        vectors_short_of_the_end,
        reads_after_writing,
        gradients_by_the_parameters_strides,
        states_by_the_gradients_strides,
        positions_in_the_order_of_memory,
        layouts_all_taken_for_dense,
        last_chunk_left_out,
        chunks_that_start_anew,
        noise_of_the_next_element,
        noise_that_starts_anew_with_each_chunk,
        noise_of_another_parameter,
        one_draw_for_all_lanes,
        words_of_other_gradients,
    ],
    with_few_digits: [bfloat16_cut_off, bfloat16_with_ties_away, bfloat16_without_nan],
}


@pytest.mark.parametrize(
    ("holds", "plant"),
    [(holds, plant) for holds, plants in MISTAKES.items() for plant in plants],
    ids=lambda one: one.__name__,
)
def test_a_mistake_with_memory_is_caught(holds, plant, fresh) -> None:
    holds()
    fused.kernel.cache_clear()
    plant(fresh)
    with pytest.raises(AssertionError):
        holds()


# Nothing beside the buffers


class Carved:
    """Tensors that lie in one piece of memory, some elements apart, with guards wherever none does.

    Rows of a matrix are one element apart.
    """

    guard = 7.25

    def __init__(self, dtype: torch.dtype, gap: int) -> None:
        self.memory, self.end = torch.full((9000,), self.guard, dtype=dtype), gap
        self.pieces: list[Tensor] = []
        self.gap = gap

    def __call__(self, values: Tensor) -> Tensor:
        rows = values.shape[-1] + 1 if values.dim() > 1 else max(values.numel(), 1)
        size = values.numel() // max(values.shape[-1], 1) * rows if values.dim() > 1 else rows
        piece = self.memory[self.end : self.end + size]
        if values.dim() > 1:
            piece = piece.view(*values.shape[:-1], rows)[..., :-1]
        else:
            piece = piece[: values.numel()].view(values.shape)
        self.end += size + self.gap
        assert self.end + 100 <= self.memory.numel()
        self.pieces.append(piece.copy_(values))
        return piece

    def is_intact(self) -> bool:
        for piece in self.pieces:
            piece.fill_(self.guard)
        return bool(torch.all(self.memory == self.guard))


def guarded(rule: tw.Rule, dtype: torch.dtype = torch.float32) -> None:
    """Steps beside guards: they stay, and so do the gradients; the result is as elsewhere."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(37,), (), (0,), (1,), (3, 5), (64,), (2, 2, 2), (101,), (4, 33)]
    settings = rule.settings()
    trace = rule.trace(settings)
    made = program(trace)
    wide = torch.float32 if dtype in HALVES else dtype
    near, far = ({kind: Carved(kind, gap) for kind in {dtype, wide}} for gap in (1, 100))
    together, apart = {}, {}
    for name in ("theta", "g", *trace.states):
        kind = dtype if name in ("theta", "g") else wide
        values = [torch.rand(s, generator=generator) for s in shapes]
        together[name] = [near[kind](x) for x in values]
        apart[name] = [far[kind](x) for x in values]
    for buffers in (together, apart):
        grads = buffers.pop("g")
        before = [g.clone() for g in grads]
        take = compiled(made, buffers, range(len(shapes)), chunk=16)
        for t in range(1, 4):
            take(made.scalars({**inputs(settings), "t": t})[0], grads)
        assert all(map(torch.equal, grads, before))
    for name, tensors in together.items():
        assert all(map(torch.equal, tensors, apart[name]))
    assert all(place.is_intact() for place in (*near.values(), *far.values()))


@pytest.mark.parametrize("dtype", [*TOLERANCE, *HALVES], ids=str)
@pytest.mark.parametrize("rule", [rules.sgd, rules.adam, rules.aggmo, rules.rmsprop], ids=repr)
def test_nothing_is_written_beside_the_buffers(rule: tw.Rule, dtype: torch.dtype) -> None:
    if dtype is torch.float16 and not compilation.has_float16():
        pytest.skip("this processor does not convert float16")
    guarded(rule, dtype)


def test_only_what_is_written_has_a_new_version() -> None:
    p, frozen = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = tw.Adam([p, frozen], backend="fused")
    p.grad = torch.ones(3)
    optimizer.step()
    versions = [x._version for x in (p, p.grad, frozen)]
    optimizer.step()
    after = [x._version for x in (p, p.grad, frozen)]
    assert [new > old for old, new in zip(versions, after, strict=True)] == [True, False, False]


@pytest.mark.parametrize(
    "made",
    [
        lambda params: tw.SGD(params, lr=0.1, backend="fused"),
        lambda params: tw.SGD(params, lr=0.1, backend="eager"),
        lambda params: torch.optim.SGD(params, lr=0.1),
    ],
    ids=["fused", "eager", "torch"],
)
def test_backward_knows_that_a_saved_value_is_stale(made) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = made([p])
    loss = (p**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# What no kernel takes


class Marked(Tensor):
    """A tensor that may mean anything by its operations."""


REFUSED = {
    "a subclass": (torch.ones(2).as_subclass(Marked), "Marked"),
    "sparse": (torch.ones(2).to_sparse(), "sparse"),
    "on no device": (torch.ones(2, device="meta"), "on meta"),
    "complex": (torch.ones(2, dtype=torch.complex64), "complex64"),
    "a whole number": (torch.ones(2, dtype=torch.int64), "int64"),
    "a lazy negative": (torch._neg_view(torch.ones(2)), "negated"),
}


@pytest.mark.parametrize(("x", "why"), REFUSED.values(), ids=REFUSED)
def test_some_tensors_are_refused(x: Tensor, why: str) -> None:
    one, other = torch.ones(2), torch.ones(2)
    assert why in str(fused.refusal(x, one, [other]))
    assert why in str(fused.refusal(one, x, [other]))
    assert why in str(fused.refusal(one, other, [torch.ones(2), x]))
    assert fused.refusal(one, other, [torch.ones(2)]) is None


def test_float16_is_refused_where_the_processor_lacks_it(monkeypatch) -> None:
    x = torch.ones(2, dtype=torch.float16)
    monkeypatch.setattr(compilation, "has_float16", lambda: False)
    assert "float16" in str(fused.refusal(x, x, []))


def test_states_with_more_digits_than_are_computed_with_are_refused() -> None:
    x = torch.ones(2)
    assert "float64" in str(fused.refusal(x, x.clone(), [x.double()]))
    assert fused.refusal(x.double(), x.double(), [x.double()]) is None


def test_memory_that_is_shared_is_refused() -> None:
    x, g = torch.ones(4), torch.ones(4)
    same = torch.ones(1).expand(4)
    assert "each other" in str(fused.refusal(same, g, []))
    assert "each other" in str(fused.refusal(x, g, [same]))
    whole = torch.ones(5)
    assert "its own gradient" in str(fused.refusal(whole[1:], whole[:-1], []))
    # A gradient is only read, and each element is read before it is written.
    assert fused.refusal(x, same, [g]) is None
    assert fused.refusal(x, x, []) is None


def test_states_of_a_float64_parameter_may_become_bfloat16() -> None:
    ends = []
    for backend in ("fused", "eager"):
        p = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
        optimizer = tw.Adam([p], lr=0.1, backend=backend)
        for t in range(4):
            p.grad = torch.cos(p.detach() + t)
            optimizer.step()
            state = optimizer.state[p]
            state.update({k: x.bfloat16() for k, x in state.items() if k != "step"})
        ends.append((p.detach(), state["exp_avg"], state["exp_avg_sq"]))
    for x, y in zip(*ends, strict=True):
        torch.testing.assert_close(x, y)
    assert ends[0][1].dtype is torch.bfloat16
