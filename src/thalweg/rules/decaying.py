"""How weights decay, by name: each name stands for a stage and its place beside the rule."""

from functools import lru_cache

from thalweg.rules.rule import Rule, chain
from thalweg.rules.stages import decay, independent_decay, l2

__all__ = ["DECAYS", "decaying"]

DECAYS = ("l2", "decoupled", "independent")
"""How weights decay: through the gradient; beside it, times the learning rate; or not times it."""


@lru_cache(maxsize=1024)
def decaying(rule: Rule, mode: str, *before: Rule) -> Rule:
    """The rule with the stage that a mode of decay stands for.

    Args:
        rule: an optimizer, or a chain.
        mode: one of `DECAYS`.
        before: stages that come first.
    """
    match mode:
        case "l2":
            return chain(*before, l2, rule)
        case "decoupled":
            return chain(*before, rule, decay)
        case _:
            return chain(*before, rule, independent_decay)
