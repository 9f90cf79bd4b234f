"""The reference's own manners: what `rule.step` takes, returns and leaves alone."""

import numpy as np
import pytest

from cases import CASES, Case
from thalweg import rules
from thalweg.errors import UsageError


def test_arrays_and_dicts_of_arrays_are_the_same() -> None:
    a, b = np.array([1.0, 2.0]), np.array([[3.0], [4.0]])
    both, state = rules.adam.step({"a": a, "b": b}, {"b": 2 * b, "a": 2 * a})
    for name, p in (("a", a), ("b", b)):
        alone, own = rules.adam.step(p, 2 * p)
        np.testing.assert_array_equal(both[name], alone)
        np.testing.assert_array_equal(state["m"][name], own["m"])
    assert list(state) == ["t", "m", "v"]
    assert state["t"] == own["t"] == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_that_is_passed_in_is_changed(case: Case) -> None:
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    settings = case.drawn(rng)

    def step(state):
        return case.rule.step(p, lambda _: g, state, convention=case.convention, **settings)

    _, state = step(None)
    before = [p.copy(), g.copy(), {k: np.copy(v) for k, v in state.items()}]
    step(state)
    np.testing.assert_array_equal(p, before[0])
    np.testing.assert_array_equal(g, before[1])
    for name, value in state.items():
        np.testing.assert_array_equal(value, before[2][name])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_stays_float32(case: Case) -> None:
    p = np.ones(2, np.float32)
    theta, state = case.rule.step(p, lambda _: p, convention=case.convention, **case.settings)
    assert theta.dtype == np.float32
    arrays = [v for n, v in state.items() if n not in ("t", "mu_product")]
    assert {a.dtype for a in arrays} <= {np.dtype(np.float32)}


def test_the_norm_is_that_of_all_gradients() -> None:
    clipped = rules.chain(rules.clip_norm(10.0), rules.sgd(1.0))
    p = {"a": np.zeros(2, np.float32), "b": np.zeros((1, 2))}
    theta, _ = clipped.step(p, {"a": [3.0, 24.0], "b": [[4.0, 32.0]]})
    # 3, 4, 24 and 32 are 5 and 40: sqrt(1625)
    np.testing.assert_allclose(theta["a"], [-30 / 1625**0.5, -240 / 1625**0.5], rtol=1e-6)
    np.testing.assert_allclose(theta["b"], [[-40 / 1625**0.5, -320 / 1625**0.5]], rtol=1e-6)


def test_whole_numbers_become_float64() -> None:
    theta, _ = rules.sgd.step([1, 2], [1, 2], lr=0.5)
    assert theta.dtype == np.float64
    np.testing.assert_array_equal(theta, [0.5, 1.0])


def test_a_number_is_a_parameter_too() -> None:
    theta, state = rules.momentum.step(1.0, 2.0, lr=0.5)
    assert theta == 0.0
    assert state["v"] == 1.0


def test_gradients_may_be_a_function_for_every_rule() -> None:
    p = np.array([1.0, 2.0])
    by_function, _ = rules.adam.step(p, lambda theta: 2 * theta)
    np.testing.assert_array_equal(by_function, rules.adam.step(p, 2 * p)[0])


def test_lookahead_needs_a_function() -> None:
    with pytest.raises(UsageError, match="pass grads as a function"):
        rules.nag.step(1.0, 1.0, lookahead=True)


@pytest.mark.parametrize("one", rules.STAGES.values(), ids=repr)
def test_a_stage_takes_no_step(one: rules.Rule) -> None:
    with pytest.raises(UsageError, match=rf"{one.name} is a stage .* chain\({one.name}, sgd\)"):
        one.step(1.0, 1.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(UsageError, match=r"gradient of params has shape \(3,\).* \(2,\)"):
        rules.sgd.step(np.ones(2), np.ones(3))
    with pytest.raises(UsageError, match="gradient of w has shape"):
        rules.sgd.step({"w": np.ones(2)}, {"w": np.ones((2, 1))})


def test_names_must_agree() -> None:
    with pytest.raises(UsageError, match=r"names \['b'\].* \['a'\]"):
        rules.sgd.step({"a": np.ones(2)}, {"b": np.ones(2)})
