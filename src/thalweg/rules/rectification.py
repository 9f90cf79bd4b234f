"""Adam with its early steps put right, while it knows too little of the gradients' size."""

from thalweg.rules.accumulation import epsilon
from thalweg.rules.rule import flag, rule
from thalweg.rules.velocity import learning_rate, weighting
from thalweg.rules.vocabulary import Expr, sqrt, where

__all__ = ["radam"]


@rule(
    "RAdam",
    paper="Liu et al. 2020, arXiv:1908.03265, Algorithm 2; eps is the libraries'",
    torch={"over_five": True, "eps_hat": True},
    optax={"over_five": True},
)
def radam(
    g: Expr,
    m: Expr,
    v: Expr,
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-3, search=(1e-5, 1e-1)),
    beta1: Expr = weighting(0.9, "the average of gradients"),
    beta2: Expr = weighting(0.999, "the average of their squares"),
    eps: Expr = epsilon(1e-8),
    over_five: bool = flag(False, "scale once rho_t is over 5 (libraries), not once it is over 4"),
    eps_hat: bool = flag(False, "add eps before the bias of v is corrected, not after"),
):
    """Adam that starts as momentum and scales as far as its root mean square can be trusted.

    rho_t is how many gradients the average of squares is worth, rho_inf what that grows to.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho_t = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    tractable = rho_t > (5 if over_five else 4)
    # Where the root or the quotient of the two does not exist, they are 1: no rectification.
    above = where(tractable, (rho_t - 4) * (rho_t - 2) * rho_inf, 1)
    below = where(tractable, (rho_inf - 4) * (rho_inf - 2) * rho_t, 1)
    r = sqrt(above / below)
    eps_t = eps / sqrt(1 - beta2**t) if eps_hat else eps
    d = where(tractable, sqrt(v_hat) + eps_t, 1)
    return lr * r * m_hat / d, m, v
