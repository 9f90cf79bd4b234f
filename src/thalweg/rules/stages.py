"""Stages: what may stand before a rule, changing the gradient, or after it, changing the step."""

from thalweg.rules.rule import hyper, stage
from thalweg.rules.vocabulary import Expr, normal, sqrt

__all__ = ["ascend", "decay", "l2", "noise"]

_weight_decay = hyper(
    1e-2, "[0, inf)", "how strongly weights are drawn to 0", search=(1e-6, 1.0), off=0.0
)


@stage("L2", paper="Krogh & Hertz 1991, eq. 2")
def l2(g: Expr, theta: Expr, *, weight_decay: Expr = _weight_decay):
    """L2 regularization: the gradient of weight_decay/2 times the squared norm is added."""
    return g + weight_decay * theta


@stage("decoupled decay", paper="Loshchilov & Hutter 2019, arXiv:1711.05101, eq. 1")
def decay(step: Expr, theta: Expr, *, lr: Expr, weight_decay: Expr = _weight_decay):
    """Decoupled weight decay: weights shrink by lr times weight_decay, whatever the gradient."""
    # The paper scales the decay by the schedule's factor alone; every library by all of lr.
    return step + lr * (weight_decay * theta)


@stage("gradient noise", paper="Neelakantan et al. 2015, arXiv:1511.06807, section 3")
def noise(
    g: Expr,
    *,
    t: Expr,
    eta: Expr = hyper(0.3, "[0, inf)", "variance of the noise before it fades", search=(0.01, 1.0)),
    gamma: Expr = hyper(0.55, "[0, 10]", "how fast the variance fades"),
    seed: Expr = hyper(0, "[0, 4294967296)", "which noise", integer=True),
):
    """Add normal noise of *variance* eta / (1 + t)^gamma, the same on every backend."""
    return g + sqrt(eta / (1 + t) ** gamma) * normal(seed, t)


@stage("ascent", paper="")
def ascend(g: Expr):
    """Climb instead of descending: torch's `maximize`."""
    return -g
