"""The mathematics: every optimizer and stage as one pure function, as in its paper.

`OPTIMIZERS` and `STAGES` hold them by name; each is also an attribute: `rules.adam`.
"""

from thalweg.errors import unknown
from thalweg.rules import accumulation, moments, rectification, resilience, stages, velocity
from thalweg.rules.rule import CONVENTIONS, Rule, chain, flag, hyper, rule, stage, state

__all__ = [
    "CONVENTIONS",
    "OPTIMIZERS",
    "STAGES",
    "Rule",
    "chain",
    "flag",
    "hyper",
    "rule",
    "stage",
    "state",
]

_found = [
    value
    for module in (velocity, accumulation, moments, rectification, resilience, stages)
    for value in vars(module).values()
    if isinstance(value, Rule)
]
OPTIMIZERS: dict[str, Rule] = {r.name: r for r in _found if not r.is_stage}
STAGES: dict[str, Rule] = {r.name: r for r in _found if r.is_stage}


def __getattr__(name: str) -> Rule:
    found = OPTIMIZERS.get(name) or STAGES.get(name)
    if found is None:
        raise AttributeError(str(unknown("rule", name, (*OPTIMIZERS, *STAGES))))
    return found
