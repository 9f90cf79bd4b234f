"""Where tensors lie, held against looking at every element."""

import sys
from collections import Counter
from itertools import product
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.backends import memory


def places(x: Tensor) -> list[int]:
    """The address of each element, in row-major order."""
    steps = [range(n) for n in x.shape]
    return [
        x.data_ptr() + x.element_size() * sum(i * s for i, s in zip(index, x.stride(), strict=True))
        for index in product(*steps)
    ]


def walked(words: np.ndarray, rows: int) -> Counter[tuple[int, ...]]:
    """What a kernel's loops visit: for each element the offset in each tensor."""
    n = int(words[0])
    sizes, strides = words[1 : 1 + n], words[1 + n :].reshape(rows, n)
    return Counter(
        tuple(int(np.dot(index, row)) for row in strides)
        for index in product(*(range(size) for size in sizes))
    )


def random_view(rng: np.random.Generator, shape: list[int], *, expanded: bool = False) -> Tensor:
    """A tensor of that shape, in any order, with gaps or, if it may be, with elements repeated."""
    order = rng.permutation(len(shape))
    kind = rng.integers(4)
    whole = [shape[d] * (2 if kind == 1 and rng.integers(2) else 1) for d in order]
    if kind == 3 and expanded:
        whole = [1 if rng.integers(2) else n for n in whole]
    x = torch.zeros(whole).permute(*np.argsort(order).tolist()) if shape else torch.zeros(())
    for d, n in enumerate(shape):
        if x.shape[d] == 2 * n and n:
            x = (
                x.narrow(d, 0, n)
                if rng.integers(2)
                else x[(slice(None),) * d + (slice(1, None, 2),)]
            )
    return x.expand(shape)


def test_a_layout_visits_every_element_once_and_the_same_in_all_tensors() -> None:
    rng = np.random.default_rng(0)
    dense = 0
    for _ in range(600):
        shape = rng.choice([1, 2, 3, 4], size=rng.integers(0, 5)).tolist()
        tensors = [random_view(rng, shape)]
        for k in range(2):
            again = tensors[0].clone(memory_format=torch.preserve_format)
            tensors.append(random_view(rng, shape, expanded=k == 1) if rng.integers(2) else again)
        positions = bool(rng.integers(2))
        words = memory.layout(tensors, positions=positions)
        rows = [[(at - x.data_ptr()) // 4 for at in places(x)] for x in tensors]
        if positions:
            rows.append([*range(tensors[0].numel())])
        elements = Counter(zip(*rows, strict=True))
        if words is None:
            dense += 1
            assert elements == Counter((i,) * len(rows) for i in range(tensors[0].numel()))
        else:
            assert words.dtype == np.int64
            assert walked(words, len(rows)) == elements
    assert 50 < dense < 500


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(3, 4),
        torch.ones(3, 4).t(),
        torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.ones(()),
        torch.ones(2, 0, 3),
        torch.ones(7)[3:],
        torch.ones(1, 5)[:, :],
        torch.ones(5, 3)[2:3],
    ],
    ids=lambda x: f"{tuple(x.shape)}-{x.stride()}",
)
def test_what_is_dense_and_in_one_order_needs_no_layout(x: Tensor) -> None:
    assert memory.layout([x, x.clone(memory_format=torch.preserve_format)], positions=False) is None


def test_positions_are_needed_where_memory_is_in_another_order() -> None:
    x = torch.ones(3, 4).t()
    assert memory.layout([x], positions=False) is None
    assert memory.layout([x], positions=True) is not None
    assert memory.layout([x.contiguous()], positions=True) is None


def test_a_tensor_that_overlaps_itself_is_seen() -> None:
    rng = np.random.default_rng(1)
    base = torch.zeros(400)
    seen: Counter[tuple[bool, bool]] = Counter()
    for _ in range(1000):
        shape = rng.choice(
            [0, 1, 2, 3, 4], size=rng.integers(0, 4), p=[0.04, 0.2, 0.26, 0.25, 0.25]
        )
        strides = rng.integers(0, 12, size=len(shape))
        x = torch.as_strided(base, shape.tolist(), strides.tolist())
        overlaps = max(Counter(places(x)).values(), default=0) > 1
        found = memory.overlaps_itself(x)
        assert found or not overlaps
        seen[overlaps, found] += 1
    assert min(seen[True, True], seen[False, False]) > 100


def test_views_do_not_overlap_themselves() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        shape = rng.choice([1, 2, 3, 4], size=rng.integers(0, 5)).tolist()
        assert not memory.overlaps_itself(random_view(rng, shape))


def pieces(rng: np.random.Generator, base: Tensor, count: int) -> list[Tensor]:
    """Parts of one piece of memory, some of which share elements."""
    found: list[Tensor] = []
    for _ in range(count):
        begin, step = int(rng.integers(0, len(base) - 12)), int(rng.integers(1, 3))
        found.append(base[begin : begin + 5 * step : step])
    return found


def test_tensors_that_share_memory_out_of_step_are_seen() -> None:
    rng = np.random.default_rng(3)
    seen: Counter[bool] = Counter()
    for _ in range(500):
        x, y, z = pieces(rng, torch.zeros(60), 3)
        y = x if rng.integers(4) == 0 else y
        tangled = any(
            i != j and at == other
            for one, two in ((x, y), (x, z), (y, z))
            for i, at in enumerate(places(one))
            for j, other in enumerate(places(two))
        )
        found = memory.tangled([x, y, z])
        assert found or not tangled
        seen[found] += 1
    assert min(seen.values()) > 50
    x = torch.zeros(4)
    assert not memory.tangled([x, x, torch.zeros(4)])
    assert not memory.tangled([x[:0], x])


def test_what_shares_memory_with_another_waits_for_it() -> None:
    rng = np.random.default_rng(4)
    sizes: Counter[int] = Counter()
    for _ in range(300):
        base = torch.zeros(rng.choice([60, 400]))
        count = int(rng.integers(0, 6))
        rows = [pieces(rng, base, count), [torch.zeros(3) for _ in range(count)]]
        if count and rng.integers(2):
            rows[1][rng.integers(count)] = rows[0][rng.integers(count)]
        (free, *others) = memory.apart(rows, count)
        assert [len(one) for one in others] == [1] * len(others)
        assert [i for (i,) in others] == sorted(i for (i,) in others)
        assert sorted([*free, *(i for (i,) in others)]) == [*range(count)]
        taken = [{at for row in rows for at in places(row[i])} for i in range(count)]
        for i in free:
            assert all(taken[i].isdisjoint(taken[j]) for j in range(count) if j != i)
        sizes[len(free)] += 1
    assert len(sizes) > 3


def test_parameters_that_share_memory_are_trained_one_after_another() -> None:
    """As in a loop over them, which is what torch's optimizers do if they are told to."""
    ends = []
    for made in (tw.SGD, torch.optim.SGD):
        base = torch.linspace(-1, 1, 3000, dtype=torch.float64)
        params = [base[:1000], base[500:2000], torch.ones(7, dtype=torch.float64), base[1500:]]
        params = [p.detach().requires_grad_() for p in params]
        options = {"backend": "fused"} if made is tw.SGD else {"foreach": False}
        optimizer = made(params, lr=0.1, momentum=0.9, weight_decay=0.3, **options)
        for t in range(4):
            for p in params:
                p.grad = torch.cos(torch.arange(p.numel(), dtype=torch.float64) + t)
            optimizer.step()
        ends.append([base, params[2].detach()])
    for x, y in zip(*ends, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_one_parameter_may_stand_for_anothers_gradient() -> None:
    """The second is moved along the first as the step before it has left it."""
    p, q = torch.full((3,), 1.0).requires_grad_(), torch.full((3,), 5.0).requires_grad_()
    p.grad, q.grad = torch.ones(3), p.detach()
    tw.SGD([p, q], lr=0.5, backend="fused").step()
    assert torch.all(p == 0.5)
    assert torch.all(q == 5 - 0.5 * 0.5)


linux = pytest.mark.skipif(sys.platform != "linux", reason="known on Linux only")


def mapped(path: Path, mode: str) -> Tensor:
    np.zeros(5000, np.float32).tofile(path)
    array = np.memmap(path, np.float32, mode)
    with catch_warnings():
        # torch says once that the array is not writable.
        simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


@linux
def test_memory_that_must_not_be_written_is_seen(tmp_path: Path) -> None:
    locked = mapped(tmp_path / "r", "r")
    others = [torch.ones(3), mapped(tmp_path / "c", "c"), mapped(tmp_path / "r+", "r+")]
    assert memory.read_only(others) is None
    assert memory.read_only([]) is None
    assert memory.read_only([*others, locked]) is locked
    last = locked[-1:]
    assert memory.read_only([last]) is last
    assert memory.read_only([locked[:0]]) is None


@linux
def test_training_memory_that_must_not_be_written_is_an_error(tmp_path: Path) -> None:
    p = mapped(tmp_path / "r", "r").requires_grad_()
    q = torch.ones(3, requires_grad=True)
    p.grad, q.grad = torch.ones(5000), torch.ones(3)
    for backend in ("auto", "fused", "eager"):
        optimizer = tw.SGD([q, p], lr=0.1, backend=backend)
        with pytest.raises(tw.UsageError, match=r"parameter 1 of group 0.* is read-only"):
            optimizer.step()
        assert torch.all(q == 1)


def test_where_nothing_is_known_of_memory_all_of_it_counts_as_writable(monkeypatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert memory.read_only([torch.ones(2)]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "like",
    [
        torch.ones(()),
        torch.ones(0, 3),
        torch.ones(3, 4),
        torch.ones(3, 4).t(),
        torch.ones(2, 3, 5, 5).to(memory_format=torch.channels_last),
        torch.ones(8)[::2],
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, requires_grad=True),
        # From here on there are whole pages of 2 MiB in it, and what is beside them.
        torch.ones(1_700_001),
        torch.ones(1_300, 1_301).t(),
    ],
    ids=lambda x: f"{tuple(x.shape)}-{x.stride()}",
)
def test_what_is_filled_is_as_torch_would_have_made_it(like: Tensor, dtype: torch.dtype) -> None:
    made = memory.filled(like, 0.5, dtype)
    expected = torch.full_like(like, 0.5, dtype=dtype, requires_grad=False)
    assert torch.equal(made, expected)
    assert (made.dtype, made.shape, made.stride()) == (dtype, like.shape, expected.stride())
    assert (made.device, made.requires_grad) == (like.device, False)


def test_a_system_without_huge_pages_gives_small_ones(monkeypatch) -> None:
    monkeypatch.setattr(memory, "_advise", lambda: None)
    assert torch.all(memory.filled(torch.ones(1_100_000), 2.0, torch.float32) == 2)
