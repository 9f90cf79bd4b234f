"""Sparse gradients: the step of their rows is that of a dense one, and no other row is touched."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from backends.agreement import equal
from thalweg import rules
from thalweg.backends import eager, lowering, rows, sparse
from thalweg.backends.fused import Pass
from thalweg.backends.program import program
from thalweg.backends.sparse import SparseBound, untouched_stay
from thalweg.errors import UsageError
from thalweg.rules import OPTIMIZERS, Rule, hyper, rule
from thalweg.rules.reference import inputs
from thalweg.rules.vocabulary import Expr, sign

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_backend = pytest.mark.parametrize("backend", ["fused", "eager"])


def name(i: int) -> str:
    return f"parameter {i}"


def coo(indices: Any, values: Tensor, shape: Sequence[int], **options: Any) -> Tensor:
    """A sparse gradient that torch does not look at."""
    indices = torch.as_tensor(indices, dtype=torch.int64)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, **options)


def drawn(
    rng: np.random.Generator, shape: Sequence[int], dims: int, nnz: int, dtype: torch.dtype
) -> Tensor:
    """A gradient with so many rows in no order, some of them most likely twice."""
    indices = np.stack([rng.integers(0, max(n, 1), nnz) for n in shape[:dims]])
    return coo(indices, normal(rng, (nnz, *shape[dims:]), dtype), shape)


def normal(rng: np.random.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.tensor(rng.normal(size=tuple(shape))).to(dtype)


class Training:
    """Tensors that a rule trains, in a way that is given."""

    def __init__(self, rule: Rule, thetas: Sequence[Tensor], **settings: Any) -> None:
        self.settings = rule.settings("torch", **settings)
        self.program = program(rule.trace(self.settings))
        self.tensors: dict[str, list[Tensor]] = {"theta": list(thetas)}
        for s in self.program.states:
            self.tensors[s.name] = [torch.zeros_like(p, dtype=wide(p.dtype)) for p in thetas]
        self.t = 0

    def copy(self) -> "Training":
        other = object.__new__(Training)
        other.__dict__ |= self.__dict__
        other.tensors = {n: [x.clone() for x in row] for n, row in self.tensors.items()}
        return other

    def bound(self, backend: str = "fused") -> SparseBound:
        return SparseBound(self.program, self.tensors, range(len(self.thetas)), backend, name)

    @property
    def thetas(self) -> list[Tensor]:
        return self.tensors["theta"]

    def numbers(self) -> Sequence[float]:
        self.t += 1
        return self.program.scalars({**inputs(self.settings), "t": self.t})[0]

    def sparsely(self, grads: Sequence[Tensor], backend: str = "fused") -> None:
        self.bound(backend)(self.numbers(), grads)

    def densely(self, grads: Sequence[Tensor], backend: str = "fused") -> None:
        """The step of all rows, which nothing that is tested here has a part in."""
        numbers = self.numbers()
        tensors = {**self.tensors, "g": [added(g) for g in grads]}
        if backend == "eager":
            tensors["g"] = [g.coalesce().to_dense() for g in grads]
            eager.step(self.program, numbers, tensors, range(len(grads)))
        elif grads:
            Pass(self.program, tensors, range(len(grads)))(numbers)


def added(grad: Tensor) -> Tensor:
    """All rows of a sparse gradient, its entries added up one after the other."""
    values = grad._values()
    total = np.zeros(grad.shape, np.float64 if values.dtype is torch.float64 else np.float32)
    np.add.at(total, tuple(grad._indices().numpy()), values.to(wide(values.dtype)).numpy())
    return torch.from_numpy(total)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize == 2 else dtype


def same(one: Training, other: Training) -> bool:
    return all(all(map(equal, row, other.tensors[symbol])) for symbol, row in one.tensors.items())


# Agreement with the step of all rows

EXACT: Mapping[str, tuple[Rule, dict[str, Any]]] = {
    "sgd": (rules.sgd, {"lr": 0.1}),
    "ascending": (rules.chain(rules.ascend, rules.sgd), {"lr": 0.1}),
    "adagrad": (rules.adagrad, {"lr": 0.1, "lr_decay": 0.2}),
    "adagrad, eps inside": (rules.adagrad, {"lr": 0.1, "eps_inside": True}),
}
by_exact_rule = pytest.mark.parametrize(("rule", "settings"), EXACT.values(), ids=EXACT.keys())

# Rows narrower and wider than vectors, and a multiple of them; of one number, and of none.
SHAPES = ((7, 5), (9, 16), (5, 37), (3, 4, 2, 3), (40,), (1, 64), (6, 0), (0, 5), (2, 3, 4))


def agrees(rule: Rule, settings: Mapping[str, Any], dtype: torch.dtype, backend: str) -> bool:
    """Whether some steps of every shape have the bits of dense ones."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        for dims in range(1, len(shape) + 1):
            ours = Training(rule, [normal(rng, shape, dtype) for _ in range(2)], **settings)
            theirs = ours.copy()
            for nnz in (0, 1, 6, 25) if all(shape[:dims]) else (0, 0):
                grads = [drawn(rng, shape, dims, nnz, dtype) for _ in ours.thetas]
                ours.sparsely(grads, backend)
                theirs.densely(grads, backend)
            if not same(ours, theirs):
                return False
    return True


@by_exact_rule
@by_dtype
@by_backend
def test_exact_rules_step_as_with_dense_gradients(
    rule: Rule, settings: dict[str, Any], dtype: torch.dtype, backend: str
) -> None:
    assert untouched_stay(Training(rule, [], **settings).program)
    assert agrees(rule, settings, dtype, backend)


def test_random_shapes_and_rows() -> None:
    rng = np.random.default_rng(1)
    for _ in range(150):
        dims = int(rng.integers(1, 5))
        shape = [int(rng.integers(1, 9)) for _ in range(dims)]
        shape[-1] = int(rng.integers(1, 70))
        dtype = DTYPES[rng.integers(len(DTYPES))]
        backend = ("fused", "eager")[rng.integers(2)]
        rule, settings = list(EXACT.values())[rng.integers(len(EXACT))]
        ours = Training(rule, [normal(rng, shape, dtype)], **settings)
        theirs = ours.copy()
        for _ in range(3):
            sparse_dims, nnz = int(rng.integers(1, dims + 1)), int(rng.integers(0, 60))
            grads = [drawn(rng, shape, sparse_dims, nnz, dtype)]
            if rng.integers(2):
                grads = [g.coalesce() for g in grads]
            ours.sparsely(grads, backend)
            theirs.densely(grads, backend)
        assert same(ours, theirs), (shape, dtype, backend, rule)


def large(rule: Rule, count: int = 20_000, width: int = 20, **settings: Any) -> Training:
    return Training(
        rule, [normal(np.random.default_rng(2), (count, width), torch.float32)], **settings
    )


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_many_rows_on_all_threads(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    right = sparse.team.run
    monkeypatch.setattr(sparse.team, "run", lambda *job: (ran.append(job[-1]), right(*job)))
    ours = large(rules.adagrad)
    theirs = ours.copy()
    threads(4)
    ours.copy().sparsely([drawn(np.random.default_rng(0), (20_000, 20), 1, 9, torch.float32)])
    assert ran == [1]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        grads = [drawn(rng, ours.thetas[0].shape, 1, 15_000, torch.float32)]
        ours.sparsely(grads)
        theirs.densely(grads)
        assert ran[1::2] == [4] * (seed + 1)
    assert same(ours, theirs)


def test_all_threads_flush_denormals_as_the_caller_does(threads: Callable[[int], None]) -> None:
    ours = large(rules.sgd, lr=1.0)
    ours.thetas[0].zero_()
    every = torch.arange(20_000)[None]
    grads = [coo(every, torch.full((20_000, 20), 1e-39), ours.thetas[0].shape)]
    threads(4)
    assert torch.set_flush_denormal(True)
    try:
        ours.sparsely(grads)
    finally:
        torch.set_flush_denormal(False)
    # Threads that torch began while it flushed go on to, so NumPy has to look.
    assert not ours.thetas[0].numpy().any()
    ours.sparsely(grads)
    assert ours.thetas[0].numpy().all()


# torch's own


def trained_by_torch(
    kind: type[torch.optim.Optimizer], theta: Tensor, grads: Sequence[Tensor], **options: Any
) -> Tensor:
    p = nn.Parameter(theta.clone())
    optimizer = kind([p], **options)
    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        for g in grads:
            p.grad = g.clone()
            optimizer.step()
    return p.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@by_backend
@pytest.mark.parametrize(
    ("rule", "settings", "kind", "options"),
    [
        (rules.sgd, {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1}),
        (
            rules.adagrad,
            {"lr": 0.1, "lr_decay": 0.01, "eps": 1e-8},
            torch.optim.Adagrad,
            {"lr": 0.1, "lr_decay": 0.01, "eps": 1e-8},
        ),
        # torch's lazy Adam adds eps before the second moment is corrected.
        (
            rules.adam,
            {"lr": 0.1, "eps": 1e-3, "eps_hat": True},
            torch.optim.SparseAdam,
            {"lr": 0.1, "eps": 1e-3},
        ),
    ],
    ids=["SGD", "Adagrad", "SparseAdam"],
)
def test_it_is_torchs_step(
    rule: Rule, settings: Any, kind: Any, options: Any, dtype: torch.dtype, backend: str
) -> None:
    rng = np.random.default_rng(3)
    theta = normal(rng, (30, 11), dtype)
    grads = [drawn(rng, theta.shape, 1, nnz, dtype) for nnz in (12, 40, 0, 3, 12, 12)]
    ours = Training(rule, [theta.clone()], **settings)
    for g in grads:
        ours.sparsely([g], backend)
    theirs = trained_by_torch(kind, theta, grads, **options)
    tolerance = 1e-12 if dtype is torch.float64 else 3e-6
    torch.testing.assert_close(ours.thetas[0], theirs, rtol=tolerance, atol=tolerance)
    assert not torch.equal(theta, theirs)


@by_backend
def test_lazily_only_the_touched_rows_are_averaged(backend: str) -> None:
    rng = np.random.default_rng(4)
    ours = Training(rules.adam, [normal(rng, (6, 3), torch.float32)])
    ours.sparsely([coo([[0, 1, 2, 3, 4, 5]], torch.ones(6, 3), (6, 3))], backend)
    before = ours.copy()
    ours.sparsely([coo([[4, 1]], torch.ones(2, 3), (6, 3))], backend)
    for symbol, (x,) in ours.tensors.items():
        changed = (x != before.tensors[symbol][0]).any(1)
        assert changed.tolist() == [False, True, False, False, True, False], symbol


# Which memory is touched

PROTECTED = """
import ctypes, mmap
import numpy as np, torch
from thalweg import rules
from thalweg.backends.program import program
from thalweg.backends.sparse import SparseBound
from thalweg.rules.reference import inputs

PAGE, ROWS = mmap.PAGESIZE, 32
libc = ctypes.CDLL(None, use_errno=True)
def table():
    memory = mmap.mmap(-1, PAGE * ROWS)
    x = torch.from_numpy(np.frombuffer(memory, np.float32).reshape(ROWS, -1))
    x.fill_(1)
    return x
settings = rules.adagrad.settings("torch")
made = program(rules.adagrad.trace(settings))
tensors = {"theta": [table()], "G": [table()]}
bound = SparseBound(made, tensors, [0], BACKEND, str)
touched = [30, 0, 7, 8, 30]
for (x,) in tensors.values():
    for row in {*range(ROWS)} - {*touched}:
        at = ctypes.c_void_p(x.data_ptr() + row * PAGE)
        assert libc.mprotect(at, ctypes.c_size_t(PAGE), 0) == 0
g = torch.sparse_coo_tensor(
    torch.tensor([touched]), torch.ones(5, PAGE // 4), (ROWS, PAGE // 4), check_invariants=False
)
bound(made.scalars({**inputs(settings), "t": 1})[0], [g])
print(*((tensors["theta"][0][row] != 1).all().item() for row in touched), flush=True)
tensors["theta"][0][1, 0].item()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect as Linux has it")
@by_backend
def test_no_other_row_is_read_or_written(backend: str) -> None:
    code = PROTECTED.replace("BACKEND", repr(backend))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # The last line touches another row, to see that it would not have gone unseen.
    assert ended.stdout.split() == ["True"] * 5, ended.stderr
    assert ended.returncode < 0


# Gradients that lie otherwise


def test_order_of_rows_too_large_to_hold_their_places() -> None:
    for numbers in ([2**62, 3, 2**62, 0], [2**40, 3, 2**40, 0], [7], []):
        found, places = sparse._ordered(np.array(numbers, np.int64))
        assert found.tolist() == sorted(numbers)
        assert places.tolist() == sorted(range(len(numbers)), key=numbers.__getitem__)


def test_rows_said_to_be_there_once_and_are_not() -> None:
    ours = Training(rules.sgd, [torch.zeros(4, 2)], lr=1.0)
    grad = coo([[3, 0, 3]], torch.ones(3, 2), (4, 2), is_coalesced=True)
    assert grad.is_coalesced()
    ours.sparsely([grad])
    assert ours.thetas[0].tolist() == [[-1, -1], [0, 0], [0, 0], [-2, -2]]


@by_backend
@pytest.mark.parametrize(
    "values",
    [
        torch.ones(1, 1).expand(3, 4),
        torch.arange(12.0).view(4, 3).t(),
        torch.arange(24.0).view(3, 8)[:, ::2],
    ],
    ids=["expanded", "transposed", "strided"],
)
def test_values_in_any_layout(values: Tensor, backend: str) -> None:
    ours = Training(rules.sgd, [torch.zeros(5, 4)], lr=1.0)
    ours.sparsely([coo([[4, 0, 2]], values, (5, 4), is_coalesced=True)], backend)
    assert torch.equal(ours.thetas[0][[4, 0, 2]], -values)
    assert not ours.thetas[0][[1, 3]].any()


def test_gradients_of_an_embedding() -> None:
    rare = nn.Embedding(20, 6, sparse=True)
    full = nn.Embedding(20, 6, _weight=rare.weight.detach().clone())
    tokens = torch.tensor([[3, 3, 19], [0, 7, 3]])
    ours, theirs = (Training(rules.adagrad, [e.weight.detach()]) for e in (rare, full))
    for _ in range(3):
        for e in (rare, full):
            e.zero_grad()
            e(tokens).square().sum().backward()
        assert rare.weight.grad is not None
        assert full.weight.grad is not None
        ours.sparsely([rare.weight.grad])
        theirs.densely([full.weight.grad.to_sparse(1)])
    torch.testing.assert_close(rare.weight, full.weight)
    assert ours.tensors["G"][0].any(1).nonzero().flatten().tolist() == [0, 3, 7, 19]


def run_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has run: the kernel, or torch's operations."""
    ran: list[str] = []
    for module, function, what in ((eager, "step", "eager"), (sparse.team, "run", "fused")):
        original = getattr(module, function)

        def noted(*args: Any, original: Any = original, what: str = what) -> Any:
            ran.append(what)
            return original(*args)

        monkeypatch.setattr(module, function, noted)
    return ran


ODD: Mapping[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.zeros(4, 5).t(),
    "strided": lambda: torch.zeros(5, 8)[:, ::2],
    "complex": lambda: torch.zeros(5, 4, dtype=torch.complex64),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
def test_what_no_kernel_takes_is_left_to_torch(
    make: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run_by(monkeypatch)
    theta = make()
    ours = Training(rules.sgd, [theta], lr=1.0)
    grad = coo([[4, 0, 4]], torch.ones(3, 4, dtype=theta.dtype), (5, 4))
    bound = ours.bound("auto")
    bound(ours.numbers(), [grad])
    assert ran == ["eager"]
    assert bound.fused == [False]
    assert theta.real.sum(1).tolist() == [-4, 0, 0, 0, -8]
    with pytest.raises(UsageError, match=r"'fused', which cannot take parameter 0: .*='auto'"):
        ours.sparsely([grad], "fused")
    plain = Training(rules.sgd, [torch.zeros(5, 4)], lr=1.0)
    bound = plain.bound("auto")
    bound(plain.numbers(), [coo([[4]], torch.ones(1, 4), (5, 4))])
    assert ran == ["eager", "fused"]
    assert bound.fused == [True]


def test_rows_of_the_table_itself_are_read_before_they_are_written() -> None:
    """Where they are in another order, a kernel would read what it has written."""
    theta = torch.arange(1.0, 31).view(10, 3)
    expected = theta - theta.flip(0)
    ours = Training(rules.sgd, [theta], lr=1.0)
    bound = ours.bound("auto")
    bound(ours.numbers(), [coo([[*reversed(range(10))]], theta, (10, 3))])
    assert torch.equal(theta, expected)
    assert bound.fused == [False]
    with pytest.raises(UsageError, match="the rows of its gradient are its own"):
        ours.sparsely([coo([[*reversed(range(10))]], theta, (10, 3))])


def test_parameters_that_share_memory_are_stepped_in_turn() -> None:
    whole = torch.ones(6, 3)
    grads = [coo([[0, 2]], torch.ones(2, 3), (4, 3)), coo([[0, 1]], torch.ones(2, 3), (4, 3))]
    ours = Training(rules.adagrad, [whole[:4], whole[1:5]], lr=0.5)
    ours.sparsely(grads)
    assert whole[:, 0].tolist() == pytest.approx([0.5, 0.5, 0, 1, 1, 1])


def test_autograd_is_told_of_the_change() -> None:
    theta = nn.Parameter(torch.ones(3, 2))
    ours = Training(rules.sgd, [theta])
    before = theta._version
    ours.sparsely([coo([[1]], torch.ones(1, 2), (3, 2))])
    assert theta._version > before


# Noise

NOISY = rules.chain(rules.noise, rules.sgd)


def test_noise_is_that_of_the_whole_parameter() -> None:
    rng = np.random.default_rng(5)
    ours = Training(NOISY, [normal(rng, (9, 7), torch.float32) for _ in range(2)])
    theirs = ours.copy()
    grads = [coo([[8, 2, 3]], normal(rng, (3, 7), torch.float32), (9, 7)) for _ in range(2)]
    ours.sparsely(grads)
    theirs.densely(grads)
    touched = [2, 3, 8]
    for x, y in zip(ours.thetas, theirs.thetas, strict=True):
        assert equal(x[touched], y[touched])
        assert not equal(x, y)


def test_noise_is_not_drawn_where_its_place_is_unknown() -> None:
    ours = Training(NOISY, [torch.zeros(3, 2)])
    with pytest.raises(UsageError, match="noise of parameter 0 depends on where"):
        ours.sparsely([coo([[1]], torch.ones(1, 2), (3, 2))], "eager")


# Errors


def freed(part: Callable[[Tensor], Tensor]) -> Tensor:
    """A gradient of which a part has too little memory."""
    grad = coo([[0, 1]], torch.ones(2, 3), (4, 3))
    part(grad).untyped_storage().resize_(8)
    return grad


def wrongs() -> dict[str, tuple[Any, str]]:
    ones = torch.ones(2, 3)
    with warnings.catch_warnings():
        # torch says once that its support of it is new.
        warnings.simplefilter("ignore")
        csr = torch.ones(4, 3).to_sparse_csr()
    return {
        "beyond": (coo([[0, 4]], ones, (4, 3)), r"indices from \[0\] to \[4\].* shape \(4, 3\)"),
        "negative": (coo([[0, -1]], ones, (4, 3)), r"indices from \[-1\] to \[0\]"),
        "far": (coo([[0, 2**62]], ones, (4, 3)), r"indices from \[0\] to \[4611"),
        # Its place in memory would be that of another element.
        "beyond in one": (coo([[0], [5]], torch.ones(1), (4, 3)), r"to \[0, 5\]"),
        "none": (None, "is None, but must be a tensor"),
        "dense": (torch.ones(4, 3), r"layout torch.strided"),
        "csr": (csr, r"layout torch.sparse_csr .*to_sparse\(1\)"),
        "shape": (coo([[0, 1]], ones, (5, 3)), r"shape \(5, 3\), and the parameter \(4, 3\)"),
        "dtype": (coo([[0, 1]], ones.double(), (4, 3)), "of torch.float64 on cpu"),
        "indices freed": (freed(Tensor._indices), "has been freed: the memory of its indices"),
        "values freed": (freed(Tensor._values), "has been freed: the memory of its indices"),
        "no rows": (
            coo(torch.empty(0, 1), torch.ones(1, 4, 3), (4, 3)),
            "or no sparse dimension",
        ),
    }


@by_backend
@pytest.mark.parametrize("wrong", wrongs())
def test_gradient_that_does_not_fit(wrong: str, backend: str) -> None:
    grad, says = wrongs()[wrong]
    ours = Training(rules.adagrad, [torch.ones(4, 3), torch.ones(4, 3)])
    before = ours.copy()
    right = coo([[1]], torch.ones(1, 3), (4, 3))
    with pytest.raises(UsageError, match=rf"the gradient of parameter 1 .*{says}"):
        ours.sparsely([right, grad], backend)
    assert same(ours, before)


@pytest.mark.parametrize("wrong", ["beyond", "negative", "indices freed", "values freed"])
def test_gradient_that_is_made_dense_is_looked_at_first(wrong: str) -> None:
    grad, says = wrongs()[wrong]
    p = nn.Parameter(torch.ones(4, 3))
    p.grad = grad
    optimizer = tw.SGD([p], lr=1.0, momentum=0.9)
    with pytest.raises(UsageError, match=rf"the gradient of parameter 0 .*{says}"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4, 3))


def test_gradient_that_is_made_dense_may_have_a_row_twice_whatever_torch_was_told(
    threads: Callable[[int], None],
) -> None:
    """torch's threads would write to the row at once, and lose some of its entries."""
    count = 200_000
    p = nn.Parameter(torch.zeros(4, 8))
    p.grad = coo(torch.zeros(1, count), torch.ones(count, 8), (4, 8), is_coalesced=True)
    threads(4)
    tw.SGD([p], lr=1.0, momentum=0.9).step()
    assert p[0].tolist() == [-count] * 8
    assert not p[1:].any()


EXACTLY = [
    (tw.SGD, {}),
    (tw.SGD, {"momentum": 0.9, "nesterov": True}),
    (tw.Adagrad, {"lr_decay": 0.1}),
]


@pytest.mark.parametrize(("made", "settings"), EXACTLY)
def test_step_that_is_followed_is_that_of_a_dense_gradient(made: Any, settings: Any) -> None:
    w = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    values = torch.full((3, 2), 0.5, dtype=torch.float64, requires_grad=True)
    slopes: list[tuple[Tensor, ...]] = []
    for sparsely in (True, False):
        p = w * 1
        grad = coo([[1, 3, 1]], values, (4, 2))
        p.grad = grad if sparsely else grad.to_dense()
        optimizer = made([p], lr=0.1, **settings, differentiable=True)
        optimizer.step()
        optimizer.step()
        slopes.append(torch.autograd.grad(p.pow(3).sum(), (w, values)))
    torch.testing.assert_close(*slopes)
    assert all(slope.any() for slope in slopes[0])


@pytest.mark.parametrize("wrong", ["beyond", "values freed", ""])
def test_step_that_is_followed_looks_at_sparse_gradients_first(wrong: str) -> None:
    right = coo([[1]], torch.ones(1, 3), (4, 3))
    grad, says = wrongs()[wrong] if wrong else (right, "is sparse, and a step that")
    params = [torch.ones(4, 3, requires_grad=True) * 1 for _ in range(2)]
    params[0].grad, params[1].grad = right.to_dense(), grad
    made = tw.Adagrad if wrong else tw.Adam
    with pytest.raises(UsageError, match=rf"the gradient of parameter 1 .*{says}"):
        made(params, lr=1.0, differentiable=True).step()
    assert torch.equal(params[0], torch.ones(4, 3))


@pytest.mark.parametrize(
    ("theta", "grad"), [(torch.float32, torch.complex64), (torch.complex64, torch.float32)]
)
def test_complex_gradient_of_a_real_table(theta: torch.dtype, grad: torch.dtype) -> None:
    p = nn.Parameter(torch.ones(4, 3, dtype=theta))
    p.grad_dtype = None
    p.grad = coo([[0, 1]], torch.ones(2, 3, dtype=grad), (4, 3))
    with pytest.raises(UsageError, match=rf"is of {grad}, and the parameter of {theta}"):
        tw.SGD([p], lr=1.0).step()


def test_table_without_rows_has_none_to_touch() -> None:
    ours = Training(rules.sgd, [torch.ones(0, 3)])
    with pytest.raises(UsageError, match=r"shape \(0, 3\)"):
        ours.sparsely([coo([[0]], torch.ones(1, 3), (0, 3))])


def test_state_that_does_not_fit() -> None:
    ours = Training(rules.adagrad, [torch.ones(4, 3)])
    ours.tensors["G"][0] = torch.ones(3, 3)
    with pytest.raises(UsageError, match="state 'G' of parameter 0"):
        ours.bound()


# Which rules


@rule("Signs", paper="none")
def signs(g: Expr, m: Expr, *, lr: Expr = hyper(0.1, "[0, inf)", "step")):
    """A step that is 0 where the gradient is, though no factor of it is a literal 0."""
    return lr * sign(abs(g)), m + abs(g)


def test_which_rules_leave_untouched_rows_as_they_are() -> None:
    found = {n for n, r in OPTIMIZERS.items() if untouched_stay(Training(r, []).program)}
    assert found == {"sgd", "adagrad"}
    for convention in ("paper", "torch", "keras"):
        trace = rules.adagrad.trace(rules.adagrad.settings(convention))
        assert untouched_stay(program(trace))
    for exact in (signs, rules.chain(rules.ascend, rules.adagrad)):
        assert untouched_stay(Training(exact, []).program)
    for moving in (rules.l2, rules.noise):
        assert not untouched_stay(Training(rules.chain(moving, rules.sgd), []).program)
    assert not untouched_stay(Training(rules.chain(rules.sgd, rules.decay), []).program)
    # A decay that is off is not there.
    off = Training(rules.chain(rules.l2, rules.sgd), [], weight_decay=0.0)
    assert untouched_stay(off.program)


# The comparison above tells a broken step from a right one


def _last_entry_lost(entries: Any) -> Any:
    return replace(entries, numbers=entries.numbers[:-1])


def _values_in_another_order(entries: Any) -> Any:
    return replace(entries, values=entries.values.flip(0).contiguous())


@pytest.mark.parametrize("break_it", [_last_entry_lost, _values_in_another_order])
def test_wrong_entries_are_found(
    break_it: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = sparse._entries
    monkeypatch.setattr(sparse, "_entries", lambda *given: break_it(right(*given)))
    assert not agrees(rules.sgd, {}, torch.float32, "fused")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> pytest.MonkeyPatch:
    """Compile anew: what a broken generator makes must not outlive the test."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path))
    monkeypatch.setattr(sparse, "rows_kernel", lru_cache(rows.rows_kernel.__wrapped__))
    return monkeypatch


def test_kernel_that_takes_places_for_numbers_is_found(fresh: pytest.MonkeyPatch) -> None:
    right = rows._RowsKernel._rows

    def wrong(self: Any, row: Any) -> Any:
        self.numbers = self.places
        return right(self, row)

    fresh.setattr(rows._RowsKernel, "_rows", wrong)
    ours = Training(rules.sgd, [torch.zeros(9, 5)])
    theirs = ours.copy()
    grads = [coo([[8, 0, 3]], torch.ones(3, 5), (9, 5))]
    ours.sparsely(grads)
    theirs.densely(grads)
    assert not same(ours, theirs)


def test_kernel_that_takes_one_entry_of_a_row_is_found(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(rows._RowsKernel, "loaded", lowering._Kernel.loaded)
    assert not agrees(rules.sgd, {}, torch.float32, "fused")


def test_kernel_that_leaves_out_what_fills_no_vector_is_found(fresh: pytest.MonkeyPatch) -> None:
    right = rows._RowsKernel._update

    def wrong(self: Any, places: Any, position: Any, lanes: int) -> None:
        if lanes > 1:
            right(self, places, position, lanes)

    fresh.setattr(rows._RowsKernel, "_update", wrong)
    assert not agrees(rules.sgd, {}, torch.float32, "fused")
