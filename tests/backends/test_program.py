"""The program a backend gets: what is hoisted, what is folded, and that it means the same."""

import numpy as np
import pytest

from cases import CASES, Case
from thalweg import rules
from thalweg.backends.program import _HOST, Program, program
from thalweg.rules import chain, hyper, rule, state
from thalweg.rules.reference import evaluate, inputs
from thalweg.rules.vocabulary import maximum, minimum, sign, sqrt, walk, where


def programmed(one: rules.Rule, *args: str, **settings) -> Program:
    return program(one.trace(one.settings(*args, **settings)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_means_what_the_rule_means(case: Case) -> None:
    """The host's scalars and the elementwise part, evaluated in NumPy, against the reference."""
    rng = np.random.default_rng(2)
    settings = case.rule.settings(case.convention, **case.drawn(rng))
    trace = case.rule.trace(settings)
    made = program(trace)
    theta, g = rng.normal(size=(2, 5))
    held = {
        s.name: 0.7 if s.scalar else np.abs(rng.normal(size=5)) for s in trace.declared.values()
    }
    scalars = {**inputs(settings), "t": 3, "norm": 1.5}
    scalars |= {n: held[n] for n in held if np.ndim(held[n]) == 0}
    numbers, new_scalars = made.scalars(scalars)
    values = {**held, "theta": theta, "g": g} | {f"k{i}": k for i, k in enumerate(numbers)}
    found = evaluate(made.outputs, values) | new_scalars
    expected = evaluate({"theta": trace.step, **trace.states}, {**values, **scalars})
    expected["theta"] = theta - expected["theta"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14)
    if trace.gradient_at is not None:
        at = evaluate({"at": trace.gradient_at}, {**values, **scalars})
        assert made.at is not None
        np.testing.assert_allclose(evaluate({"at": made.at}, values)["at"], at["at"], rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_computed_from_scalars_in_the_elementwise_part(case: Case) -> None:
    made = programmed(case.rule, case.convention, **case.settings)
    outputs = [*made.outputs.values(), *([] if made.at is None else [made.at])]
    for expr in walk(*outputs):
        if expr.op == "symbol":
            assert expr.element or expr.name.startswith("k")
        else:
            # A literal may stand where it is no factor, as in maximum(x, 0).
            assert expr.element


@pytest.mark.parametrize(
    ("one", "settings", "scalars"),
    [
        (rules.sgd, {}, 1),  # -lr
        (rules.momentum, {}, 2),  # gamma, lr
        # beta1, 1 - beta1, beta2, 1 - beta2, the step's factor, the bias of v, eps
        (rules.adam, {}, 7),
        (rules.adamw, {}, 8),
        (rules.adagrad, {"lr_decay": 0.5}, 2),
    ],
    ids=str,
)
def test_scalars_meet_and_fold(one: rules.Rule, settings: dict, scalars: int) -> None:
    made = programmed(one, **settings)
    given = {**inputs(one.settings(**settings)), "t": 1}
    assert len(made.scalars(given)[0]) <= scalars


def test_decay_costs_one_factor_of_theta() -> None:
    """(1 - lr weight_decay) theta - step, as torch computes it."""
    theta = programmed(chain(rules.sgd, rules.decay)).outputs["theta"]
    assert repr(theta) == "add(mul(k0, theta), mul(k1, g))"
    given = {"lr": 0.5, "weight_decay": 0.1, "t": 1}
    numbers, _ = programmed(chain(rules.sgd, rules.decay)).scalars(given)
    assert list(numbers) == [1 - 0.5 * 0.1, -0.5]


def test_equal_traces_are_programmed_once() -> None:
    assert programmed(rules.adam, lr=0.1) is programmed(rules.adam, lr=0.2)


def test_scalar_states_stay_on_the_host() -> None:
    made = programmed(rules.nadam, "torch")
    assert "mu_product" not in made.outputs
    given = {**inputs(rules.nadam.settings("torch")), "t": 1, "mu_product": 1.0}
    _, new = made.scalars(given)
    assert new == {"mu_product": pytest.approx(0.9 * (1 - 0.5 * 0.96**0.004), rel=1e-15)}


@rule("Odd", paper="")
def odd(g, n=state(scalar=True, init=-2.0), *, t, lr=hyper(0.5, "[0, 1]", "")):
    n = where(n > -10, sign(n) * abs(n) ** 2 / 2 - (-lr), n)
    n = minimum(maximum(n, -100), 100) + sqrt(t)
    return n * g, n


def host_agrees() -> None:
    made = program.__wrapped__(odd.trace(odd.settings()))
    held = -2.0
    theta, kept = np.ones(1), None
    for t in range(1, 6):
        _, new = made.scalars({"lr": 0.5, "t": t, "n": held})
        held = new["n"]
        theta, kept = odd.step(theta, np.ones(1), kept)
        assert held == pytest.approx(kept["n"], rel=1e-15)


def test_the_host_knows_every_operation() -> None:
    host_agrees()


@pytest.mark.parametrize("op", _HOST)
def test_an_error_planted_in_the_host_is_caught(op: str, monkeypatch) -> None:
    wrong = {"gt": "{} < {}"}.get(op, f"1.001 * ({_HOST[op]})")
    monkeypatch.setitem(_HOST, op, wrong)
    with pytest.raises(AssertionError):
        host_agrees()


def test_the_host_divides_by_0_as_numpy_does() -> None:
    @rule("X", paper="")
    def warmed(g, *, t, lr=hyper(0.5, "[0, 1]", "")):
        return lr * where(t > 1, 1 / (t - 1), 1) * g

    assert list(programmed(warmed).scalars({"lr": 0.5, "t": 1})[0]) == [-0.5]


def test_a_state_of_elements_cannot_become_one_number() -> None:
    @rule("X", paper="")
    def counted(g, last, *, t, lr=hyper(0.5, "[0, 1]", "")):
        return lr * (g + last), t

    with pytest.raises(TypeError, match=r"its new state last.*state\(scalar=True\)"):
        programmed(counted)
