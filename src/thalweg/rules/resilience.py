"""Rules that go by the signs of the gradient alone, whatever its size."""

from thalweg.rules.rule import flag, hyper, rule, state
from thalweg.rules.vocabulary import Expr, maximum, minimum, sign, where

__all__ = ["rprop"]


@rule(
    "Rprop",
    paper="Riedmiller & Braun 1993; without backtracking: Igel & Huesken 2003, iRprop-",
    torch={"lr": 1e-2, "backtracking": False},
    optax={"late": True},
)
def rprop(
    g: Expr,
    g_prev: Expr,
    delta: Expr = state(init="lr"),
    *,
    lr: Expr = hyper(
        0.1, "[0, inf)", "the step size that every weight starts with", search=(1e-5, 1e-1)
    ),
    eta_minus: Expr = hyper(0.5, "(0, 1)", "a step size's factor where the gradient has turned"),
    eta_plus: Expr = hyper(1.2, "(1, inf)", "a step size's factor where it has not"),
    delta_min: Expr = hyper(1e-6, "(0, inf)", "the smallest step size"),
    delta_max: Expr = hyper(50.0, "(0, inf)", "the largest step size"),
    backtracking: bool = flag(True, "take the last step back where the gradient has turned"),
    late: bool = flag(False, "take each step one later, or not if the gradient turns then (optax)"),
):
    """Give each weight a step size that grows while its gradient keeps its sign, else shrinks.

    It is for gradients of all data at once: the sign of a noisy gradient turns at random.
    """
    agreement = g * g_prev
    turned = agreement < 0
    last = sign(g_prev) * delta
    delta = where(agreement > 0, eta_plus * delta, where(turned, eta_minus * delta, delta))
    # The paper limits a step size only when it changes; so the first may be outside of the limits,
    # which torch and this do not allow.
    delta = minimum(maximum(delta, delta_min), delta_max)
    # Forgotten, the gradient that has turned does not punish the step size twice.
    g_prev = where(turned, 0, g)
    step = sign(g_prev) * delta
    if late:
        return where(turned, 0, last), g_prev, delta
    return where(turned, -last, step) if backtracking else step, g_prev, delta
