"""Which backend takes a step, and what is said when the one that was asked for cannot."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg import backends, rules
from thalweg.backends import BACKENDS, Bound, binding, eager, fused
from thalweg.backends.program import program
from thalweg.optim import CLASSES
from thalweg.rules.reference import inputs


def refused(*args: object) -> None:
    raise AssertionError("this backend must not be used")


def parameter(x: Tensor | None = None, grad: Tensor | None = None) -> Tensor:
    p = (torch.ones(2, 3) if x is None else x).requires_grad_()
    p.grad = torch.full_like(p, 0.5) if grad is None else grad
    return p


def moved(p: Tensor) -> bool:
    return bool((p.detach() != 1).all())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_has_a_name(name: str) -> None:
    assert backends.checked(name) == name
    assert tw.Adam([parameter()], backend=name).backend == name


@pytest.mark.parametrize("name", ["Fused", "numba", "triton", ""])
def test_an_unknown_backend_is_refused_at_once(name: str) -> None:
    with pytest.raises(tw.UsageError, match=f"unknown backend '{name}'.*Known: auto, eager, fused"):
        tw.Optimizer([parameter()], rules.adam, backend=name)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_takes_one(name: str) -> None:
    assert CLASSES[name]([parameter()], backend="eager").backend == "eager"


class Marked(Tensor):
    """A tensor that may mean anything by its operations."""


def sgd(params: list[Tensor], backend: str) -> tw.Optimizer:
    return tw.SGD(params, lr=0.1, momentum=0.9, backend=backend)


def noisy(params: list[Tensor], backend: str) -> tw.Optimizer:
    return tw.Optimizer(params, rules.chain(rules.noise, rules.momentum), backend=backend)


Made = tuple[list[Tensor], tw.Optimizer]


def of(*xs: Callable[[], Tensor], optimizer=sgd) -> Callable[[str], Made]:
    return lambda backend: (params := [x() for x in xs], optimizer(params, backend))


def mixed() -> Tensor:
    return parameter(torch.ones(3, dtype=torch.float64))


def complex_numbers() -> Tensor:
    p = parameter(torch.ones(3, dtype=torch.complex64))
    p.grad = torch.tensor([1 + 2j, 3 - 1j, -2j])
    return p


TAKEN = {
    "float32": of(parameter),
    "float64": of(mixed),
    "bfloat16": of(lambda: parameter(torch.ones(3, dtype=torch.bfloat16))),
    "mixed types": of(parameter, mixed),
    "transposed": of(lambda: parameter(torch.ones(2, 3).t())),
    "channels last": of(
        lambda: parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
    ),
    "strided": of(lambda: parameter(torch.ones(8)[::2])),
    "a strided gradient": of(lambda: parameter(grad=torch.ones(3, 2).t())),
    "an expanded gradient": of(lambda: parameter(grad=torch.ones(1).expand(2, 3))),
    "a parameter": of(lambda: parameter(torch.nn.Parameter(torch.ones(3)))),
    "noise": of(parameter, optimizer=noisy),
    "complex": of(complex_numbers),
    "complex, with noise": of(complex_numbers, optimizer=noisy),
    "complex of more digits, strided": of(
        lambda: parameter(torch.ones(2, 6, dtype=torch.complex128).t()[::2])
    ),
    "complex, a gradient in another order": of(
        lambda: parameter(torch.ones(2, 3) + 0j, torch.ones(3, 2).t() * 1j)
    ),
}
FALLEN_BACK = {
    "a gradient of a subclass": of(lambda: parameter(grad=torch.ones(2, 3).as_subclass(Marked))),
    "a negated gradient": of(lambda: parameter(grad=torch._neg_view(torch.ones(2, 3)))),
    "a conjugated gradient": of(
        lambda: parameter(torch.ones(3) + 0j, torch.tensor([1 + 2j, 3 - 1j, -2j]).conj())
    ),
    "a negated complex gradient": of(
        lambda: parameter(torch.ones(3) + 0j, torch._neg_view(torch.tensor([1 + 2j, 3 - 1j, -2j])))
    ),
    "a subclass": of(lambda: parameter(torch.ones(3).as_subclass(Marked))),
    "one of two": of(parameter, lambda: parameter(grad=torch._neg_view(torch.ones(2, 3)))),
}


@pytest.mark.parametrize("name", ["auto", "fused"])
@pytest.mark.parametrize("made", TAKEN.values(), ids=TAKEN)
def test_a_kernel_takes_what_it_can(name: str, made, monkeypatch) -> None:
    expected, by_eager = made("eager")
    by_eager.step()
    monkeypatch.setattr(eager, "step", refused)
    params, optimizer = made(name)
    optimizer.step()
    assert all(map(moved, params))
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("made", FALLEN_BACK.values(), ids=FALLEN_BACK)
def test_auto_falls_back(made) -> None:
    params, optimizer = made("auto")
    expected, by_eager = made("eager")
    for _ in range(3):
        optimizer.step()
        by_eager.step()
    assert all(map(moved, params))
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach().as_subclass(Tensor), q.detach().as_subclass(Tensor))


@pytest.mark.parametrize("made", FALLEN_BACK.values(), ids=FALLEN_BACK)
def test_fused_refuses_and_changes_nothing(made) -> None:
    params, optimizer = made("fused")
    with pytest.raises(tw.UsageError, match=r"backend is 'fused', which cannot take parameter "):
        optimizer.step()
    for p in params:
        assert torch.all(p == 1)
        state = optimizer.state[p]
        assert all(torch.all(x == 0) for x in state.values())


def test_eager_never_uses_a_kernel(monkeypatch) -> None:
    monkeypatch.setattr(binding, "Pass", refused)
    monkeypatch.setattr(fused, "kernel", refused)
    p = parameter()
    optimizer = tw.SGD([p], lr=0.1, backend="eager")
    optimizer.step()
    optimizer.step()
    assert moved(p)
    with pytest.raises(AssertionError, match="must not be used"):
        tw.SGD([p], lr=0.1, backend="auto").step()


def test_each_group_may_have_a_type_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(eager, "step", refused)
    params = [parameter(), mixed()]
    tw.Adam([{"params": [p]} for p in params], backend="fused").step()
    assert all(map(moved, params))


def test_a_parameter_of_a_subclass_is_trained_all_the_same() -> None:
    ends = []
    for made in (lambda x: x.as_subclass(Marked), lambda x: x):
        p = made(torch.ones(3)).requires_grad_()
        optimizer = tw.Adam([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
        ends.append(p.detach().as_subclass(Tensor))
    torch.testing.assert_close(*ends)
    assert not torch.equal(ends[0], torch.ones(3))


# Bound, by itself

SETTINGS = rules.momentum.settings("torch")
MOMENTUM = program(rules.momentum.trace(SETTINGS))
NUMBERS = MOMENTUM.scalars({**inputs(SETTINGS), "t": 1})[0]


def tensors(*shapes: tuple[int, ...], **others: dict[int, Tensor]) -> dict[str, list[Tensor]]:
    """Parameters, gradients and velocities of these shapes, some of them replaced."""
    made = {name: [torch.ones(s) for s in shapes] for name in ("theta", "g", "v")}
    for name, replaced in others.items():
        for i, x in replaced.items():
            made[name][i] = x
    return made


def bound(given: dict[str, list[Tensor]], backend: str = "auto") -> Bound:
    count = len(given["theta"])
    return Bound(MOMENTUM, given, range(count), backend, lambda i: f"number {i}")


def test_what_is_of_equal_types_is_run_in_one_pass() -> None:
    double = torch.ones(3, dtype=torch.float64)
    given = tensors((2,), (3,), (4,), theta={1: double}, g={1: double * 2}, v={1: double * 3})
    made = bound(given)
    assert len(made.passes) == 2
    assert not made.needs_gradients
    assert all(made.gradient_words)
    assert len({*made.gradient_words}) == 3
    made(NUMBERS, ())
    for row in zip(*given.values(), strict=True):
        assert all(not torch.all(x == 1) for x in (row[0], row[2]))


def test_only_what_a_pass_runs_has_a_word_for_its_gradient() -> None:
    given = tensors((2,), (3,), (4,), g={1: torch._neg_view(torch.ones(3))})
    made = bound(given)
    assert made.needs_gradients
    assert [bool(word) for word in made.gradient_words] == [True, False, True]
    made(NUMBERS, given["g"])
    first, second, third = (x[0].item() for x in given["theta"])
    assert first == third < 1
    # Its velocity is 0.9 * 1 - 1.
    assert second > 1
    assert bound(given, "eager").gradient_words == [0, 0, 0]
    assert bound(given, "eager").passes == []


def freed(x: Tensor) -> Tensor:
    x.untyped_storage().resize_(0)
    return x


WRONG = {
    "gradient's shape": ({"g": {1: torch.ones(2)}}, r"the gradient of number 1 has shape \(2,\)"),
    "state's shape": ({"v": {1: torch.ones(1)}}, r"the state 'v' of number 1 has shape \(1,\)"),
    "gradient's device": ({"g": {1: torch.ones(3, device="meta")}}, "gradient of number 1 is on"),
    "state's device": ({"v": {1: torch.ones(3, device="meta")}}, "'v' of number 1 is on meta"),
    "gradient's type": ({"g": {1: torch.ones(3).double()}}, "gradient of number 1 is of .*64"),
    "state complex": ({"v": {1: torch.ones(3) + 0j}}, "'v' of number 1 is of torch.complex64"),
    "parameter freed": ({"theta": {1: freed(torch.ones(3))}}, "^number 1 has been freed"),
    "gradient freed": ({"g": {1: freed(torch.ones(3))}}, "gradient of number 1 has been freed"),
    "state freed": ({"v": {1: freed(torch.ones(3))}}, "state 'v' of number 1 has been freed"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("others", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_an_error(others, message: str, backend: str) -> None:
    with pytest.raises(tw.UsageError, match=message):
        bound(tensors((2,), (3,), **others), backend)
    bound(tensors((2,), (3,)), backend)


LAZY = {
    "parameter": {"theta": {1: (torch.ones(3) + 0j).conj()}, "g": {1: torch.ones(3) + 0j}},
    "state": {
        "theta": {1: torch.ones(3) + 0j},
        "g": {1: torch.ones(3) + 0j},
        "v": {1: (torch.ones(3) + 0j).conj()},
    },
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", LAZY)
def test_what_is_conjugated_when_it_is_read_cannot_be_written(what: str, backend: str) -> None:
    given = {"v": {1: torch.ones(3) + 0j}} | LAZY[what]
    with pytest.raises(tw.UsageError, match=r"number 1 is conjugated .* resolve_conj"):
        bound(tensors((2,), (3,), **given), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["Adagrad", "Adam", "RMSprop"])
def test_complex_states_begin_as_pairs(name: str, backend: str) -> None:
    ends = []
    for classes, chosen in ((tw, {"backend": backend}), (torch.optim, {})):
        p = torch.tensor([1 + 2j, -1j, 0.5]).requires_grad_()
        optimizer = getattr(classes, name)([p], lr=0.1, **STARTS.get(name, {}), **chosen)
        for t in range(3):
            p.grad = torch.tensor([1 + 2j, 0.5 - 1j, -3j]) * (t + 1j)
            optimizer.step()
        ends.append(torch.view_as_real(p.detach()))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


STARTS = {"Adagrad": {"initial_accumulator_value": 0.5}}


def test_an_error_says_which_parameter_it_is() -> None:
    params = {"weight": torch.ones(2, 3).requires_grad_(), "bias": torch.ones(2).requires_grad_()}
    optimizer = tw.SGD(params.items(), lr=0.1)
    params["weight"].grad, params["bias"].grad = torch.ones(2, 3), torch.ones(2)
    optimizer.step()
    params["bias"].grad.untyped_storage().resize_(0)
    before = params["weight"].detach().clone()
    said = "the gradient of parameter 'bias' of shape (2,) has been freed"
    with pytest.raises(tw.UsageError, match=re.escape(said)):
        optimizer.step()
    assert torch.equal(params["weight"], before)
