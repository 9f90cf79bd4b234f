"""One walk in float64: by a rule of ours, and by the optimizer of another library it stands for.

The gradient depends on the parameters and on the step, the learning rate changes from step to step,
weights decay, and no number is at its default; `eps` is large enough to be seen.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

import thalweg as tw
from thalweg.rules import OPTIMIZERS, Rule, chain
from thalweg.rules.rule import Setting

STEPS = 50
START = np.array([1.5, -2.0, 0.3, 4.0, -0.7])
RATES = tuple(0.03 * (1.2 + np.sin(1.7 * t)) for t in range(STEPS))
DECAY = 0.2
# Rounding leaves some 1e-13 after 50 steps; the smallest datum, an eps of 1e-7 for 1e-8, shows at
# 1e-7 and above.
TOLERANCE = 1e-9
VALUES: Mapping[str, float] = {
    "gamma": 0.8,
    "momentum": 0.7,
    "rho": 0.85,
    "beta1": 0.8,
    "beta2": 0.95,
    "eps": 1e-2,
    "initial_accumulator_value": 0.3,
    "dampening": 0.4,
    "lr_decay": 0.1,
    "momentum_decay": 0.05,
    "weight_decay": DECAY,
    "eta_minus": 0.6,
    "eta_plus": 1.3,
    "delta_min": 0.02,
    "delta_max": 0.15,
}

Walk = Sequence[np.ndarray]
Rates = Sequence[float | None]
"""The learning rate of each step; None: as it is."""
Walker = Callable[[Rule, str, Mapping[str, Setting], Rates], Walk]


def gradient(theta: np.ndarray, t: int) -> np.ndarray:
    """Of a curved and coupled function, another one in each step; t counts from 0."""
    return np.tanh(theta) + 0.3 * np.roll(theta, 1) + np.cos(1.3 * t + np.arange(len(theta)))


@dataclass(frozen=True, eq=False)
class Peer:
    """An optimizer of another library's, and what of ours must walk its path.

    Attributes:
        name: what the row is called in test reports.
        rule: ours.
        theirs: their class or function.
        names: their arguments for our settings; one that stands for several takes a tuple of them.
        given: the settings of ours that make theirs this rule, whatever the rest.
        fixed: what they need for that besides.
        stage: what stands for their weight decay, unless the rule holds it itself.
    """

    name: str
    rule: Rule
    theirs: Callable[..., Any]
    names: Mapping[str, str]
    given: Mapping[str, Setting] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    stage: Rule | None = None

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of the walk, by our names; not the learning rate's and the stage's."""
        return {n: VALUES[n] for n in self.names if n in VALUES} | dict(self.given)

    def arguments(self, settings: Mapping[str, Setting]) -> dict[str, object]:
        """Settings of ours by their names, and what is fixed."""
        found: dict[str, Any] = {}
        for name, value in settings.items():
            argument, place = self.at(name)
            found[argument] = value if place is None else (*found.get(argument, ()), value)
        return found | dict(self.fixed)

    def at(self, name: str) -> tuple[str, int | None]:
        """Their argument for a setting of ours, and its place there if there are several."""
        together = [n for n, argument in self.names.items() if argument == self.names[name]]
        return self.names[name], together.index(name) if len(together) > 1 else None

    @property
    def decayed(self) -> Rule:
        """The rule with its stage where it stands."""
        if self.stage is None:
            return self.rule
        stage = self.stage(DECAY)
        return chain(stage, self.rule) if self.stage is tw.l2 else chain(self.rule, stage)


def in_torch(rule: Rule, convention: str, settings: Mapping[str, Setting], rates: Rates) -> Walk:
    """Our walk, by the torch optimizer and its compiled kernel."""
    theta = torch.tensor(START, requires_grad=True)
    optimizer = tw.Optimizer([theta], rule, convention=convention, backend="fused", **settings)
    path = []
    for t, rate in enumerate(rates):
        if rate is not None and "lr" not in settings:
            optimizer.param_groups[0]["lr"] = rate
        theta.grad = torch.from_numpy(gradient(theta.detach().numpy(), t))
        optimizer.step()
        path.append(theta.detach().numpy().copy())
    return path


def in_numpy(rule: Rule, convention: str, settings: Mapping[str, Setting], rates: Rates) -> Walk:
    """Our walk, by the reference."""
    theta, state, path = START, None, []
    for t, rate in enumerate(rates):
        chosen = settings if rate is None else {"lr": rate, **settings}
        theta, state = rule.step(theta, gradient(theta, t), state, convention=convention, **chosen)
        path.append(theta)
    return path


def distance(one: Walk, other: Walk) -> float:
    """How far one walk comes away from the other, relative to how far that is from the start."""
    apart = np.max(np.abs(np.array(one) - other), axis=1)
    way = np.max(np.abs(np.array(other) - START), axis=1)
    # The other may not have moved yet.
    return float(np.max(apart / np.maximum(way, 1e-100)))


def faults(
    peer: Peer,
    convention: str,
    walker: Walker,
    theirs: Callable[[str, bool], Walk],
    rates: Rates,
) -> list[str]:
    """In what the rule is not the other library's; nothing if it is right.

    Args:
        peer: the row.
        convention: whose reading is followed.
        walker: how our walk is made.
        theirs: their walk, by the row's name: with the row's settings, or with their defaults.
        rates: the learning rates of the walk with the defaults.
    """
    chosen = peer.rule.settings(convention)
    ours = {**chosen.hypers, **chosen.flags}
    found = []
    for name in peer.names.keys() - peer.given.keys():
        argument, place = peer.at(name)
        default = inspect.signature(peer.theirs).parameters[argument].default
        if default is inspect.Parameter.empty:
            continue
        default = default if place is None else default[place]
        # None turns a term off, as 0 does.
        if ours[name] != (default or 0):
            found.append(f"the default of {name} is {ours[name]}, but theirs is {default}")
    walks = {
        "its settings": walker(peer.decayed, convention, peer.settings, RATES),
        "the defaults": walker(peer.rule, convention, peer.given, rates),
    }
    for settings, walk in walks.items():
        apart = distance(walk, theirs(peer.name, settings == "the defaults"))
        if not apart < TOLERANCE:
            found.append(f"with {settings} the walks come apart by {apart:.2g}")
    return found


def data(convention: str) -> list[tuple[Rule, str]]:
    """Each datum of a convention: the rule that it is of and the setting."""
    return [(rule, name) for rule in OPTIMIZERS.values() for name in rule.by_convention(convention)]


def without(rule: Rule, convention: str, name: str) -> Rule:
    """The rule with one datum of a convention left out, so that the paper's stands."""

    def rest(conventions: Mapping[str, Mapping[str, Setting]]) -> dict[str, dict[str, Setting]]:
        return {
            c: {n: v for n, v in values.items() if (c, n) != (convention, name)}
            for c, values in conventions.items()
        }

    links = tuple(replace(link, conventions=rest(link.conventions)) for link in rule.links)
    return replace(rule, links=links, conventions=rest(rule.conventions))


def needed(
    peers: Iterable[Peer],
    convention: str,
    rule: Rule,
    datum: str,
    theirs: Callable[[str, bool], Walk],
    rates: Rates,
) -> bool:
    """Whether a row of the rule shows it if one datum of the convention is left out."""
    broken = [
        replace(peer, rule=without(rule, convention, datum)) for peer in peers if peer.rule is rule
    ]
    return any(faults(peer, convention, in_numpy, theirs, rates) for peer in broken)


def elsewhere(peer: Peer) -> Peer:
    """The row with its weight decay on the other side of the rule."""
    return replace(peer, stage=tw.decay if peer.stage is tw.l2 else tw.l2)
