"""Rules that move by the gradient or by a velocity made of gradients."""

from thalweg.rules.declaration import GradientAt
from thalweg.rules.rule import flag, hyper, rule, state
from thalweg.rules.vocabulary import Expr, where

__all__ = ["aggmo", "learning_rate", "momentum", "nag", "qhm", "sgd", "weighting"]


def learning_rate(default: float, *, search: tuple[float, float]) -> Expr:
    """Declare the learning rate."""
    return hyper(default, "[0, inf)", "learning rate: scales every step", search=search)


def weighting(default: float, what: str, *, off: float | None = None) -> Expr:
    """Declare the weight of the past in an exponential average or a velocity."""
    return hyper(default, "[0, 1)", f"how much of {what} is kept", search=(0.0, 0.999), off=off)


_lr_outside = flag(
    True, "scale the velocity's input by lr (paper), not the velocity (torch, optax)"
)
_descent = (1e-4, 1.0)


@rule("SGD", paper="Robbins & Monro 1951, eq. 6", torch={}, keras={"lr": 0.01})
def sgd(g: Expr, *, lr: Expr = learning_rate(1e-3, search=_descent)):
    """Step against the gradient: of all data (batch), one sample (stochastic) or a mini-batch."""
    return lr * g


@rule(
    "Momentum",
    paper="Polyak 1964, eq. 9; Ruder 2016, arXiv:1609.04747, section 4.1",
    torch={"lr_inside": False, "damp_first": False},
    keras={"lr": 0.01},
    optax={"lr_inside": False},
)
def momentum(
    g: Expr,
    v: Expr,
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-3, search=_descent),
    gamma: Expr = weighting(0.9, "the velocity"),
    dampening: Expr = hyper(0.0, "[0, 1]", "how much of a new gradient is left out", off=0.0),
    lr_inside: bool = _lr_outside,
    damp_first: bool = flag(True, "dampen the first gradient as well (torch does not)"),
):
    """Let gradients push a velocity that friction slows down.

    With `dampening` equal to `gamma` the velocity is an exponentially weighted average.
    """
    share = 1 - dampening
    if not damp_first:
        share = where(t > 1, share, 1)
    if lr_inside:
        v = gamma * v + lr * (share * g)
        return v, v
    v = gamma * v + share * g
    return lr * v, v


@rule(
    "NAG",
    paper="Nesterov 1983; Sutskever et al. 2013, eqs. 3-4; rearranged: Bengio et al. 2013, "
    "arXiv:1212.0901, eq. 7",
    torch={"lr_inside": False},
    keras={"lr": 0.01},
    optax={"lr_inside": False},
)
def nag(
    g: Expr,
    v: Expr,
    theta: Expr,
    *,
    lr: Expr = learning_rate(1e-3, search=_descent),
    gamma: Expr = weighting(0.9, "the velocity"),
    lr_inside: bool = _lr_outside,
    lookahead: bool = flag(
        False, "take the gradient at the look-ahead point, which needs a closure"
    ),
):
    """Nesterov's accelerated gradient: correct the velocity where it is about to lead.

    As published the gradient is taken at a point ahead of theta. By default theta *is* that point
    (the rearranged form of torch and Keras): the same path, seen from gamma v further on.
    """
    before = v
    v = gamma * v + (lr * g if lr_inside else g)
    if lookahead:
        here = theta - (gamma * before if lr_inside else lr * (gamma * before))
        return v if lr_inside else lr * v, v, GradientAt(here)
    return gamma * v + lr * g if lr_inside else lr * (gamma * v + g), v


@rule("QHM", paper="Ma & Yarats 2019, arXiv:1810.06801, eqs. 3-4")
def qhm(
    g: Expr,
    v: Expr,
    *,
    lr: Expr = learning_rate(1e-3, search=_descent),
    nu: Expr = hyper(0.7, "[0, 1]", "share of the average in the step; the rest is the gradient's"),
    beta: Expr = weighting(0.999, "the average"),
):
    """Quasi-hyperbolic momentum: step by a mixture of the gradient and its running average."""
    v = beta * v + (1 - beta) * g
    return lr * ((1 - nu) * g + nu * v), v


@rule("AggMo", paper="Lucas et al. 2019, arXiv:1804.00325, eq. 2")
def aggmo(
    g: Expr,
    v: tuple[Expr, ...] = state(each="betas"),
    *,
    lr: Expr = learning_rate(1e-3, search=_descent),
    betas: tuple[Expr, ...] = hyper(
        (0.0, 0.9, 0.99), "[0, 1)", "how much of each velocity is kept"
    ),
):
    """Aggregated momentum: the mean of several velocities, each with its own friction."""
    v = tuple(beta * v_i + g for beta, v_i in zip(betas, v, strict=True))
    return lr * (sum(v[1:], v[0]) / len(v)), v
