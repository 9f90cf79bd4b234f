"""What `explained` tells of conventions: what they change, and nothing else."""

import pytest

from thalweg import rules
from thalweg.rules import CONVENTIONS, OPTIMIZERS, Rule, chain
from thalweg.rules.explanation import explained

ADAM = """\
Formula (keras):
    g ← ∇f(θ)
    m ← β₁ m + (1 − β₁) g
    v ← β₂ v + (1 − β₂) g²
    m̂ ← m / (1 − β₁^t)
    v̂ ← v / (1 − β₂^t)
    ε_t ← ε / √(1 − β₂^t)
    θ ← θ − lr m̂ / (√v̂ + ε_t)

Lines that differ from the paper's:
    paper  θ ← θ − lr m̂ / (√v̂ + ε)
    keras  ε_t ← ε / √(1 − β₂^t)
    keras  θ ← θ − lr m̂ / (√v̂ + ε_t)

Settings that differ from the paper's:
    eps      1e-08 → 1e-07
    eps_hat  false → true
"""


def test_a_convention_is_told_as_a_difference_to_the_paper() -> None:
    assert ADAM in explained(rules.adam, "keras")


def test_a_convention_that_changes_numbers_alone_changes_no_line() -> None:
    text = explained(rules.sgd, "keras")
    assert "Settings that differ from the paper's:\n    lr  0.001 → 0.01\n" in text
    assert "Lines that differ" not in text


@pytest.mark.parametrize("rule", [rules.qhm, rules.adam, chain(rules.l2, rules.sgd)], ids=repr)
def test_a_convention_that_changes_nothing_says_so(rule: Rule) -> None:
    text = explained(rule, "optax")
    assert "The optax convention changes nothing." in text
    assert "differ" not in text


def test_what_is_given_differs_in_no_convention() -> None:
    text = explained(rules.adam(eps=0.5), "keras")
    assert "eps_hat  false → true" in text
    assert "→ 1e-07" not in text
    assert "    keras  eps_hat = true" in explained(rules.adam(eps=0.5))


@pytest.mark.parametrize("rule", OPTIMIZERS.values(), ids=repr)
def test_the_paper_is_told_with_every_convention_that_differs(rule: Rule) -> None:
    text = explained(rule)
    assert "Lines that differ" not in text
    _, _, others = text.partition("Where conventions differ from the paper:\n")
    told = {line.split()[0]: line for line in others.splitlines()}
    assert told.keys() == {c for c in CONVENTIONS if rule.by_convention(c)}
    for convention, line in told.items():
        assert all(f"{name} = " in line for name in rule.by_convention(convention))
