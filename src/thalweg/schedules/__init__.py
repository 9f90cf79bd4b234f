"""Schedules: the value of any hyperparameter as a pure function of the step.

`SCHEDULES` holds the kinds by name; each is also here: `schedules.cosine(0.1, steps=100)`.
"""

from thalweg.schedules.curves import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    linear,
    polynomial,
    step,
)
from thalweg.schedules.cycles import (
    momentum_of,
    one_cycle,
    one_cycle_lr,
    one_cycle_lr_momentum,
    one_cycle_momentum,
    warmup_stable_decay,
)
from thalweg.schedules.joining import join, warmup
from thalweg.schedules.schedule import SCHEDULES, Schedule, schedule

__all__ = [
    "SCHEDULES",
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "momentum_of",
    "one_cycle",
    "one_cycle_lr",
    "one_cycle_lr_momentum",
    "one_cycle_momentum",
    "polynomial",
    "schedule",
    "step",
    "warmup",
    "warmup_stable_decay",
]
