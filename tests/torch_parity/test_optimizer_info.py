"""Every case that torch's own table holds for our classes, each beside torch's class."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thalweg.optim import CLASSES
from torch_parity.paths import (
    MIRRORS,
    TOLERANCE,
    assert_close,
    assert_fused,
    copies,
    noise,
    parameters,
    walk,
)
from torch_parity.table import (
    INFOS,
    Arguments,
    OptimizerErrorEnum,
    constructor_cases,
    error_cases,
    label,
    options,
    plain,
    sign,
)

# How many cases the table of torch 2.13 holds: constructors, errors, schedules, sparse.
COUNTS = {
    "SGD": (36, 7, 7, 1),
    "Adagrad": (28, 9, 1, 2),
    "Adadelta": (27, 7, 1, 0),
    "RMSprop": (33, 7, 1, 0),
    "Adam": (40, 14, 7, 0),
    "AdamW": (40, 14, 1, 0),
    "Adamax": (30, 7, 1, 0),
    "NAdam": (33, 8, 1, 0),
    "RAdam": (30, 8, 1, 0),
    "Rprop": (21, 7, 1, 0),
}

CONSTRUCTORS = [
    pytest.param(name, i, id=f"{name}-{label(case)}")
    for name in MIRRORS
    for i, case in enumerate(constructor_cases(name))
]


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """The default dtype too, in which torch counts steps and keeps NAdam's product of momenta."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("name", "i"), CONSTRUCTORS)
def test_a_constructors_case_walks_torchs_path(name: str, i: int, dtype: torch.dtype) -> None:
    arguments = constructor_cases(name)[i]
    ours, torchs = parameters(dtype), parameters(dtype)
    if arguments.get("differentiable"):
        # A leaf that requires a gradient is not changed in place while gradients are recorded.
        ours = [p.clone() for p in ours]
    optimizer = CLASSES[name](ours, **arguments)
    twin = getattr(torch.optim, name)(torchs, **plain(arguments))
    found = walk(ours, optimizer, range(12), sign=sign(arguments))
    expected = walk(torchs, twin, range(12), sign=sign(arguments))
    assert_close(found, expected, TOLERANCE[dtype])
    assert expected[0].ne(expected[-1]).all()
    if not arguments.get("differentiable"):
        assert_fused(optimizer)


def test_a_constant_that_is_slightly_wrong_is_seen() -> None:
    paths = []
    for made, beta in ((CLASSES["Adam"], 0.9), (torch.optim.Adam, 0.9 + 1e-6)):
        params = parameters(torch.float64)
        paths.append(walk(params, made(params, betas=(beta, 0.999)), range(12)))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(paths[0], paths[1], TOLERANCE[torch.float64])


def test_the_gpus_cases_include_the_cpus() -> None:
    for name in MIRRORS:
        assert {*map(label, constructor_cases(name, "cpu"))} <= {
            *map(label, constructor_cases(name))
        }


ERRORS = [
    pytest.param(name, i, id=f"{name}-{case.optimizer_error_input.desc}-{i}")
    for name in MIRRORS
    for i, case in enumerate(error_cases(name))
]


@pytest.mark.parametrize(("name", "i"), ERRORS)
def test_what_torch_refuses_is_refused(name: str, i: int) -> None:
    case = error_cases(name)[i]
    given = case.optimizer_error_input
    expects = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
    for made in (getattr(torch.optim, name), CLASSES[name]):
        at_step = case.error_on is OptimizerErrorEnum.STEP_ERROR
        early = made(given.params, **given.kwargs) if at_step else None
        with expects(case.error_type, match=case.error_regex):
            early.step() if early else made(given.params, **given.kwargs)


Scheduler = Callable[[torch.optim.Optimizer], object]
SCHEDULES = [
    pytest.param(name, i, id=f"{name}-{i}")
    for name in MIRRORS
    for i in range(len(INFOS[name].scheduler_inputs))
]


def scheduled(optimizer: torch.optim.Optimizer, made: list[Scheduler]) -> Callable[[int], None]:
    """What is to be done after each step. The loss stops falling, so that a plateau is seen."""
    schedulers = [make(optimizer) for make in made]

    def after(t: int) -> None:
        for scheduler in schedulers:
            scheduler.step(*[1.0] * isinstance(scheduler, ReduceLROnPlateau))

    return after


@pytest.mark.parametrize(("name", "i"), SCHEDULES)
def test_a_schedule_is_followed(name: str, i: int) -> None:
    paths, rates = [], []
    for made in (CLASSES[name], getattr(torch.optim, name)):
        params = parameters()
        optimizer = made(params, lr=0.01)
        after = scheduled(optimizer, INFOS[name].scheduler_inputs[i])
        rates.append([])

        def record(t: int, after=after, seen=rates[-1], optimizer=optimizer) -> None:
            after(t)
            seen.append(optimizer.param_groups[0]["lr"])

        paths.append(walk(params, optimizer, range(25), after=record))
        if made is CLASSES[name]:
            assert_fused(optimizer)
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1
    assert_close(paths[0], paths[1], 1e-6)


SPARSE = [name for name in MIRRORS if INFOS[name].supports_sparse]


def valley(p: Tensor, t: int, *, sparse: bool) -> Tensor:
    """One component of the gradient of Rosenbrock's function, in parts where it is sparse."""
    x, y = p.detach()
    i = t % 2
    entry = (-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2))[i]
    if not sparse:
        return torch.stack([entry * (1 - i), entry * i])
    parts = torch.stack([entry / 4, entry - entry / 4])
    return torch.sparse_coo_tensor(torch.tensor([[i, i]]), parts, (2,))


@torch.sparse.check_sparse_tensor_invariants()
def descend_valley(made, arguments: Arguments, schedulers: list[Scheduler], sparse: bool) -> Tensor:
    p = torch.tensor([1.5, 1.5], dtype=torch.float64, requires_grad=True)
    optimizer, path = made([p], **arguments), []
    after = scheduled(optimizer, schedulers)
    for t in range(60):
        p.grad = valley(p, t, sparse=sparse)
        optimizer.step()
        after(t)
        path.append(p.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("with_schedules", [False, True], ids=["constant", "scheduled"])
@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients_walk_torchs_path(name: str, maximize: bool, with_schedules: bool) -> None:
    arguments, schedulers = INFOS[name].metadata_for_sparse
    # Uphill the function is so steep that the path would leave what is representable.
    arguments = {**arguments, "maximize": maximize} | ({"lr": 1e-6} if maximize else {})
    made = schedulers if with_schedules else []
    found = descend_valley(CLASSES[name], arguments, made, sparse=True)
    dense = descend_valley(CLASSES[name], arguments, made, sparse=False)
    expected = descend_valley(getattr(torch.optim, name), arguments, made, sparse=True)
    assert_close(found, expected, 1e-12)
    assert_close(dense, expected, 1e-12)


COMPLEX = [
    pytest.param(name, i, id=f"{name}-{label(case)}")
    for name in MIRRORS
    if INFOS[name].supports_complex
    for i, case in enumerate(options(name))
]


@pytest.mark.parametrize(("name", "i"), COMPLEX)
def test_a_complex_parameter_is_a_pair_of_real_ones(name: str, i: int, dtype: torch.dtype) -> None:
    arguments = options(name)[i]
    # The last is real: both kinds may stand beside each other.
    shapes = [(4, 3), (5,)]
    pairs = [*parameters(dtype.to_complex(), shapes), *parameters(dtype, [(4,)])]
    torchs = copies(pairs)
    reals = [torch.view_as_real(p.detach()).clone().requires_grad_() for p in pairs[:2]]
    reals += copies(pairs[2:])
    optimizers = [
        CLASSES[name](pairs, **arguments),
        getattr(torch.optim, name)(torchs, foreach=False, **arguments),
        CLASSES[name](reals, **arguments),
    ]
    for t in range(6):
        for k, (p, q, r) in enumerate(zip(pairs, torchs, reals, strict=True)):
            p.grad = sign(arguments) * noise(t, k, p.shape, p.dtype)
            q.grad = p.grad.clone()
            r.grad = torch.view_as_real(p.grad).clone() if k < 2 else p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for p, q, r in zip(pairs, torchs, reals, strict=True):
            assert_close(p, q, TOLERANCE[dtype])
            assert_close(torch.view_as_real(p) if p.is_complex() else p, r, TOLERANCE[dtype])
    assert_fused(optimizers[0])


def test_the_table_holds_as_many_cases_as_it_should() -> None:
    """Nothing of the above can pass because there is nothing to test."""
    found, expected = Counter(), Counter()
    for name in MIRRORS:
        counts = (
            len(constructor_cases(name)),
            len(error_cases(name)),
            len(INFOS[name].scheduler_inputs),
            len(INFOS[name].metadata_for_sparse[1]),
        )
        print(f"{name:10}", *(f"{n:4}" for n in counts))
        for kind, n, least in zip("cesp", counts, COUNTS[name], strict=True):
            assert n >= least
            found[kind] += n
            expected[kind] += least
    assert {*MIRRORS} == {*COUNTS}
    print(f"{'all':10}", *(f"{n:4}" for n in found.values()))
