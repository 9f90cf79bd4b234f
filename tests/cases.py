"""The case table: one row for each optimizer and each variant of it.

A row drives every test that holds for all rules. Its worked steps are the first oracle: what a
rule must do, worked by hand from its paper with plain numbers. Nothing in this file calls a rule or
restates one.

Unless a row says otherwise it starts at theta = (1, -2) and is given the gradients

    g1 = (1, -2)    g2 = (3, 2)    g3 = (-0.5, 4)

so that the two elements never agree and both see a change of sign. Three series come up again and
again; they are worked out here once.

    average of g that keeps 0.8 (beta1)         1 - 0.8^t
        0.2 * (1, -2)                         = ( 0.2,   -0.4  )     0.2
        0.8 * (0.2, -0.4) + 0.2 * (3, 2)      = ( 0.76,   0.08 )     0.36
        0.8 * (0.76, 0.08) + 0.2 * (-0.5, 4)  = ( 0.508,  0.864)     0.488

    average of g^2 that keeps 0.9 (beta2, rho)  1 - 0.9^t
        0.1 * (1, 4)                          = ( 0.1,    0.4  )     0.1
        0.9 * (0.1, 0.4) + 0.1 * (9, 4)       = ( 0.99,   0.76 )     0.19
        0.9 * (0.99, 0.76) + 0.1 * (0.25, 16) = ( 0.916,  2.284)     0.271

    velocity that keeps 0.9 (gamma)
        (1, -2)                               = ( 1,     -2   )
        0.9 * (1, -2) + (3, 2)                = ( 3.9,    0.2 )
        0.9 * (3.9, 0.2) + (-0.5, 4)          = ( 3.01,   4.18)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, log, pi, sqrt

import numpy as np

from thalweg import rules
from thalweg.rules import Rule, chain
from thalweg.rules.declaration import Hyper

Pair = Sequence[float]
Setting = float | bool | str | tuple[float, ...]

START: Pair = (1.0, -2.0)
GRADIENTS: tuple[Pair, ...] = ((1.0, -2.0), (3.0, 2.0), (-0.5, 4.0))


@dataclass(frozen=True)
class Worked:
    """Steps worked by hand.

    Attributes:
        after: the parameters after each step.
        gradients: the gradient of each step.
        start: the parameters before the first step.
        changes: settings that are changed before a step.
        at: the points at which the gradients are taken, for a rule that looks elsewhere.
    """

    after: tuple[Pair, ...]
    gradients: tuple[Pair, ...] = GRADIENTS
    start: Pair = START
    changes: tuple[Mapping[str, float], ...] = ({}, {}, {}, {})
    at: tuple[Pair, ...] | None = None


# What torch takes in pairs, as in `betas=(beta1, beta2)`.
_PAIRED = {
    "beta1": "betas",
    "beta2": "betas",
    "eta_minus": "etas",
    "eta_plus": "etas",
    "delta_min": "step_sizes",
    "delta_max": "step_sizes",
}


@dataclass(frozen=True)
class Twin:
    """The torch optimizer that a row must agree with under the torch convention.

    Attributes:
        name: its class in `torch.optim`.
        names: torch's names for settings it calls otherwise.
        fixed: further arguments that make torch's class this very rule.
    """

    name: str
    names: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)

    def arguments(self, settings: Mapping[str, Setting]) -> dict[str, object]:
        """The row's settings as arguments of torch's class."""
        found: dict[str, object] = {}
        for name, value in settings.items():
            if pair := _PAIRED.get(name):
                found[pair] = (*found.get(pair, ()), value)
            else:
                found[self.names.get(name, name)] = value
        return found | dict(self.fixed)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: what the row is called in test reports.
        rule: the rule or chain.
        settings: the settings of the worked steps. Flags stay as they are when numbers are drawn,
            and an option that is off here stays off.
        worked: the steps worked by hand.
        convention: whose reading of the rule the worked steps follow.
        torch: the optimizer of torch's that agrees, if there is one.
    """

    name: str
    rule: Rule
    settings: Mapping[str, Setting]
    worked: Worked
    convention: str = "paper"
    torch: Twin | None = None

    @property
    def flags(self) -> dict[str, Setting]:
        """The flags among the settings."""
        return {n: v for n, v in self.settings.items() if n in self.rule.flags}

    def drawn(self, rng: np.random.Generator) -> dict[str, Setting]:
        """The row's flags with random valid hyperparameters."""
        numbers = {
            name: drawn(h, rng)
            for name, h in self.rule.hypers.items()
            if h.off is None or name in self.settings
        }
        return self.flags | numbers


def drawn(h: Hyper, rng: np.random.Generator) -> Setting:
    """A random valid value of a hyperparameter, as its own declaration describes it."""

    def logarithmic(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    # A weight of the past is drawn in 1 - beta, as it is searched.
    low, high = h.search or ((0.0, 0.999) if h.interval == "[0, 1)" else (1e-3, 1.0))
    if h.integer:
        return int(rng.integers(0, 1000))
    match h.interval:
        case "[0, 1)" if isinstance(h.default, tuple):
            return tuple(1 - logarithmic(1 - high, 1 - low) for _ in range(rng.integers(1, 5)))
        case "[0, 1)":
            return 1 - logarithmic(1 - high, 1 - low)
        case "[0, 1]":
            return float(rng.uniform())
        case "(0, 1)":
            return float(rng.uniform(0.1, 0.9))
        case "(1, inf)":
            return float(rng.uniform(1.1, 2))
        case "[0, 10]":
            return float(rng.uniform(0, 10))
        case "[0, inf)" if 0 < h.default <= 1e-6:
            # It only keeps a denominator away from 0.
            return logarithmic(1e-8, 1e-3)
        case "[0, inf)" | "(0, inf)":
            return logarithmic(low, high)
        case other:
            raise ValueError(f"say here how a value in {other} is drawn")


def path(start: Pair, *steps: Pair) -> tuple[Pair, ...]:
    """Where one is after each of the steps, which are subtracted."""
    x, y = start
    return tuple((x := x - a, y := y - b) for a, b in steps)


_SGD = Twin("SGD")
_MOMENTUM = Twin("SGD", {"gamma": "momentum"})
_NAG = Twin("SGD", {"gamma": "momentum"}, {"nesterov": True})
_RMSPROP = Twin("RMSprop", {"rho": "alpha"})
_AMSGRAD = Twin("Adam", fixed={"amsgrad": True})
_RPROP = Twin("Rprop")

# Learning rates that change tell a velocity that holds them from one that does not.
_RATES = ({"lr": 0.1}, {"lr": 0.2}, {"lr": 0.05})

_VELOCITY = [
    Case(
        "sgd",
        rules.sgd,
        {"lr": 0.1},
        torch=_SGD,
        worked=Worked(
            # theta - lr g
            path(START, (0.1 * 1, 0.1 * -2), (0.1 * 3, 0.1 * 2), (0.1 * -0.5, 0.1 * 4)),
        ),
    ),
    Case(
        "momentum",
        rules.momentum,
        {"gamma": 0.9},
        worked=Worked(
            # v = gamma v + lr g; theta - v, with lr = 0.1, 0.2, 0.05
            #   v1 = 0.1 * (1, -2)                           = (0.1,   -0.2  )
            #   v2 = 0.9 * (0.1, -0.2) + 0.2 * (3, 2)        = (0.69,   0.22 )
            #   v3 = 0.9 * (0.69, 0.22) + 0.05 * (-0.5, 4)   = (0.596,  0.398)
            path(START, (0.1, -0.2), (0.69, 0.22), (0.596, 0.398)),
            changes=_RATES,
        ),
    ),
    Case(
        "momentum-torch",
        rules.momentum,
        {"gamma": 0.9},
        convention="torch",
        torch=_MOMENTUM,
        worked=Worked(
            # v = gamma v + g; theta - lr v, the velocity above
            path(START, (0.1 * 1, 0.1 * -2), (0.2 * 3.9, 0.2 * 0.2), (0.05 * 3.01, 0.05 * 4.18)),
            changes=_RATES,
        ),
    ),
    Case(
        "momentum-keras",
        rules.momentum,
        {"gamma": 0.9},
        convention="keras",
        worked=Worked(
            # as in the paper; without a learning rate given, Keras's 0.01
            #   v1 = 0.01 * (1, -2)                          = (0.01,  -0.02  )
            #   v2 = 0.9 * (0.01, -0.02) + 0.01 * (3, 2)     = (0.039,  0.002 )
            #   v3 = 0.9 * (0.039, 0.002) + 0.01 * (-0.5, 4) = (0.0301, 0.0418)
            path(START, (0.01, -0.02), (0.039, 0.002), (0.0301, 0.0418)),
        ),
    ),
    Case(
        "momentum-dampened",
        rules.momentum,
        {"lr": 0.1, "gamma": 0.9, "dampening": 0.4},
        worked=Worked(
            # v = gamma v + lr (1 - dampening) g: each gradient counts 0.1 * 0.6 = 0.06
            #   v1 = 0.06 * (1, -2)                           = (0.06,  -0.12  )
            #   v2 = 0.9 * (0.06, -0.12) + 0.06 * (3, 2)      = (0.234,  0.012 )
            #   v3 = 0.9 * (0.234, 0.012) + 0.06 * (-0.5, 4)  = (0.1806, 0.2508)
            path(START, (0.06, -0.12), (0.234, 0.012), (0.1806, 0.2508)),
        ),
    ),
    Case(
        "momentum-dampened-torch",
        rules.momentum,
        {"gamma": 0.9, "dampening": 0.4},
        convention="torch",
        torch=_MOMENTUM,
        worked=Worked(
            # the first gradient counts in full, the others 0.6
            #   v1 = (1, -2)
            #   v2 = 0.9 * (1, -2) + 0.6 * (3, 2)       = (2.7, -0.6)
            #   v3 = 0.9 * (2.7, -0.6) + 0.6 * (-0.5, 4) = (2.13, 1.86)
            path(START, (0.1 * 1, 0.1 * -2), (0.2 * 2.7, 0.2 * -0.6), (0.05 * 2.13, 0.05 * 1.86)),
            changes=_RATES,
        ),
    ),
    Case(
        "momentum-dampened-lr-inside",
        rules.momentum,
        {"lr": 0.1, "gamma": 0.9, "dampening": 0.4, "damp_first": False},
        worked=Worked(
            #   v1 = 0.1 * (1, -2)                          = (0.1,   -0.2  )
            #   v2 = 0.9 * (0.1, -0.2) + 0.06 * (3, 2)      = (0.27,  -0.06 )
            #   v3 = 0.9 * (0.27, -0.06) + 0.06 * (-0.5, 4) = (0.213,  0.186)
            path(START, (0.1, -0.2), (0.27, -0.06), (0.213, 0.186)),
        ),
    ),
    Case(
        "momentum-dampened-lr-outside",
        rules.momentum,
        {"gamma": 0.9, "dampening": 0.4, "lr_inside": False},
        worked=Worked(
            #   v1 = 0.6 * (1, -2)                          = (0.6,   -1.2  )
            #   v2 = 0.9 * (0.6, -1.2) + 0.6 * (3, 2)       = (2.34,   0.12 )
            #   v3 = 0.9 * (2.34, 0.12) + 0.6 * (-0.5, 4)   = (1.806,  2.508)
            path(
                START,
                (0.1 * 0.6, 0.1 * -1.2),
                (0.2 * 2.34, 0.2 * 0.12),
                (0.05 * 1.806, 0.05 * 2.508),
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "nag",
        rules.nag,
        {"gamma": 0.9},
        worked=Worked(
            # rearranged: v = gamma v + lr g as for momentum; theta - (gamma v + lr g)
            path(
                START,
                (0.9 * 0.1 + 0.1 * 1, 0.9 * -0.2 + 0.1 * -2),
                (0.9 * 0.69 + 0.2 * 3, 0.9 * 0.22 + 0.2 * 2),
                (0.9 * 0.596 + 0.05 * -0.5, 0.9 * 0.398 + 0.05 * 4),
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "nag-torch",
        rules.nag,
        {"gamma": 0.9},
        convention="torch",
        torch=_NAG,
        worked=Worked(
            # v = gamma v + g; theta - lr (gamma v + g)
            path(
                START,
                (0.1 * (0.9 * 1 + 1), 0.1 * (0.9 * -2 - 2)),
                (0.2 * (0.9 * 3.9 + 3), 0.2 * (0.9 * 0.2 + 2)),
                (0.05 * (0.9 * 3.01 - 0.5), 0.05 * (0.9 * 4.18 + 4)),
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "nag-lookahead",
        rules.nag,
        {"gamma": 0.9, "lookahead": True},
        worked=Worked(
            # v = gamma v + lr g; theta - v, with g taken at theta - gamma v of the step before
            path(START, (0.1, -0.2), (0.69, 0.22), (0.596, 0.398)),
            changes=_RATES,
            #   theta1 = (1, -2) - (0.1, -0.2)      = (0.9, -1.8 )
            #   theta2 = (0.9, -1.8) - (0.69, 0.22) = (0.21, -2.02)
            at=(
                (1, -2),
                (0.9 - 0.9 * 0.1, -1.8 - 0.9 * -0.2),
                (0.21 - 0.9 * 0.69, -2.02 - 0.9 * 0.22),
            ),
        ),
    ),
    Case(
        "nag-lookahead-lr-outside",
        rules.nag,
        {"gamma": 0.9, "lookahead": True, "lr_inside": False},
        worked=Worked(
            # v = gamma v + g; theta - lr v, with g taken at theta - lr gamma v
            path(START, (0.1 * 1, 0.1 * -2), (0.2 * 3.9, 0.2 * 0.2), (0.05 * 3.01, 0.05 * 4.18)),
            changes=_RATES,
            #   theta1 = (1, -2) - 0.1 * (1, -2)        = (0.9, -1.8 )
            #   theta2 = (0.9, -1.8) - 0.2 * (3.9, 0.2) = (0.12, -1.84)
            at=(
                (1, -2),
                (0.9 - 0.2 * 0.9 * 1, -1.8 - 0.2 * 0.9 * -2),
                (0.12 - 0.05 * 0.9 * 3.9, -1.84 - 0.05 * 0.9 * 0.2),
            ),
        ),
    ),
    Case(
        "qhm",
        rules.qhm,
        {"lr": 0.1, "nu": 0.7, "beta": 0.8},
        worked=Worked(
            # theta - lr ((1 - nu) g + nu v), v the average that keeps 0.8
            path(
                START,
                (0.1 * (0.3 * 1 + 0.7 * 0.2), 0.1 * (0.3 * -2 + 0.7 * -0.4)),
                (0.1 * (0.3 * 3 + 0.7 * 0.76), 0.1 * (0.3 * 2 + 0.7 * 0.08)),
                (0.1 * (0.3 * -0.5 + 0.7 * 0.508), 0.1 * (0.3 * 4 + 0.7 * 0.864)),
            ),
        ),
    ),
    Case(
        "aggmo",
        rules.aggmo,
        {"lr": 0.1, "betas": (0.5, 0.9)},
        worked=Worked(
            # theta - lr / 2 (v of 0.5 + v of 0.9); the latter is the velocity above, the former
            #   (1, -2)
            #   0.5 * (1, -2) + (3, 2)      = (3.5,  1  )
            #   0.5 * (3.5, 1) + (-0.5, 4)  = (1.25, 4.5)
            path(
                START,
                (0.1 / 2 * (1 + 1), 0.1 / 2 * (-2 - 2)),
                (0.1 / 2 * (3.5 + 3.9), 0.1 / 2 * (1 + 0.2)),
                (0.1 / 2 * (1.25 + 3.01), 0.1 / 2 * (4.5 + 4.18)),
            ),
        ),
    ),
    Case(
        "aggmo-one",
        rules.aggmo,
        {"lr": 0.1, "betas": (0.9,)},
        worked=Worked(
            path(START, (0.1 * 1, 0.1 * -2), (0.1 * 3.9, 0.1 * 0.2), (0.1 * 3.01, 0.1 * 4.18)),
        ),
    ),
]

# Adadelta: E is the average of g^2 that keeps 0.9; (RMS of steps / RMS of gradients)^2 is what g^2
# is scaled by, and D the average of the squares of the steps d, with eps = 0.5.
#   d1 = sqrt(0 + 0.5) / sqrt(E1 + 0.5) g1, D1 = 0.1 * d1^2, and so on
_D1 = (0.1 * (0.5 / (0.1 + 0.5)) * 1, 0.1 * (0.5 / (0.4 + 0.5)) * 4)
_D2 = (
    0.9 * _D1[0] + 0.1 * ((_D1[0] + 0.5) / (0.99 + 0.5)) * 9,
    0.9 * _D1[1] + 0.1 * ((_D1[1] + 0.5) / (0.76 + 0.5)) * 4,
)
_ADADELTA = np.array(
    [
        (sqrt(0.5 / (0.1 + 0.5)) * 1, sqrt(0.5 / (0.4 + 0.5)) * -2),
        (sqrt((_D1[0] + 0.5) / (0.99 + 0.5)) * 3, sqrt((_D1[1] + 0.5) / (0.76 + 0.5)) * 2),
        (sqrt((_D2[0] + 0.5) / (0.916 + 0.5)) * -0.5, sqrt((_D2[1] + 0.5) / (2.284 + 0.5)) * 4),
    ]
)

# RMSprop, centered: the mean is the average of g that keeps 0.9, which is 0.1 times the velocity
# above, and the variance E - mean^2:
#   0.1   - 0.1^2  = 0.09          0.4   - 0.2^2   = 0.36
#   0.99  - 0.39^2 = 0.8379        0.76  - 0.02^2  = 0.7596
#   0.916 - 0.301^2 = 0.825399     2.284 - 0.418^2 = 2.109276
# g / (sqrt(variance) + 0.5):
_CENTERED = np.array(
    [
        (1 / (0.3 + 0.5), -2 / (0.6 + 0.5)),
        (3 / (sqrt(0.8379) + 0.5), 2 / (sqrt(0.7596) + 0.5)),
        (-0.5 / (sqrt(0.825399) + 0.5), 4 / (sqrt(2.109276) + 0.5)),
    ]
)
# g / sqrt(variance + 0.5):
_CENTERED_INSIDE = np.array(
    [
        (1 / sqrt(0.09 + 0.5), -2 / sqrt(0.36 + 0.5)),
        (3 / sqrt(0.8379 + 0.5), 2 / sqrt(0.7596 + 0.5)),
        (-0.5 / sqrt(0.825399 + 0.5), 4 / sqrt(2.109276 + 0.5)),
    ]
)
# g / (sqrt(E) + 0.5):
_SCALED = np.array(
    [
        (1 / (sqrt(0.1) + 0.5), -2 / (sqrt(0.4) + 0.5)),
        (3 / (sqrt(0.99) + 0.5), 2 / (sqrt(0.76) + 0.5)),
        (-0.5 / (sqrt(0.916) + 0.5), 4 / (sqrt(2.284) + 0.5)),
    ]
)

_ACCUMULATION = [
    Case(
        "adagrad",
        rules.adagrad,
        {"lr": 0.1, "eps": 0.5},
        torch=Twin("Adagrad"),
        worked=Worked(
            # theta - lr g / (sqrt(G) + eps); G = (1, 4), (10, 8), (10.25, 24)
            path(
                START,
                (0.1 * 1 / (1 + 0.5), 0.1 * -2 / (2 + 0.5)),
                (0.1 * 3 / (sqrt(10) + 0.5), 0.1 * 2 / (sqrt(8) + 0.5)),
                (0.1 * -0.5 / (sqrt(10.25) + 0.5), 0.1 * 4 / (sqrt(24) + 0.5)),
            ),
        ),
    ),
    Case(
        "adagrad-lr-decay",
        rules.adagrad,
        {"lr": 0.1, "eps": 0.5, "lr_decay": 0.25, "initial_accumulator_value": 0.44},
        torch=Twin("Adagrad"),
        worked=Worked(
            # lr / (1 + 0.25 (t - 1)) = 0.1, 0.1 / 1.25 = 0.08, 0.1 / 1.5; G starts with 0.44
            path(
                START,
                (0.1 * 1 / (1.2 + 0.5), 0.1 * -2 / (sqrt(4.44) + 0.5)),
                (0.08 * 3 / (sqrt(10.44) + 0.5), 0.08 * 2 / (sqrt(8.44) + 0.5)),
                (0.1 / 1.5 * -0.5 / (sqrt(10.69) + 0.5), 0.1 / 1.5 * 4 / (sqrt(24.44) + 0.5)),
            ),
        ),
    ),
    Case(
        "adagrad-keras",
        rules.adagrad,
        {"lr": 0.1, "eps": 0.5},
        convention="keras",
        worked=Worked(
            # theta - lr g / sqrt(G + eps), and G starts with 0.1
            path(
                START,
                (0.1 * 1 / sqrt(1.1 + 0.5), 0.1 * -2 / sqrt(4.1 + 0.5)),
                (0.1 * 3 / sqrt(10.1 + 0.5), 0.1 * 2 / sqrt(8.1 + 0.5)),
                (0.1 * -0.5 / sqrt(10.35 + 0.5), 0.1 * 4 / sqrt(24.1 + 0.5)),
            ),
        ),
    ),
    Case(
        "adadelta",
        rules.adadelta,
        {"lr": 0.2, "rho": 0.9, "eps": 0.5},
        torch=Twin("Adadelta"),
        worked=Worked(
            path(START, *(0.2 * _ADADELTA)),
        ),
    ),
    Case(
        "rmsprop",
        rules.rmsprop,
        {"lr": 0.1, "rho": 0.9, "eps": 0.5},
        torch=_RMSPROP,
        worked=Worked(
            # theta - lr g / (sqrt(E) + eps)
            path(START, *(0.1 * _SCALED)),
        ),
    ),
    Case(
        "rmsprop-keras",
        rules.rmsprop,
        {"lr": 0.1, "rho": 0.9, "eps": 0.5},
        convention="keras",
        worked=Worked(
            # theta - lr g / sqrt(E + eps)
            path(
                START,
                (0.1 * 1 / sqrt(0.1 + 0.5), 0.1 * -2 / sqrt(0.4 + 0.5)),
                (0.1 * 3 / sqrt(0.99 + 0.5), 0.1 * 2 / sqrt(0.76 + 0.5)),
                (0.1 * -0.5 / sqrt(0.916 + 0.5), 0.1 * 4 / sqrt(2.284 + 0.5)),
            ),
        ),
    ),
    Case(
        "rmsprop-centered",
        rules.rmsprop,
        {"lr": 0.1, "rho": 0.9, "eps": 0.5, "centered": True},
        torch=_RMSPROP,
        worked=Worked(
            path(START, *(0.1 * _CENTERED)),
        ),
    ),
    Case(
        "rmsprop-momentum",
        rules.rmsprop,
        {"rho": 0.9, "eps": 0.5, "momentum": 0.8, "centered": True},
        worked=Worked(
            # v = 0.8 v + lr x; theta - v, with lr = 0.1, 0.2, 0.05
            path(
                START,
                0.1 * _CENTERED[0],
                0.8 * 0.1 * _CENTERED[0] + 0.2 * _CENTERED[1],
                0.64 * 0.1 * _CENTERED[0] + 0.8 * 0.2 * _CENTERED[1] + 0.05 * _CENTERED[2],
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "rmsprop-momentum-torch",
        rules.rmsprop,
        {"rho": 0.9, "eps": 0.5, "momentum": 0.8},
        convention="torch",
        torch=_RMSPROP,
        worked=Worked(
            # v = 0.8 v + x; theta - lr v
            path(
                START,
                0.1 * _SCALED[0],
                0.2 * (0.8 * _SCALED[0] + _SCALED[1]),
                0.05 * (0.64 * _SCALED[0] + 0.8 * _SCALED[1] + _SCALED[2]),
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "rmsprop-nesterov",
        rules.rmsprop,
        {"rho": 0.9, "eps": 0.5, "momentum": 0.8, "nesterov": True},
        worked=Worked(
            # v = 0.8 v + lr x; theta - (0.8 v + lr x), with lr = 0.1, 0.2, 0.05
            path(
                START,
                1.8 * 0.1 * _SCALED[0],
                0.64 * 0.1 * _SCALED[0] + 1.8 * 0.2 * _SCALED[1],
                0.512 * 0.1 * _SCALED[0] + 0.64 * 0.2 * _SCALED[1] + 1.8 * 0.05 * _SCALED[2],
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "rmsprop-nesterov-lr-outside",
        rules.rmsprop,
        {"rho": 0.9, "eps": 0.5, "momentum": 0.8, "nesterov": True, "lr_inside": False},
        worked=Worked(
            # v = 0.8 v + x; theta - lr (0.8 v + x)
            path(
                START,
                0.1 * (1.8 * _SCALED[0]),
                0.2 * (0.64 * _SCALED[0] + 1.8 * _SCALED[1]),
                0.05 * (0.512 * _SCALED[0] + 0.64 * _SCALED[1] + 1.8 * _SCALED[2]),
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "rmsprop-bias-corrected",
        rules.rmsprop,
        {
            "lr": 0.1,
            "rho": 0.9,
            "eps": 0.5,
            "initial_accumulator_value": 0.05,
            "centered": True,
            "bias_correction": True,
        },
        worked=Worked(
            # E has 0.05 * 0.9^t = 0.045, 0.0405, 0.03645 more than the average of g^2. It and the
            # mean are divided by 1 - 0.9^t:
            #   0.145   / 0.1   - (0.1 / 0.1)^2       0.445   / 0.1   - (-0.2 / 0.1)^2
            #   1.0305  / 0.19  - (0.39 / 0.19)^2     0.8005  / 0.19  - (0.02 / 0.19)^2
            #   0.95245 / 0.271 - (0.301 / 0.271)^2   2.32045 / 0.271 - (0.418 / 0.271)^2
            path(
                START,
                (0.1 * 1 / (sqrt(0.45) + 0.5), 0.1 * -2 / (sqrt(0.45) + 0.5)),
                (
                    0.1 * 3 / (sqrt(1.0305 / 0.19 - (0.39 / 0.19) ** 2) + 0.5),
                    0.1 * 2 / (sqrt(0.8005 / 0.19 - (0.02 / 0.19) ** 2) + 0.5),
                ),
                (
                    0.1 * -0.5 / (sqrt(0.95245 / 0.271 - (0.301 / 0.271) ** 2) + 0.5),
                    0.1 * 4 / (sqrt(2.32045 / 0.271 - (0.418 / 0.271) ** 2) + 0.5),
                ),
            ),
        ),
    ),
    Case(
        "rmsprop-centered-momentum-torch",
        rules.rmsprop,
        {"rho": 0.9, "eps": 0.5, "momentum": 0.8, "centered": True},
        convention="torch",
        torch=_RMSPROP,
        worked=Worked(
            path(
                START,
                0.1 * _CENTERED[0],
                0.2 * (0.8 * _CENTERED[0] + _CENTERED[1]),
                0.05 * (0.64 * _CENTERED[0] + 0.8 * _CENTERED[1] + _CENTERED[2]),
            ),
            changes=_RATES,
        ),
    ),
    Case(
        "rmsprop-centered-momentum-keras",
        rules.rmsprop,
        {"rho": 0.9, "eps": 0.5, "momentum": 0.8, "centered": True},
        convention="keras",
        worked=Worked(
            # v = 0.8 v + lr g / sqrt(variance + eps); theta - v
            path(
                START,
                0.1 * _CENTERED_INSIDE[0],
                0.8 * 0.1 * _CENTERED_INSIDE[0] + 0.2 * _CENTERED_INSIDE[1],
                0.64 * 0.1 * _CENTERED_INSIDE[0]
                + 0.8 * 0.2 * _CENTERED_INSIDE[1]
                + 0.05 * _CENTERED_INSIDE[2],
            ),
            changes=_RATES,
        ),
    ),
]

_ADAM_SETTINGS = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.5}
_MAX_SETTINGS = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9}

# Adam's steps, lr m_hat / (sqrt(v_hat) + eps): m and v are the two averages, and
# m_hat = m / (1 - 0.8^t), v_hat = v / (1 - 0.9^t).
_ADAM = np.array(
    [
        (0.1 * (0.2 / 0.2) / (sqrt(0.1 / 0.1) + 0.5), 0.1 * (-0.4 / 0.2) / (sqrt(0.4 / 0.1) + 0.5)),
        (
            0.1 * (0.76 / 0.36) / (sqrt(0.99 / 0.19) + 0.5),
            0.1 * (0.08 / 0.36) / (sqrt(0.76 / 0.19) + 0.5),
        ),
        (
            0.1 * (0.508 / 0.488) / (sqrt(0.916 / 0.271) + 0.5),
            0.1 * (0.864 / 0.488) / (sqrt(2.284 / 0.271) + 0.5),
        ),
    ]
)

# The same with section 2's eps hat, lr sqrt(1 - 0.9^t) / (1 - 0.8^t) m / (sqrt(v) + eps).
_ADAM_HAT = np.array(
    [
        (
            0.1 * sqrt(0.1) / 0.2 * 0.2 / (sqrt(0.1) + 0.5),
            0.1 * sqrt(0.1) / 0.2 * -0.4 / (sqrt(0.4) + 0.5),
        ),
        (
            0.1 * sqrt(0.19) / 0.36 * 0.76 / (sqrt(0.99) + 0.5),
            0.1 * sqrt(0.19) / 0.36 * 0.08 / (sqrt(0.76) + 0.5),
        ),
        (
            0.1 * sqrt(0.271) / 0.488 * 0.508 / (sqrt(0.916) + 0.5),
            0.1 * sqrt(0.271) / 0.488 * 0.864 / (sqrt(2.284) + 0.5),
        ),
    ]
)

# AMSGrad has v_max in the place of v. A fourth gradient (0.5, 1) shows that the two stay apart:
#   m4 = 0.8 * (0.508, 0.864) + 0.2 * (0.5, 1)    = (0.5064, 0.8912)    1 - 0.8^4 = 0.5904
#   v4 = 0.9 * (0.916, 2.284) + 0.1 * (0.25, 1)   = (0.8494, 2.1556)    1 - 0.9^4 = 0.3439
# v_max = (0.1, 0.4), (0.99, 0.76), (0.99, 2.284), (0.99, 2.284)
_FOUR = (*GRADIENTS, (0.5, 1.0))
_AMSGRAD_STEPS = np.array(
    [
        _ADAM[0],
        _ADAM[1],
        (0.1 * (0.508 / 0.488) / (sqrt(0.99 / 0.271) + 0.5), _ADAM[2][1]),
        (
            0.1 * (0.5064 / 0.5904) / (sqrt(0.99 / 0.3439) + 0.5),
            0.1 * (0.8912 / 0.5904) / (sqrt(2.284 / 0.3439) + 0.5),
        ),
    ]
)

# NAdam's steps, lr (beta1 m_hat + (1 - beta1) g / (1 - beta1^t)) / (sqrt(v_hat) + eps).
_NADAM = np.array(
    [
        (
            0.1 * (0.8 * 0.2 / 0.2 + 0.2 * 1 / 0.2) / (sqrt(0.1 / 0.1) + 0.5),
            0.1 * (0.8 * -0.4 / 0.2 + 0.2 * -2 / 0.2) / (sqrt(0.4 / 0.1) + 0.5),
        ),
        (
            0.1 * (0.8 * 0.76 / 0.36 + 0.2 * 3 / 0.36) / (sqrt(0.99 / 0.19) + 0.5),
            0.1 * (0.8 * 0.08 / 0.36 + 0.2 * 2 / 0.36) / (sqrt(0.76 / 0.19) + 0.5),
        ),
        (
            0.1 * (0.8 * 0.508 / 0.488 + 0.2 * -0.5 / 0.488) / (sqrt(0.916 / 0.271) + 0.5),
            0.1 * (0.8 * 0.864 / 0.488 + 0.2 * 4 / 0.488) / (sqrt(2.284 / 0.271) + 0.5),
        ),
    ]
)

# NAdam's schedule is mu = 0.8 (1 - 0.96^(0.5 t) / 2) with a momentum_decay of 0.5:
_MU1 = 0.8 * (1 - 0.96**0.5 / 2)
_MU2 = 0.8 * (1 - 0.96**1.0 / 2)
_MU3 = 0.8 * (1 - 0.96**1.5 / 2)
_MU4 = 0.8 * (1 - 0.96**2.0 / 2)

# Adamax's u = max(0.9 u, |g|):  (1, 2), (3, 2), (max(2.7, 0.5), max(1.8, 4)) = (2.7, 4).
# torch's u = max(0.9 u, |g| + 0.5):
#   (1.5, 2.5), (max(1.35, 3.5), max(2.25, 2.5)) = (3.5, 2.5), (max(3.15, 1), 4.5) = (3.15, 4.5)

_MOMENTS = [
    Case(
        "adam", rules.adam, _ADAM_SETTINGS, torch=Twin("Adam"), worked=Worked(path(START, *_ADAM))
    ),
    Case(
        "adam-keras",
        rules.adam,
        _ADAM_SETTINGS,
        convention="keras",
        worked=Worked(path(START, *_ADAM_HAT)),
    ),
    Case(
        "amsgrad",
        rules.amsgrad,
        _ADAM_SETTINGS,
        worked=Worked(
            # Algorithm 2 corrects no bias: lr m / (sqrt(v_max) + eps)
            path(
                START,
                (0.1 * 0.2 / (sqrt(0.1) + 0.5), 0.1 * -0.4 / (sqrt(0.4) + 0.5)),
                (0.1 * 0.76 / (sqrt(0.99) + 0.5), 0.1 * 0.08 / (sqrt(0.76) + 0.5)),
                (0.1 * 0.508 / (sqrt(0.99) + 0.5), 0.1 * 0.864 / (sqrt(2.284) + 0.5)),
                (0.1 * 0.5064 / (sqrt(0.99) + 0.5), 0.1 * 0.8912 / (sqrt(2.284) + 0.5)),
            ),
            gradients=_FOUR,
        ),
    ),
    Case(
        "amsgrad-torch",
        rules.amsgrad,
        _ADAM_SETTINGS,
        convention="torch",
        torch=_AMSGRAD,
        worked=Worked(path(START, *_AMSGRAD_STEPS), gradients=_FOUR),
    ),
    Case(
        "amsgrad-keras",
        rules.amsgrad,
        _ADAM_SETTINGS,
        convention="keras",
        worked=Worked(
            path(
                START,
                _ADAM_HAT[0],
                _ADAM_HAT[1],
                (0.1 * sqrt(0.271) / 0.488 * 0.508 / (sqrt(0.99) + 0.5), _ADAM_HAT[2][1]),
                (
                    0.1 * sqrt(0.3439) / 0.5904 * 0.5064 / (sqrt(0.99) + 0.5),
                    0.1 * sqrt(0.3439) / 0.5904 * 0.8912 / (sqrt(2.284) + 0.5),
                ),
            ),
            gradients=_FOUR,
        ),
    ),
    Case(
        "amsgrad-optax",
        rules.amsgrad,
        _ADAM_SETTINGS,
        convention="optax",
        worked=Worked(
            # the largest v_hat: (1, 4), (0.99 / 0.19, 4), (0.99 / 0.19, 2.284 / 0.271) twice
            path(
                START,
                _ADAM[0],
                _ADAM[1],
                (0.1 * (0.508 / 0.488) / (sqrt(0.99 / 0.19) + 0.5), _ADAM[2][1]),
                (
                    0.1 * (0.5064 / 0.5904) / (sqrt(0.99 / 0.19) + 0.5),
                    0.1 * (0.8912 / 0.5904) / (sqrt(2.284 / 0.271) + 0.5),
                ),
            ),
            gradients=_FOUR,
        ),
    ),
    Case(
        "adamax",
        rules.adamax,
        _MAX_SETTINGS,
        worked=Worked(
            # lr / (1 - beta1^t) m / u
            path(
                START,
                (0.1 / 0.2 * 0.2 / 1, 0.1 / 0.2 * -0.4 / 2),
                (0.1 / 0.36 * 0.76 / 3, 0.1 / 0.36 * 0.08 / 2),
                (0.1 / 0.488 * 0.508 / 2.7, 0.1 / 0.488 * 0.864 / 4),
            ),
        ),
    ),
    Case(
        "adamax-zero",
        rules.adamax,
        _MAX_SETTINGS | {"beta2": 0.0},
        worked=Worked(
            # No step where u is 0, by which the paper divides: where no gradient was ever seen, and
            # with beta2 = 0, so that u = |g|, where the last gradient is 0, although m is not.
            #   m1 = 0.2 * (0.5, 0)                    = (0.1,  0   )
            #   m2 = 0.8 * (0.1, 0) + 0.2 * (0, 0.25)  = (0.08, 0.05)
            path(START, (0.1 / 0.2 * 0.1 / 0.5, 0), (0, 0.1 / 0.36 * 0.05 / 0.25)),
            gradients=((0.5, 0), (0, 0.25)),
        ),
    ),
    Case(
        "adamax-torch",
        rules.adamax,
        _ADAM_SETTINGS,
        convention="torch",
        torch=Twin("Adamax"),
        worked=Worked(
            path(
                START,
                (0.1 / 0.2 * 0.2 / 1.5, 0.1 / 0.2 * -0.4 / 2.5),
                (0.1 / 0.36 * 0.76 / 3.5, 0.1 / 0.36 * 0.08 / 2.5),
                (0.1 / 0.488 * 0.508 / 3.15, 0.1 / 0.488 * 0.864 / 4.5),
            ),
        ),
    ),
    Case(
        "adamax-keras",
        rules.adamax,
        _ADAM_SETTINGS,
        convention="keras",
        worked=Worked(
            # lr / (1 - beta1^t) m / (u + eps)
            path(
                START,
                (0.1 / 0.2 * 0.2 / 1.5, 0.1 / 0.2 * -0.4 / 2.5),
                (0.1 / 0.36 * 0.76 / 3.5, 0.1 / 0.36 * 0.08 / 2.5),
                (0.1 / 0.488 * 0.508 / 3.2, 0.1 / 0.488 * 0.864 / 4.5),
            ),
        ),
    ),
    Case("nadam", rules.nadam, _ADAM_SETTINGS, worked=Worked(path(START, *_NADAM))),
    Case(
        "nadam-torch",
        rules.nadam,
        _ADAM_SETTINGS | {"momentum_decay": 0.5},
        convention="torch",
        torch=Twin("NAdam"),
        worked=Worked(
            # lr (mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t))
            #   / (sqrt(v_hat) + eps); m itself keeps beta1, not mu_t, in torch and Keras alike
            path(
                START,
                (
                    0.1
                    * (_MU2 * 0.2 / (1 - _MU1 * _MU2) + (1 - _MU1) * 1 / (1 - _MU1))
                    / (sqrt(0.1 / 0.1) + 0.5),
                    0.1
                    * (_MU2 * -0.4 / (1 - _MU1 * _MU2) + (1 - _MU1) * -2 / (1 - _MU1))
                    / (sqrt(0.4 / 0.1) + 0.5),
                ),
                (
                    0.1
                    * (_MU3 * 0.76 / (1 - _MU1 * _MU2 * _MU3) + (1 - _MU2) * 3 / (1 - _MU1 * _MU2))
                    / (sqrt(0.99 / 0.19) + 0.5),
                    0.1
                    * (_MU3 * 0.08 / (1 - _MU1 * _MU2 * _MU3) + (1 - _MU2) * 2 / (1 - _MU1 * _MU2))
                    / (sqrt(0.76 / 0.19) + 0.5),
                ),
                (
                    0.1
                    * (
                        _MU4 * 0.508 / (1 - _MU1 * _MU2 * _MU3 * _MU4)
                        + (1 - _MU3) * -0.5 / (1 - _MU1 * _MU2 * _MU3)
                    )
                    / (sqrt(0.916 / 0.271) + 0.5),
                    0.1
                    * (
                        _MU4 * 0.864 / (1 - _MU1 * _MU2 * _MU3 * _MU4)
                        + (1 - _MU3) * 4 / (1 - _MU1 * _MU2 * _MU3)
                    )
                    / (sqrt(2.284 / 0.271) + 0.5),
                ),
            ),
        ),
    ),
    Case(
        "nadam-optax",
        rules.nadam,
        _ADAM_SETTINGS,
        convention="optax",
        worked=Worked(
            # NAdam's steps, but m / (1 - beta1^(t + 1)) for m_hat:
            #   1 - 0.8^2 = 0.36    1 - 0.8^3 = 0.488    1 - 0.8^4 = 0.5904
            path(
                START,
                (
                    0.1 * (0.8 * 0.2 / 0.36 + 0.2 * 1 / 0.2) / (sqrt(0.1 / 0.1) + 0.5),
                    0.1 * (0.8 * -0.4 / 0.36 + 0.2 * -2 / 0.2) / (sqrt(0.4 / 0.1) + 0.5),
                ),
                (
                    0.1 * (0.8 * 0.76 / 0.488 + 0.2 * 3 / 0.36) / (sqrt(0.99 / 0.19) + 0.5),
                    0.1 * (0.8 * 0.08 / 0.488 + 0.2 * 2 / 0.36) / (sqrt(0.76 / 0.19) + 0.5),
                ),
                (
                    0.1 * (0.8 * 0.508 / 0.5904 + 0.2 * -0.5 / 0.488) / (sqrt(0.916 / 0.271) + 0.5),
                    0.1 * (0.8 * 0.864 / 0.5904 + 0.2 * 4 / 0.488) / (sqrt(2.284 / 0.271) + 0.5),
                ),
            ),
        ),
    ),
    Case(
        "nadam-keras",
        rules.nadam,
        _ADAM_SETTINGS,
        convention="keras",
        worked=Worked(
            # the same with a momentum_decay of 1: mu1 and mu2 are _MU2 and _MU4 above
            path(
                START,
                (
                    0.1
                    * (_MU4 * 0.2 / (1 - _MU2 * _MU4) + (1 - _MU2) * 1 / (1 - _MU2))
                    / (sqrt(0.1 / 0.1) + 0.5),
                    0.1
                    * (_MU4 * -0.4 / (1 - _MU2 * _MU4) + (1 - _MU2) * -2 / (1 - _MU2))
                    / (sqrt(0.4 / 0.1) + 0.5),
                ),
            ),
            gradients=GRADIENTS[:1],
        ),
    ),
    Case(
        "qhadam",
        rules.qhadam,
        _ADAM_SETTINGS | {"nu1": 0.7, "nu2": 0.6},
        worked=Worked(
            # lr ((1 - nu1) g + nu1 m_hat) / (sqrt((1 - nu2) g^2 + nu2 v_hat) + eps)
            path(
                START,
                (
                    0.1 * (0.3 * 1 + 0.7 * 0.2 / 0.2) / (sqrt(0.4 * 1 + 0.6 * 0.1 / 0.1) + 0.5),
                    0.1 * (0.3 * -2 + 0.7 * -0.4 / 0.2) / (sqrt(0.4 * 4 + 0.6 * 0.4 / 0.1) + 0.5),
                ),
                (
                    0.1 * (0.3 * 3 + 0.7 * 0.76 / 0.36) / (sqrt(0.4 * 9 + 0.6 * 0.99 / 0.19) + 0.5),
                    0.1 * (0.3 * 2 + 0.7 * 0.08 / 0.36) / (sqrt(0.4 * 4 + 0.6 * 0.76 / 0.19) + 0.5),
                ),
                (
                    0.1
                    * (0.3 * -0.5 + 0.7 * 0.508 / 0.488)
                    / (sqrt(0.4 * 0.25 + 0.6 * 0.916 / 0.271) + 0.5),
                    0.1
                    * (0.3 * 4 + 0.7 * 0.864 / 0.488)
                    / (sqrt(0.4 * 16 + 0.6 * 2.284 / 0.271) + 0.5),
                ),
            ),
        ),
    ),
]

# Decoupled decay: theta (1 - lr weight_decay) - the step, with lr weight_decay = 0.1 * 0.2 = 0.02.
_ADAMW1 = 0.98 * np.array(START) - _ADAM[0]
_ADAMW2 = 0.98 * _ADAMW1 - _ADAM[1]
_ADAMW3 = 0.98 * _ADAMW2 - _ADAM[2]
_AMSGRADW3 = 0.98 * _ADAMW2 - _AMSGRAD_STEPS[2]
_AMSGRADW4 = 0.98 * _AMSGRADW3 - _AMSGRAD_STEPS[3]
_NADAMW1 = 0.98 * np.array(START) - _NADAM[0]
_NADAMW2 = 0.98 * _NADAMW1 - _NADAM[1]

# L2 with SGD, lr 0.1 and weight_decay 0.5; decoupled it is the same for SGD:
#   1 - 0.1 (1 + 0.5 * 1) = 0.85                 -2 - 0.1 (-2 + 0.5 * -2) = -1.7
#   0.85 - 0.1 (3 + 0.425) = 0.5075              -1.7 - 0.1 (2 - 0.85) = -1.815
#   0.5075 - 0.1 (-0.5 + 0.25375) = 0.532125     -1.815 - 0.1 (4 - 0.9075) = -2.12425
_SHRUNK = ((0.85, -1.7), (0.5075, -1.815), (0.532125, -2.12425))

# Noise: draws of N(0, 1) for seed 100 by Box and Muller's transform, from the two words that
# Philox4x32-10 makes of the counter (element, 0, t, parameter) under the key (seed, 0).
_N1 = (
    sqrt(-2 * log(130316448 / 2**32)) * cos(2 * pi * 2559278947 / 2**32),
    sqrt(-2 * log(3006851260 / 2**32)) * cos(2 * pi * 190252470 / 2**32),
)
_N2 = (
    sqrt(-2 * log(3044196765 / 2**32)) * cos(2 * pi * 3071629169 / 2**32),
    sqrt(-2 * log(2302514193 / 2**32)) * cos(2 * pi * 3013911296 / 2**32),
)
# Noisy gradients, with the variance 0.3 / (1 + t)^0.55:
_NOISY1 = (1 + sqrt(0.3 / 2**0.55) * _N1[0], -2 + sqrt(0.3 / 2**0.55) * _N1[1])
_NOISY2 = (3 + sqrt(0.3 / 3**0.55) * _N2[0], 2 + sqrt(0.3 / 3**0.55) * _N2[1])

_CHAINS = [
    Case(
        "adamw",
        rules.adamw,
        _ADAM_SETTINGS | {"weight_decay": 0.2},
        torch=Twin("AdamW"),
        worked=Worked((_ADAMW1, _ADAMW2, _ADAMW3)),
    ),
    Case(
        "l2-sgd",
        chain(rules.l2, rules.sgd),
        {"lr": 0.1, "weight_decay": 0.5},
        torch=_SGD,
        worked=Worked(_SHRUNK),
    ),
    Case(
        "sgd-decay",
        chain(rules.sgd, rules.decay),
        {"lr": 0.1, "weight_decay": 0.5},
        worked=Worked(_SHRUNK),
    ),
    Case(
        "sgd-independent-decay",
        chain(rules.sgd, rules.independent_decay),
        {"weight_decay": 0.02},
        worked=Worked(
            # 0.98 theta - lr g, with lr = 0.1, 0, 0.2; where lr is 0 nothing moves:
            #   (0.98 - 0.1, -1.96 + 0.2) = (0.88, -1.76)
            (
                (0.88, -1.76),
                (0.88, -1.76),
                (0.98 * 0.88 - 0.2 * -0.5, 0.98 * -1.76 - 0.2 * 4),
            ),
            changes=({"lr": 0.1}, {"lr": 0.0}, {"lr": 0.2}),
        ),
    ),
    Case(
        "clip_value-sgd",
        chain(rules.clip_value, rules.sgd),
        {"lr": 0.1, "limit": 1.5},
        worked=Worked(
            path(START, (0.1 * 1, 0.1 * -1.5), (0.1 * 1.5, 0.1 * 1.5), (0.1 * -0.5, 0.1 * 1.5)),
        ),
    ),
    Case(
        "clip_norm-sgd",
        chain(rules.clip_norm, rules.sgd),
        {"lr": 0.1, "max_norm": 3.0},
        worked=Worked(
            # The norms are sqrt(1 + 4) = 2.24, which is short enough, sqrt(9 + 4) and
            # sqrt(0.25 + 16).
            path(
                START,
                (0.1 * 1, 0.1 * -2),
                (0.1 * 3 * 3 / (sqrt(13) + 1e-6), 0.1 * 2 * 3 / (sqrt(13) + 1e-6)),
                (0.1 * -0.5 * 3 / (sqrt(16.25) + 1e-6), 0.1 * 4 * 3 / (sqrt(16.25) + 1e-6)),
            ),
        ),
    ),
    Case(
        "ascend-sgd",
        chain(rules.ascend, rules.sgd),
        {"lr": 0.1},
        torch=Twin("SGD", fixed={"maximize": True}),
        worked=Worked(
            path(START, (-0.1, 0.2), (-0.3, -0.2), (0.05, -0.4)),
        ),
    ),
    Case(
        "noise-sgd",
        chain(rules.noise, rules.sgd),
        {"lr": 0.1, "eta": 0.3, "gamma": 0.55, "seed": 100},
        worked=Worked(
            path(START, (0.1 * _NOISY1[0], 0.1 * _NOISY1[1]), (0.1 * _NOISY2[0], 0.1 * _NOISY2[1])),
            gradients=GRADIENTS[:2],
        ),
    ),
    Case(
        "noise-momentum",
        chain(rules.noise, rules.momentum),
        {"lr": 0.1, "gamma": 0.9, "eta": 0.3, "noise_gamma": 0.55, "seed": 100},
        worked=Worked(
            # momentum's gamma keeps its name, noise's is preceded by its stage's
            path(
                START,
                (0.1 * _NOISY1[0], 0.1 * _NOISY1[1]),
                (
                    0.9 * 0.1 * _NOISY1[0] + 0.1 * _NOISY2[0],
                    0.9 * 0.1 * _NOISY1[1] + 0.1 * _NOISY2[1],
                ),
            ),
            gradients=GRADIENTS[:2],
        ),
    ),
    Case(
        "l2-adam",
        chain(rules.l2, rules.adam),
        _ADAM_SETTINGS | {"weight_decay": 0.5},
        torch=Twin("Adam"),
        worked=Worked(
            # The first gradient is (1 + 0.5 * 1, -3.5 + 0.5 * -2) = (1.5, -4.5); the bias corrected
            # averages of one gradient are itself and its square.
            #   theta1 = (1 - 0.1 * 1.5 / 2, -2 + 0.1 * 4.5 / 5)      = (0.925, -1.91 )
            #   g2 = (3 + 0.5 * 0.925, 2 + 0.5 * -1.91)               = (3.4625,  1.045)
            #   m2 = 0.8 * 0.2 * (1.5, -4.5) + 0.2 * (3.4625, 1.045)  = (0.9325, -0.511)
            path(
                START,
                (0.075, -0.09),
                (
                    0.1 * (0.9325 / 0.36) / (sqrt((0.09 * 1.5**2 + 0.1 * 3.4625**2) / 0.19) + 0.5),
                    0.1 * (-0.511 / 0.36) / (sqrt((0.09 * 4.5**2 + 0.1 * 1.045**2) / 0.19) + 0.5),
                ),
            ),
            gradients=((1, -3.5), (3, 2)),
        ),
    ),
    Case(
        "l2-adam-decay",
        chain(rules.l2, rules.adam, rules.decay),
        _ADAM_SETTINGS | {"l2_weight_decay": 0.5, "decay_weight_decay": 0.2},
        worked=Worked(
            # The same, and every weight shrinks by 0.1 * 0.2 = 0.02 of itself as well.
            #   theta1 = (0.925 - 0.02, -1.91 + 0.04)                 = (0.905,  -1.87 )
            #   g2 = (3 + 0.5 * 0.905, 2 + 0.5 * -1.87)               = (3.4525,  1.065)
            #   m2 = 0.8 * 0.2 * (1.5, -4.5) + 0.2 * (3.4525, 1.065)  = (0.9305, -0.507)
            (
                (0.905, -1.87),
                (
                    0.98 * 0.905
                    - 0.1
                    * (0.9305 / 0.36)
                    / (sqrt((0.09 * 1.5**2 + 0.1 * 3.4525**2) / 0.19) + 0.5),
                    0.98 * -1.87
                    - 0.1 * (-0.507 / 0.36) / (sqrt((0.09 * 4.5**2 + 0.1 * 1.065**2) / 0.19) + 0.5),
                ),
            ),
            gradients=((1, -3.5), (3, 2)),
        ),
    ),
    Case(
        "l2-nag",
        chain(rules.l2, rules.nag),
        {"gamma": 0.9, "weight_decay": 0.5},
        convention="torch",
        torch=_NAG,
        worked=Worked(
            #   g1 = (1.5, -3); theta1 = (1 - 0.1 * 1.9 * 1.5, -2 - 0.1 * 1.9 * -3) = (0.715, -1.43)
            #   g2 = (3 + 0.3575, 2 - 0.715) = (3.3575, 1.285)
            #   v2 = 0.9 * (1.5, -3) + g2 = (4.7075, -1.415)
            (
                (0.715, -1.43),
                (0.715 - 0.2 * (0.9 * 4.7075 + 3.3575), -1.43 - 0.2 * (0.9 * -1.415 + 1.285)),
            ),
            gradients=GRADIENTS[:2],
            changes=_RATES[:2],
        ),
    ),
    Case(
        "amsgrad-decay",
        chain(rules.amsgrad, rules.decay),
        _ADAM_SETTINGS | {"weight_decay": 0.2},
        convention="torch",
        torch=Twin("AdamW", fixed={"amsgrad": True}),
        worked=Worked((_ADAMW1, _ADAMW2, _AMSGRADW3, _AMSGRADW4), gradients=_FOUR),
    ),
    Case(
        "nadam-decay",
        chain(rules.nadam, rules.decay),
        _ADAM_SETTINGS | {"weight_decay": 0.2},
        torch=Twin("NAdam", fixed={"decoupled_weight_decay": True}),
        worked=Worked((_NADAMW1, _NADAMW2), gradients=GRADIENTS[:2]),
    ),
]

# RAdam: with beta2 = 0.9, rho_inf = 2 / 0.1 - 1 = 19 and rho_t = 19 - 2 t 0.9^t / (1 - 0.9^t):
#   19 - 1.8    / 0.1    = 1       19 - 3.24    / 0.19    = 1.95    19 - 4.374 / 0.271 = 2.86
#   19 - 5.2488 / 0.3439 = 3.74    19 - 5.9049  / 0.40951 = 4.58
#   19 - 6.377292 / 0.468559 = 5.39
# so that the paper scales from the fifth step on and torch from the sixth. Two gradients more:
#   m5 = 0.8 * (0.5064, 0.8912) + 0.2 * (2, -1)    = (0.80512,  0.51296 )    1 - 0.8^5 = 0.67232
#   m6 = 0.8 * (0.80512, 0.51296) + 0.2 * (-1, 3)  = (0.444096, 1.010368)    1 - 0.8^6 = 0.737856
#   v5 = 0.9 * (0.8494, 2.1556) + 0.1 * (4, 1)     = (1.16446,  2.04004 )
#   v6 = 0.9 * (1.16446, 2.04004) + 0.1 * (1, 9)   = (1.148014, 2.736036)
_SIX = (*_FOUR, (2.0, -1.0), (-1.0, 3.0))
_RHO5 = 19 - 10 * 0.59049 / 0.40951
_RHO6 = 19 - 12 * 0.531441 / 0.468559
_R5 = sqrt((_RHO5 - 4) * (_RHO5 - 2) * 19 / (15 * 17 * _RHO5))
_R6 = sqrt((_RHO6 - 4) * (_RHO6 - 2) * 19 / (15 * 17 * _RHO6))
_RADAM_UNSCALED = np.array(
    [
        (0.1 * 0.2 / 0.2, 0.1 * -0.4 / 0.2),
        (0.1 * 0.76 / 0.36, 0.1 * 0.08 / 0.36),
        (0.1 * 0.508 / 0.488, 0.1 * 0.864 / 0.488),
        (0.1 * 0.5064 / 0.5904, 0.1 * 0.8912 / 0.5904),
        (0.1 * 0.80512 / 0.67232, 0.1 * 0.51296 / 0.67232),
    ]
)
# torch's sixth step, lr r m_hat sqrt(1 - 0.9^6) / (sqrt(v) + eps):
_RADAM6 = (
    0.1 * _R6 * (0.444096 / 0.737856) * sqrt(0.468559) / (sqrt(1.148014) + 0.5),
    0.1 * _R6 * (1.010368 / 0.737856) * sqrt(0.468559) / (sqrt(2.736036) + 0.5),
)

_RECTIFICATION = [
    Case(
        "radam",
        rules.radam,
        _ADAM_SETTINGS,
        worked=Worked(
            # lr m_hat, then lr r m_hat / (sqrt(v_hat) + eps)
            path(
                START,
                *_RADAM_UNSCALED[:4],
                (
                    0.1 * _R5 * (0.80512 / 0.67232) / (sqrt(1.16446 / 0.40951) + 0.5),
                    0.1 * _R5 * (0.51296 / 0.67232) / (sqrt(2.04004 / 0.40951) + 0.5),
                ),
            ),
            gradients=_SIX[:5],
            changes=({},) * 5,
        ),
    ),
    Case(
        "radam-torch",
        rules.radam,
        _ADAM_SETTINGS,
        convention="torch",
        torch=Twin("RAdam"),
        worked=Worked(path(START, *_RADAM_UNSCALED, _RADAM6), gradients=_SIX, changes=({},) * 6),
    ),
]

_ETAS = {"eta_minus": 0.5, "eta_plus": 1.2}

_RESILIENCE = [
    Case(
        "rprop",
        rules.rprop,
        {"lr": 0.1, "delta_min": 0.04, "delta_max": 0.13} | _ETAS,
        worked=Worked(
            # Step sizes start at 0.1. What a gradient that has turned took is given back, and the
            # next gradient is like a first one.
            #   first element: its gradient turns in the fourth step
            #   0.1    0.1 * 1.2    min(0.12 * 1.2, 0.13)    0.13 * 0.5 = 0.065    0.065    0.065
            #   second element: it turns in the second and in the fourth step
            #   0.1    0.1 * 0.5    0.05    max(0.05 * 0.5, 0.04)    0.04    0.04 * 1.2 = 0.048
            path(
                START,
                (0.1, -0.1),
                (0.12, 0.1),
                (0.13, 0.05),
                (-0.13, -0.05),
                (-0.065, -0.04),
                (0, -0.048),
            ),
            gradients=((1, -2), (3, 2), (2, 4), (-1, -4), (-2, -0.2), (0, -3)),
            changes=({},) * 6,
        ),
    ),
    Case(
        "rprop-torch",
        rules.rprop,
        {"lr": 0.1, "delta_min": 0.04, "delta_max": 0.13} | _ETAS,
        convention="torch",
        torch=_RPROP,
        worked=Worked(
            # the same, and nothing is given back
            path(
                START,
                (0.1, -0.1),
                (0.12, 0),
                (0.13, 0.05),
                (0, 0),
                (-0.065, -0.04),
                (0, -0.048),
            ),
            gradients=((1, -2), (3, 2), (2, 4), (-1, -4), (-2, -0.2), (0, -3)),
            changes=({},) * 6,
        ),
    ),
    Case(
        "rprop-optax",
        rules.rprop,
        {"lr": 0.1, "delta_min": 0.04, "delta_max": 0.13} | _ETAS,
        convention="optax",
        worked=Worked(
            # Each of these steps is taken one later, or not at all if the gradient has turned then.
            path(START, (0, 0), (0.1, 0), (0.12, 0), (0, 0), (0, 0), (-0.065, -0.04), (0, -0.048)),
            gradients=((1, -2), (3, 2), (2, 4), (-1, -4), (-2, -0.2), (0, -3), (1, -1)),
            changes=({},) * 7,
        ),
    ),
]

CASES: tuple[Case, ...] = (
    *_VELOCITY,
    *_ACCUMULATION,
    *_MOMENTS,
    *_CHAINS,
    *_RECTIFICATION,
    *_RESILIENCE,
)
