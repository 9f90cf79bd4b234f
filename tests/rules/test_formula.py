"""The printed formula: it comes from the trace, and carried out line by line it is the rule."""

from collections.abc import Mapping

import numpy as np
import pytest

from cases import CASES, Case
from thalweg import rules
from thalweg.rules import Rule, chain, hyper, philox, rule
from thalweg.rules.formula import LATEX, TEXT, formula, statements
from thalweg.rules.reference import MEANING, inputs
from thalweg.rules.vocabulary import Expr


def written(one: Rule, notation=TEXT, **settings) -> str:
    return "\n".join(formula(one, one.settings(**settings), notation))


GOLDEN = {
    "adam": (
        rules.adam,
        {},
        """\
g ← ∇f(θ)
m ← β₁ m + (1 − β₁) g
v ← β₂ v + (1 − β₂) g²
m̂ ← m / (1 − β₁^t)
v̂ ← v / (1 − β₂^t)
θ ← θ − lr m̂ / (√v̂ + ε)""",
    ),
    "nadam": (
        rules.nadam,
        {},
        """\
g ← ∇f(θ)
m ← β₁ m + (1 − β₁) g
v ← β₂ v + (1 − β₂) g²
v̂ ← v / (1 − β₂^t)
m̂ ← m / (1 − β₁^t)
m̄ ← β₁ m̂ + (1 − β₁) g / (1 − β₁^t)
θ ← θ − lr m̄ / (√v̂ + ε)""",
    ),
    "adadelta": (
        rules.adadelta,
        {},
        """\
g ← ∇f(θ)
E ← ρ E + (1 − ρ) g²
d ← (√(D + ε) / √(E + ε)) g
D ← ρ D + (1 − ρ) d²
θ ← θ − lr d""",
    ),
    "nag lookahead": (
        rules.nag,
        {"lookahead": True},
        """\
g ← ∇f(θ − γ v)
v ← γ v + lr g
θ ← θ − v""",
    ),
}


@pytest.mark.parametrize(("one", "settings", "text"), GOLDEN.values(), ids=GOLDEN)
def test_text(one: Rule, settings: dict, text: str) -> None:
    assert written(one, **settings) == text


def test_latex() -> None:
    assert written(rules.adam, LATEX) == "\n".join(
        [
            r"g \leftarrow \nabla f\left(\theta\right)",
            r"m \leftarrow \beta_{1} \, m + (1 - \beta_{1}) \, g",
            r"v \leftarrow \beta_{2} \, v + (1 - \beta_{2}) \, g^2",
            r"\hat{m} \leftarrow \frac{m}{1 - \beta_{1}^{t}}",
            r"\hat{v} \leftarrow \frac{v}{1 - \beta_{2}^{t}}",
            r"\theta \leftarrow \theta - \frac{\mathrm{lr} \, \hat{m}}{\sqrt{\hat{v}} + \epsilon}",
        ]
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_latex_is_balanced(case: Case) -> None:
    text = written(case.rule, LATEX, **case.settings)
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right")
    assert text.count(r"\begin") == text.count(r"\end")
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert text.isascii()


def value(expr: Expr, held: Mapping[str, object], names: Mapping[Expr, str], root: bool) -> object:
    """What one line means: named nodes are looked up, the others computed."""
    if not root and expr in names:
        return held[names[expr]]
    if expr.op == "symbol":
        return held[expr.name]
    if expr.constant is not None:
        return expr.constant
    operands = [value(e, held, names, False) for e in expr.operands]
    if expr.op == "normal":
        seed, t = (int(x) for x in operands)
        return philox.normal(np, np.arange(2), seed=seed, t=t, stream=0)
    return MEANING[expr.op](*operands)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_carried_out_line_by_line_it_is_the_rule(case: Case) -> None:
    rng = np.random.default_rng(1)
    settings = case.rule.settings(case.convention, **case.drawn(rng))
    theta, g = rng.normal(size=(2, 2))
    _, state = case.rule.step(theta, lambda _: g, None, **settings.hypers, **settings.flags)
    expected, after = case.rule.step(theta, lambda _: g, state, **settings.hypers, **settings.flags)
    held = {"theta": theta, "g": g, "t": 2, "norm": np.linalg.norm(g), **inputs(settings)}
    held |= {name: v for name, v in state.items() if name != "t"}
    for line in statements(case.rule, settings):
        new = value(line.expr, held, line.names, line.target not in ("theta", "g"))
        held[line.target] = theta - new if line.target == "theta" else new
    np.testing.assert_allclose(held["theta"], expected, rtol=1e-12)
    for name in set(after) - {"t"}:
        np.testing.assert_allclose(held[name], after[name], rtol=1e-12)


def test_a_changed_rule_changes_the_print() -> None:
    @rule("X", paper="")
    def one(g, m, *, lr=hyper(0.1, "[0, 1]", ""), beta1=hyper(0.9, "[0, 1)", "")):
        m = beta1 * m + (1 - beta1) * g
        return lr * m, m

    @rule("X", paper="")
    def other(g, m, *, lr=hyper(0.1, "[0, 1]", ""), beta1=hyper(0.9, "[0, 1)", "")):
        m = beta1 * m + 2 * (1 - beta1) * g
        return lr * m, m

    assert written(one) == "g ← ∇f(θ)\nm ← β₁ m + (1 − β₁) g\nθ ← θ − lr m"
    assert written(other) == "g ← ∇f(θ)\nm ← β₁ m + 2 (1 − β₁) g\nθ ← θ − lr m"


def test_a_small_number_is_a_power_of_ten() -> None:
    clipped = chain(rules.clip_norm, rules.sgd)
    assert "(norm + 1e-6)" in written(clipped)
    assert r"\mathrm{norm} + 1 \cdot 10^{-6}}" in written(clipped, LATEX)


def test_an_option_that_is_off_is_not_printed() -> None:
    assert "dampening" not in written(rules.momentum)
    assert "1 − dampening" in written(rules.momentum, dampening=0.1)


def test_a_stage_that_is_off_is_not_printed() -> None:
    assert written(chain(rules.l2, rules.adam), weight_decay=0) == written(rules.adam)


def test_two_settings_are_two_names() -> None:
    both = written(chain(rules.l2, rules.sgd, rules.decay))
    assert "l2_weight_decay θ" in both
    assert "decay_weight_decay θ" in both
