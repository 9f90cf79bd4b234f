"""Rules of Adam's family: running averages of the gradient and of its square."""

from math import inf

from thalweg.rules.accumulation import epsilon
from thalweg.rules.rule import chain, flag, hyper, rule, state
from thalweg.rules.stages import decay
from thalweg.rules.velocity import learning_rate, weighting
from thalweg.rules.vocabulary import Expr, maximum, sqrt, where

__all__ = ["adam", "adamax", "adamw", "amsgrad", "nadam", "qhadam"]

_adaptive = (1e-5, 1e-1)
_eps_hat = flag(False, "add eps before the bias of v is corrected, not after (section 2's eps hat)")


@rule(
    "Adam",
    paper="Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1",
    keras={"eps": 1e-7, "eps_hat": True},
)
def adam(
    g: Expr,
    m: Expr,
    v: Expr,
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-3, search=_adaptive),
    beta1: Expr = weighting(0.9, "the average of gradients"),
    beta2: Expr = weighting(0.999, "the average of their squares"),
    eps: Expr = epsilon(1e-8),
    eps_hat: bool = _eps_hat,
):
    """Step by the average gradient over its root mean square, both corrected for starting at 0."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    eps_t = eps / sqrt(1 - beta2**t) if eps_hat else eps
    return lr * m_hat / (sqrt(v_hat) + eps_t), m, v


@rule(
    "AMSGrad",
    paper="Reddi et al. 2018, arXiv:1904.09237, Algorithm 2; eps is the libraries'",
    torch={"bias_correction": True},
    keras={"bias_correction": True, "eps": 1e-7, "eps_hat": True},
    optax={"bias_correction": True, "correct_first": True},
)
def amsgrad(
    g: Expr,
    m: Expr,
    v: Expr,
    v_max: Expr,
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-3, search=_adaptive),
    beta1: Expr = weighting(0.9, "the average of gradients"),
    beta2: Expr = weighting(0.999, "the average of their squares"),
    eps: Expr = epsilon(1e-8),
    bias_correction: bool = flag(False, "correct m and v_max for starting at 0, as Adam does"),
    correct_first: bool = flag(False, "with it, correct v before its maximum is taken (optax)"),
    eps_hat: bool = _eps_hat,
):
    """Adam with a denominator that never shrinks, so that no step outgrows the ones before it."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    correct_first = bias_correction and correct_first
    v_max = maximum(v_max, v / (1 - beta2**t) if correct_first else v)
    m_hat, v_hat, eps_t = m, v_max, eps
    if bias_correction:
        m_hat = m / (1 - beta1**t)
        v_hat = v_max if correct_first else v_max / (1 - beta2**t)
        eps_t = eps / sqrt(1 - beta2**t) if eps_hat else eps
    return lr * m_hat / (sqrt(v_hat) + eps_t), m, v, v_max


@rule(
    "Adamax",
    paper="Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2",
    torch={"eps_in": "gradient"},
    keras={"lr": 1e-3, "eps": 1e-7, "eps_in": "denominator"},
    optax={"eps_in": "gradient"},
)
def adamax(
    g: Expr,
    m: Expr,
    u: Expr,
    *,
    t: Expr,
    lr: Expr = learning_rate(2e-3, search=_adaptive),
    beta1: Expr = weighting(0.9, "the average of gradients"),
    beta2: Expr = weighting(0.999, "the largest gradient"),
    eps: Expr = epsilon(1e-8),
    eps_in: str = flag(
        "nowhere",
        "the paper has no eps; torch and optax add it to each |g|, Keras to the denominator",
        "nowhere",
        "gradient",
        "denominator",
    ),
):
    """Adam with the largest recent gradient in the place of the root mean square."""
    m = beta1 * m + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g) + eps if eps_in == "gradient" else abs(g))
    match eps_in:
        case "nowhere":
            # Where u is 0 there was no gradient, so there is no step.
            d = where(u > 0, u, inf)
        case "gradient":
            d = u
        case _:
            d = u + eps
    m_hat = m / (1 - beta1**t)
    return lr * m_hat / d, m, u


@rule(
    "NAdam",
    paper="Dozat 2016, ICLR workshop, without schedule: Ruder 2016, arXiv:1609.04747, "
    "section 4.8; with it: Algorithm 2",
    torch={"schedule": True},
    keras={"lr": 1e-3, "eps": 1e-7, "schedule": True, "momentum_decay": 1.0},
    optax={"correct_ahead": True},
)
def nadam(
    g: Expr,
    m: Expr,
    v: Expr,
    mu_product: Expr = state(init=1.0, scalar=True),
    *,
    t: Expr,
    lr: Expr = learning_rate(2e-3, search=_adaptive),
    beta1: Expr = weighting(0.9, "the average of gradients"),
    beta2: Expr = weighting(0.999, "the average of their squares"),
    eps: Expr = epsilon(1e-8),
    momentum_decay: Expr = hyper(4e-3, "[0, inf)", "how fast the schedule warms momentum up"),
    schedule: bool = flag(False, "warm momentum up: beta1 (1 - 0.96^(t momentum_decay) / 2)"),
    correct_ahead: bool = flag(
        False, "without schedule, correct m for one step more (Dozat; optax), not for t (Ruder)"
    ),
):
    """Adam with Nesterov's momentum: the step looks one average ahead."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    v_hat = v / (1 - beta2**t)
    if schedule:
        # Algorithm 2 averages m with mu too; torch and Keras average it with beta1.
        mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        mu_product = mu_product * mu
        m_bar = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
    else:
        m_hat = m / (1 - beta1 ** (t + 1 if correct_ahead else t))
        m_bar = beta1 * m_hat + (1 - beta1) * g / (1 - beta1**t)
    return lr * m_bar / (sqrt(v_hat) + eps), m, v, mu_product


@rule("QHAdam", paper="Ma & Yarats 2019, arXiv:1810.06801, eqs. 13-17")
def qhadam(
    g: Expr,
    m: Expr,
    v: Expr,
    *,
    t: Expr,
    lr: Expr = learning_rate(1e-3, search=_adaptive),
    nu1: Expr = hyper(0.7, "[0, 1]", "share of the average in the numerator"),
    nu2: Expr = hyper(1.0, "[0, 1]", "share of the average in the denominator"),
    beta1: Expr = weighting(0.995, "the average of gradients"),
    beta2: Expr = weighting(0.999, "the average of their squares"),
    eps: Expr = epsilon(1e-8),
):
    """Adam with quasi-hyperbolic averages: each mixed with what it is the average of."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    m_bar = (1 - nu1) * g + nu1 * m_hat
    v_bar = (1 - nu2) * g**2 + nu2 * v_hat
    return lr * m_bar / (sqrt(v_bar) + eps), m, v


adamw = chain(adam, decay).named(
    "adamw",
    "AdamW",
    paper="Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2",
    doc="Adam with weight decay outside the averages, so that every weight decays alike.",
    conventions={"keras": {"weight_decay": 0.004}},
)
