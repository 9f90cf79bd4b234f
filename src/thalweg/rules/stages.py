"""Stages: what may stand before a rule, changing the gradient, or after it, changing the step."""

from thalweg.rules.rule import hyper, stage
from thalweg.rules.vocabulary import Expr, maximum, minimum, normal, sqrt, where

__all__ = ["ascend", "clip_norm", "clip_value", "decay", "independent_decay", "l2", "noise"]

_weight_decay = hyper(
    1e-2, "[0, inf)", "how strongly weights are drawn to 0", search=(1e-6, 1.0), off=0.0
)


@stage("L2", paper="Krogh & Hertz 1991, eq. 2")
def l2(g: Expr, theta: Expr, *, weight_decay: Expr = _weight_decay):
    """L2 regularization: the gradient of weight_decay/2 times the squared norm is added."""
    return g + weight_decay * theta


@stage(
    "decoupled decay",
    paper="Loshchilov & Hutter 2019, arXiv:1711.05101, eq. 1",
    optax={"weight_decay": 1e-4},
)
def decay(step: Expr, theta: Expr, *, lr: Expr, weight_decay: Expr = _weight_decay):
    """Decoupled weight decay: weights shrink by lr times weight_decay, whatever the gradient."""
    # The paper scales the decay by the schedule's factor alone; every library by all of lr.
    return step + lr * (weight_decay * theta)


@stage("independent decay", paper="Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2")
def independent_decay(
    step: Expr,
    theta: Expr,
    *,
    lr: Expr,
    weight_decay: Expr = hyper(
        1e-5, "[0, inf)", "share of a weight that a step takes", search=(1e-9, 1e-3), off=0.0
    ),
):
    """Decoupled weight decay by a share that lr does not scale; where lr is 0 there is none."""
    # The paper's decay fades with the schedule, of which lr tells only when it has come to its end.
    return step + where(lr > 0, weight_decay, 0) * theta


@stage("value clipping", paper="Mikolov 2012, doctoral thesis, section 3.2.2")
def clip_value(
    g: Expr, *, limit: Expr = hyper(1.0, "(0, inf)", "how large a number of the gradient may be")
):
    """Keep each number of the gradient within -limit and limit, whatever the others are."""
    return maximum(minimum(g, limit), -limit)


@stage("norm clipping", paper="Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1")
def clip_norm(
    g: Expr,
    *,
    norm: Expr,
    max_norm: Expr = hyper(1.0, "(0, inf)", "how long the gradient may be"),
):
    """Shorten the gradient of all parameters together, keeping its direction, to max_norm.

    `norm` is the Euclidean norm of all gradients of the optimizer, as they came.
    """
    # 1e-6 is that of torch's clip_grad_norm_: the paper divides by the norm where it is too large.
    return minimum(max_norm / (norm + 1e-6), 1) * g


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
