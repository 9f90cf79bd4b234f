"""How a rule is declared, what may be set, and how settings are named in a chain."""

import copy
import cProfile
import math
import pickle

import numpy as np
import pytest

from thalweg import rules
from thalweg.errors import UsageError
from thalweg.rules import OPTIMIZERS, STAGES, chain, flag, hyper, rule, stage, state

_lr = hyper(0.1, "[0, inf)", "learning rate")


@pytest.mark.parametrize("found", [*OPTIMIZERS.values(), *STAGES.values()], ids=repr)
def test_every_rule_says_what_it_is(found) -> None:
    assert getattr(rules, found.name) is found
    assert found.doc.endswith(".")
    assert found.paper or found.name == "ascend"
    assert all(h.help for h in found.hypers.values())
    assert found.is_stage == (found.name in STAGES)
    for name, h in found.hypers.items():
        assert h.checked(name, h.default) == h.default
    for name, f in found.flags.items():
        assert f.checked(name, f.default) is f.default


def test_no_rule_of_the_catalogue_is_lost() -> None:
    catalogue = (
        "sgd momentum nag qhm aggmo adagrad adadelta rmsprop adam amsgrad adamax nadam qhadam adamw"
    )
    assert set(catalogue.split()) <= OPTIMIZERS.keys()


OUT_OF_RANGE = [
    (rules.sgd, "lr", -1, "[0, inf)"),
    (rules.sgd, "lr", math.nan, "[0, inf)"),
    (rules.sgd, "lr", math.inf, "[0, inf)"),
    (rules.sgd, "lr", "0.1", "[0, inf)"),
    (rules.sgd, "lr", None, "[0, inf)"),
    (rules.sgd, "lr", [0.1], "[0, inf)"),
    (rules.sgd, "lr", 1j, "[0, inf)"),
    (rules.sgd, "lr", np.ones(2), "[0, inf)"),
    (rules.adam, "beta1", 1.0, "[0, 1)"),
    (rules.adam, "beta2", -0.1, "[0, 1)"),
    (rules.adam, "eps", -1e-8, "[0, inf)"),
    (rules.clip_norm, "max_norm", 0, "(0, inf)"),
    (rules.qhm, "nu", 2, "[0, 1]"),
    (rules.momentum, "dampening", 1.01, "[0, 1]"),
    (rules.aggmo, "betas", (), "non-empty"),
    (rules.aggmo, "betas", 0.9, "sequence"),
    (rules.aggmo, "betas", (0.9, 1.0), "[0, 1)"),
    (rules.aggmo, "betas", "09", "[0, 1)"),
    (rules.noise, "seed", 0.5, "a whole number"),
    (rules.noise, "seed", 2**32, "[0, 4294967296)"),
    (rules.adam, "eps_hat", 1, "False or True"),
    (rules.adam, "eps_hat", "yes", "False or True"),
    (rules.adamax, "eps_in", "x", "'nowhere' or 'gradient' or 'denominator'"),
    (rules.adamax, "eps_in", True, "'nowhere' or 'gradient' or 'denominator'"),
]


@pytest.mark.parametrize(("one", "name", "value", "allowed"), OUT_OF_RANGE, ids=str)
def test_values_out_of_range_are_refused(one, name: str, value: object, allowed: str) -> None:
    for attempt in (
        lambda: one(**{name: value}),
        lambda: one.settings(**{name: value}),
        lambda: one.step(1.0, 1.0, **{name: value}),
    ):
        with pytest.raises(UsageError) as error:
            attempt()
        message = str(error.value)
        assert message.startswith(f"{name} is {value!r}, but must be ")
        assert allowed in message


EDGES = [
    (rules.sgd, "lr", 0),
    (rules.adam, "beta1", 0),
    (rules.adam, "beta1", 1 - 1e-16),
    (rules.qhm, "nu", 0),
    (rules.qhm, "nu", 1),
    (rules.momentum, "dampening", 1),
    (rules.adam, "eps", 0),
    (rules.noise, "seed", 2**32 - 1),
    (rules.aggmo, "betas", [0.0]),
    (rules.sgd, "lr", np.float32(0.5)),
]


@pytest.mark.parametrize(("one", "name", "value"), EDGES, ids=str)
def test_values_at_the_edge_are_allowed(one, name: str, value: object) -> None:
    held = one.settings(**{name: value}).hypers[name]
    assert held == (tuple(value) if isinstance(value, list) else float(value))


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"setting of adam 'beta'\. Did you mean beta\d or beta\d"):
        rules.adam(beta=0.9)
    with pytest.raises(UsageError, match=r"unknown convention 'pytorch'\. Did you mean torch"):
        rules.adam.settings("pytorch")
    with pytest.raises(AttributeError, match=r"unknown rule 'Adam'\. Did you mean adam"):
        rules.__getattr__("Adam")


def test_settings_are_given_by_name_or_in_order() -> None:
    assert rules.adam(0.1, 0.8).given == {"lr": 0.1, "beta1": 0.8}
    assert rules.adam(0.1)(beta1=0.8).given == {"lr": 0.1, "beta1": 0.8}
    assert rules.adam.given == {}
    assert rules.adam(0.1).hypers["lr"].default == 0.1
    with pytest.raises(UsageError, match=r"at most 4 values \(lr, beta1, beta2, eps\), got 5"):
        rules.adam(1, 0, 0, 1, 1)


def test_what_is_given_stands_before_the_convention_and_that_before_the_default() -> None:
    def eps(one, convention: str, **given: float) -> object:
        return one.settings(convention, **given).hypers["eps"]

    assert eps(rules.adam, "paper") == 1e-8
    assert eps(rules.adam, "keras") == 1e-7
    assert eps(rules.adam(eps=1e-3), "keras") == 1e-3
    assert eps(rules.adam(eps=1e-3), "keras", eps=1e-2) == 1e-2
    assert rules.adamw.settings("keras").hypers["weight_decay"] == 0.004
    assert chain(rules.l2, rules.adam).settings("keras").flags == {"eps_hat": True}


@pytest.mark.parametrize(
    ("convention", "settings"),
    [
        ("torch", {"lr": 1e-3, "gamma": 0.9, "dampening": 0.0}),
        ("keras", {"lr": 1e-2, "gamma": 0.9, "dampening": 0.0}),
    ],
)
def test_conventions_of_momentum(convention: str, settings: dict[str, float]) -> None:
    assert rules.momentum.settings(convention).hypers == settings
    inside = convention != "torch"
    assert rules.momentum.settings(convention).flags == {"lr_inside": inside, "damp_first": inside}


def test_a_name_that_two_links_have_is_preceded_by_its_stage() -> None:
    both = chain(rules.noise(gamma=0.1), rules.momentum(gamma=0.2))
    settings = both.settings().hypers
    assert settings["noise_gamma"] == 0.1
    assert settings["gamma"] == 0.2
    twice = chain(rules.l2(0.1), rules.adam, rules.decay(0.2)).settings().hypers
    assert twice["l2_weight_decay"] == 0.1
    assert twice["decay_weight_decay"] == 0.2
    assert chain(rules.l2(0.1), rules.adam).settings().hypers["weight_decay"] == 0.1


def test_a_name_stays_the_same_when_a_chain_is_chained() -> None:
    inner = chain(rules.l2(0.1), rules.adam)
    outer = chain(inner, rules.decay(0.2)).settings().hypers
    assert outer["l2_weight_decay"] == 0.1
    assert outer["decay_weight_decay"] == 0.2
    with pytest.raises(UsageError, match="weight_decay"):
        chain(inner, rules.decay).settings(weight_decay=0.1)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ((), "0 rules"),
        ((rules.l2,), "0 rules"),
        ((rules.adam, rules.sgd), "2 rules"),
        ((rules.l2, rules.l2, rules.sgd), "l2 stands more than once"),
        ((rules.adamw, rules.decay), "decay stands more than once"),
        ((rules.l2, rules.clip_norm, rules.sgd), "clip_norm behind l2, .* put clip_norm first"),
        ((rules.sgd, rules.clip_norm), "clip_norm behind sgd"),
    ],
)
def test_chains_that_make_no_sense(links, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chain(*links)


def test_a_chain_says_where_it_comes_from() -> None:
    assert chain(rules.l2, rules.sgd).title == "L2 + SGD"
    assert chain(rules.l2, rules.sgd).paper == f"{rules.l2.paper}; {rules.sgd.paper}"


def test_an_undeclared_keyword_is_refused() -> None:
    def halved(g, *, q):
        return q * g

    with pytest.raises(TypeError, match="halved: declare the keyword parameter 'q'"):
        rule("X", paper="")(halved)


@pytest.mark.parametrize(
    ("conventions", "message"),
    [
        ({"jax": {}}, "unknown convention 'jax'"),
        ({"torch": {"lrr": 1}}, "Did you mean lr"),
        ({"torch": {"lr": -1}}, "lr is -1"),
    ],
)
def test_a_convention_is_checked_when_it_is_declared(conventions, message: str) -> None:
    def plain(g, *, lr=_lr):
        return lr * g

    with pytest.raises(UsageError, match=message):
        rule("X", paper="", **conventions)(plain)


def test_an_interval_must_be_one() -> None:
    @rule("X", paper="")
    def plain(g, *, lr=hyper(0.1, "0..1", "")):
        return lr * g

    with pytest.raises(ValueError, match="not an interval"):
        plain.settings(lr=0.5)


def test_a_rule_must_return_its_states() -> None:
    @rule("X", paper="")
    def forgetful(g, m, v, *, lr=_lr):
        return lr * g, m

    with pytest.raises(TypeError, match=r"forgetful returned 1 new states.* 2 \(m, v\)"):
        forgetful.step(1.0, 1.0)


def test_a_rule_cannot_branch_on_a_value() -> None:
    @rule("X", paper="")
    def branching(g, *, lr=_lr):
        return lr * g if g > 0 else g

    with pytest.raises(TypeError, match=r"where\(condition, a, b\)"):
        branching.step(1.0, 1.0)


def test_a_rule_cannot_reckon_with_a_comparison() -> None:
    @rule("X", paper="")
    def gated(g, *, lr=_lr):
        return lr * ((g > 0) * g)

    with pytest.raises(TypeError, match=r"used in where\(condition, a, b\)"):
        gated.trace(gated.settings())


def test_a_stage_that_needs_a_learning_rate_must_find_one() -> None:
    @rule("X", paper="")
    def sized(g, *, size=hyper(0.1, "[0, 1]", "")):
        return size * g

    with pytest.raises(UsageError, match=r"chain\(sized, decay\) .* sized has no lr"):
        chain(sized, rules.decay)
    theta, _ = chain(rules.l2(0.5), sized).step(np.ones(1), np.ones(1))
    np.testing.assert_allclose(theta, [1 - 0.1 * 1.5])


def test_a_profiler_goes_on_after_a_rule_was_traced() -> None:
    """A rule's variables are found by a profiler of our own, in the other's place."""

    @rule("X", paper="")
    def profiled(g, *, lr=_lr):
        return lr * g

    profiler = cProfile.Profile()
    profiler.enable()
    try:
        profiled.trace(profiled.settings())
        "".join(["after", "wards"])
    finally:
        profiler.disable()
    called = {entry.code for entry in profiler.getstats()}
    assert any("'join' of 'str'" in str(code) for code in called)


def test_a_rule_of_ones_own() -> None:
    @rule("Own", paper="nobody", keras={"lr": 0.5})
    def own(
        g,
        count=state(init="start", scalar=True),
        *,
        t,
        lr=_lr,
        start=hyper(2.0, "[0, inf)", ""),
        loud: bool = flag(False, ""),
    ):
        """Count."""
        count = count + t
        return (2 if loud else 1) * lr * count * g, count

    theta, held = own.step(np.ones(2), np.array([1.0, -1.0]), lr=0.5)
    np.testing.assert_array_equal(theta, [1 - 0.5 * 3, 1 + 0.5 * 3])
    assert held == {"t": 1, "count": 3.0}
    theta, held = own.step(theta, np.ones(2), held, loud=True, convention="keras")
    np.testing.assert_array_equal(theta, [-0.5 - 5, 2.5 - 5])
    assert held == {"t": 2, "count": 5.0}


def test_a_stage_of_ones_own_may_use_lr_and_theta() -> None:
    @stage("pull", paper="")
    def pull(step, theta, *, lr, to=hyper(1.0, "[0, inf)", "")):
        return step + lr * (theta - to)

    theta, _ = chain(rules.sgd(lr=0.5), pull).step(np.array([3.0]), np.array([1.0]))
    np.testing.assert_array_equal(theta, [3 - 0.5 * 1 - 0.5 * 2])


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
@pytest.mark.parametrize(
    "one",
    [*OPTIMIZERS.values(), rules.adam(lr=0.5, eps_hat=True), chain(rules.l2(0.1), rules.sgd(0.2))],
    ids=repr,
)
def test_rules_can_be_copied_and_pickled(one, copied) -> None:
    other = copied(one)
    assert repr(other) == repr(one)
    assert other.settings("keras") == one.settings("keras")
    theta, g = np.array([1.0, -2.0]), np.array([0.5, 1.0])
    np.testing.assert_array_equal(other.step(theta, g)[0], one.step(theta, g)[0])
