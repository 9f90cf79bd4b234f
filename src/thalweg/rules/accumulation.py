"""Rules that scale each coordinate by the size of the gradients it has seen."""

from thalweg.rules.rule import flag, hyper, rule, state
from thalweg.rules.velocity import learning_rate, weighting
from thalweg.rules.vocabulary import Expr, maximum, sqrt

__all__ = ["adadelta", "adagrad", "epsilon", "rmsprop"]

_adaptive = (1e-5, 1e-1)


def epsilon(default: float) -> Expr:
    """Declare the small number that keeps a denominator away from 0."""
    return hyper(default, "[0, inf)", "keeps the denominator away from 0")


_inside = flag(False, "add eps under the root: sqrt(x + eps), not sqrt(x) + eps")


def _root(x: Expr, eps: Expr, eps_inside: bool) -> Expr:
    return sqrt(x + eps) if eps_inside else sqrt(x) + eps


@rule(
    "Adagrad",
    paper="Duchi et al. 2011, JMLR 12, Figure 1 (diagonal)",
    torch={"eps": 1e-10},
    keras={
        "lr": 1e-3,
        "eps": 1e-7,
        "eps_inside": True,
        "initial_accumulator_value": 0.1,
    },
    optax={"eps": 1e-7, "eps_inside": True, "initial_accumulator_value": 0.1},
)
def adagrad(
    g: Expr,
    G: Expr = state(init="initial_accumulator_value"),
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-2, search=(1e-4, 1.0)),
    eps: Expr = epsilon(1e-8),
    lr_decay: Expr = hyper(0.0, "[0, inf)", "lowers the learning rate as 1/t", off=0.0),
    initial_accumulator_value: Expr = hyper(0.0, "[0, inf)", "what the sum of squares starts with"),
    eps_inside: bool = _inside,
):
    """Give each coordinate a learning rate that shrinks with the sum of its squared gradients."""
    G = G + g**2
    rate = lr / (1 + (t - 1) * lr_decay)
    return rate * g / _root(G, eps, eps_inside), G


@rule(
    "Adadelta",
    paper="Zeiler 2012, arXiv:1212.5701, Algorithm 1",
    torch={"rho": 0.9},
    keras={"lr": 1e-3, "eps": 1e-7},
    optax={"rho": 0.9},
)
def adadelta(
    g: Expr,
    E: Expr,
    D: Expr,
    *,
    lr: Expr = learning_rate(1.0, search=(1e-3, 10.0)),
    rho: Expr = weighting(0.95, "the averages"),
    eps: Expr = epsilon(1e-6),
):
    """Scale by the ratio of two root mean squares, of past steps and of gradients: no units left.

    E is the average of squared gradients, D that of squared steps.
    """
    E = rho * E + (1 - rho) * g**2
    d = sqrt(D + eps) / sqrt(E + eps) * g
    D = rho * D + (1 - rho) * d**2
    return lr * d, E, D


@rule(
    "RMSprop",
    paper="Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013, arXiv:1308.0850, eqs. 38-41",
    torch={"lr": 1e-2, "rho": 0.99, "lr_inside": False},
    keras={"eps": 1e-7, "eps_inside": True},
    optax={"eps_inside": True},
)
def rmsprop(
    g: Expr,
    E: Expr = state(init="initial_accumulator_value"),
    mean: Expr = state(),
    v: Expr = state(),
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-3, search=_adaptive),
    rho: Expr = weighting(0.9, "the averages"),
    eps: Expr = epsilon(1e-8),
    momentum: Expr = weighting(0.0, "the velocity", off=0.0),
    initial_accumulator_value: Expr = hyper(
        0.0, "[0, inf)", "what the average E starts with", off=0.0
    ),
    centered: bool = flag(False, "divide by the standard deviation of gradients, not their size"),
    eps_inside: bool = _inside,
    lr_inside: bool = flag(True, "scale the velocity's input by lr, not the velocity (torch)"),
    nesterov: bool = flag(False, "step to where the velocity is about to lead, as NAG does"),
    bias_correction: bool = flag(False, "correct the averages for starting at 0, as Adam does"),
):
    """Divide the gradient by a running root mean square, which unlike Adagrad's sum forgets.

    E is the average of squared gradients, `mean` that of the gradients if centered.
    """
    E = rho * E + (1 - rho) * g**2
    known = 1 - rho**t if bias_correction else 1
    spread = E / known
    if centered:
        mean = rho * mean + (1 - rho) * g
        # A variance; rounding can take it below 0, where its root would be NaN.
        spread = maximum(spread - (mean / known) ** 2, 0)
    scaled = g / _root(spread, eps, eps_inside)
    if lr_inside:
        v = momentum * v + lr * scaled
        return momentum * v + lr * scaled if nesterov else v, E, mean, v
    v = momentum * v + scaled
    return lr * (momentum * v + scaled if nesterov else v), E, mean, v
