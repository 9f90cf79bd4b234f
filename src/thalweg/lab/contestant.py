"""An optimizer in a comparison: its rule, what is searched, and every configuration to be tried."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from thalweg.errors import UsageError, unknown
from thalweg.lab.space import Choice, Range, Space, dimension_from_data, drawn, searched
from thalweg.rules import OPTIMIZERS, STAGES, Rule
from thalweg.rules.decaying import DECAYS, decaying
from thalweg.rules.declaration import Setting
from thalweg.rules.spelling import links_of, parsed, spelled
from thalweg.schedules.spelling import parsed as parse_schedule

__all__ = ["Contestant", "contestant", "contestants"]

_SPECIAL = ("schedule", "decay")


@dataclass(frozen=True)
class Contestant:
    """An optimizer and what is tried of it.

    Attributes:
        name: what it is called: as it was written.
        rule: the rule in words that `thalweg.rules.spelling.parsed` reads; None if it was given as
            an object that cannot be put in words.
        space: what is searched, by setting; also `schedule` and `decay`.
        configurations: the settings of each trial. The first has the documented defaults, the
            others are points of a Sobol sequence over the space.
        code: of a rule given as an object, the start of the SHA-256 of its source.
    """

    name: str
    rule: str | None
    space: Space
    configurations: tuple[Mapping[str, Setting], ...]
    code: str = ""

    def configured(self, trial: int, given: Rule | None = None) -> tuple[Rule, dict[str, str]]:
        """The rule with a trial's settings, and the schedule and decay among them.

        Args:
            trial: which.
            given: the rule, where it was given as an object.

        Raises:
            UsageError: a name is not known, a value is out of range, or the rule is not there.
        """
        if given is None and self.rule is None:
            raise UsageError(
                f"the optimizer {self.name} was given as a Python object, which the study's file "
                "does not hold: go on from Python, with thalweg.compare(..., out=...)."
            )
        rule = parsed(self.rule) if given is None or self.rule is not None else given  # pyright: ignore
        settings = dict(self.configurations[trial])
        extra = {name: str(settings.pop(name)) for name in _SPECIAL if name in settings}
        if "decay" in extra:
            rule = decaying(rule, extra["decay"])
        return rule(**settings), extra

    def extended(self, trials: int) -> "Contestant":
        """The same contestant with more trials: those that it has, and then new ones."""
        points = drawn(self.space, trials - 1, self._key)[len(self.configurations) - 1 :]
        new = ({**self.configurations[0], **point} for point in points)
        return replace(self, configurations=(*self.configurations, *new))

    @property
    def _key(self) -> str:
        return f"{self.name} {' '.join(self.space)}"

    def data(self) -> dict[str, Any]:
        """The contestant as JSON holds it."""
        space = {name: dimension.data() for name, dimension in self.space.items()}
        return vars(self) | {"space": space}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Contestant":
        """What `data` returned, as it was."""
        return Contestant(
            **{
                **data,
                "space": {n: dimension_from_data(d) for n, d in data["space"].items()},
                "configurations": tuple(
                    {n: tuple(v) if isinstance(v, list) else v for n, v in c.items()}  # pyright: ignore
                    for c in data["configurations"]
                ),
            }
        )


def contestant(
    optimizer: str | Rule,
    trials: int,
    *,
    lr: float | None = None,
    schedule: str | None = None,
    decay: str | None = None,
) -> Contestant:
    """Draw the configurations of an optimizer.

    Args:
        optimizer: in words, such as `sgd:lr=0.01..1:schedule=constant|one-cycle`, or a rule. In
            words, `low..high` after a setting is the range to search it in, instead of the rule's
            own, and `a|b` are choices; a single value fixes the setting.
        trials: how many configurations.
        lr: the learning rate, unless the optimizer says its own; it is not searched then.
        schedule: likewise, of the learning rate; choices are separated by `|`.
        decay: how weights decay, likewise; see `thalweg.rules.decaying.DECAYS`.

    Raises:
        UsageError: a name is not known, a value is out of range, or a range is empty.
    """
    text = spelled(optimizer) if isinstance(optimizer, Rule) else "+".join(links_of(optimizer))
    words, asked = (None, []) if text is None else _taken_apart(text, decay is not None)
    rule = parsed(words) if words is not None else optimizer
    assert isinstance(rule, Rule)
    fixed: dict[str, Setting] = {}
    space: dict[str, Range | Choice] = {}
    special = {"schedule": schedule, "decay": decay}
    special |= {own: given for _, own, given in asked if own in _SPECIAL}
    for name, given in special.items():
        if given is not None:
            options = _checked(name, given.split("|"), rule)
            fixed[name] = options[0]
            if len(options) > 1:
                space[name] = Choice(options)
    if "decay" in fixed:
        rule = decaying(rule, str(fixed["decay"]))
    if lr is not None and "lr" in rule.hypers and "lr" not in rule.given:
        fixed["lr"] = rule.hypers["lr"].checked("lr", lr)
    ranged: dict[str, Range | Choice] = {}
    for part, own, given in asked:
        if own in _SPECIAL:
            continue
        values = [_value(words or "", part, own, v, rule) for v in _split(given)]
        name = values[0][0]
        fixed.pop(name, None)
        if ".." in given:
            ranged[name] = searched(name, rule.hypers[name], *(v for _, v in values))  # pyright: ignore
        elif len(values) > 1:
            ranged[name] = Choice(tuple(v for _, v in values))
            fixed[name] = values[0][1]
        else:
            fixed[name] = values[0][1]
    for name, hyper in rule.hypers.items():
        if name in ranged:
            space[name] = ranged[name]
        elif hyper.search is not None and name not in {*rule.given, *fixed}:
            space[name] = searched(name, hyper, *hyper.search)
    space |= {name: dimension for name, dimension in ranged.items() if name in rule.flags}
    name = rule.title if text is None else text
    code = _code(rule) if words is None else ""
    return Contestant(name, words, space, (fixed,), code).extended(trials)


def contestants(
    optimizers: Iterable[str | Rule],
    trials: int,
    *,
    lr: float | None = None,
    schedule: str | None = None,
    decay: str | None = None,
) -> tuple[tuple[Contestant, ...], dict[str, Rule]]:
    """Several contestants, and by their names the rules that cannot be put in words.

    What is named twice takes part once. For the arguments see `contestant`.

    Raises:
        UsageError: as `contestant`, or two rules that differ have one name.
    """
    found: dict[str, Contestant] = {}
    rules: dict[str, Rule] = {}
    for optimizer in optimizers:
        one = contestant(optimizer, trials, lr=lr, schedule=schedule, decay=decay)
        if found.setdefault(one.name, one) != one or rules.get(one.name, optimizer) != optimizer:
            raise UsageError(
                f"two optimizers are called {one.name}: give one of them a title of its own."
            )
        if one.rule is None and isinstance(optimizer, Rule):
            rules[one.name] = optimizer
    return tuple(found.values()), rules


def _taken_apart(text: str, decays: bool) -> tuple[str, list[tuple[int, str, str]]]:
    """The words without what is searched; and of that the part of the chain, setting and values."""
    decays = decays or ":decay=" in text
    parts: list[str] = []
    asked: list[tuple[int, str, str]] = []
    for i, part in enumerate(links_of(text)):
        name, *settings = part.split(":")
        own = (OPTIMIZERS | STAGES)[name].hypers if name in OPTIMIZERS | STAGES else ()
        kept = [name]
        for setting in settings:
            key, _, given = setting.partition("=")
            several = ".." in given or "|" in given
            beside = decays and key == "weight_decay" and key not in own
            if several or beside or key in _SPECIAL:
                if key in (k for j, k, _ in asked if j == i):
                    raise UsageError(f"{key} stands twice in {text!r}: leave one of the two out.")
                asked.append((i, key, given))
            else:
                kept.append(setting)
        parts.append(":".join(kept))
    return "+".join(parts), asked


def _split(given: str) -> list[str]:
    if ".." not in given:
        return given.split("|")
    low, _, high = given.partition("..")
    return [low, high]


def _value(words: str, part: int, own: str, text: str, rule: Rule) -> tuple[str, Setting]:
    """The name that a setting of a part has in the whole chain, and the value that is meant."""
    if own == "weight_decay" and own not in parsed(words).hypers and own in rule.hypers:
        return own, parsed(f"decay:{own}={text}+sgd").given[own]
    parts = links_of(words)
    parts[part] += f":{own}={text}"
    before, now = parsed(words).given, parsed("+".join(parts)).given
    name = next((n for n in now if n not in before), None)
    if name is None:
        raise UsageError(f"{own} stands twice in {words!r}: leave one of the two out.")
    return name, now[name]


def _checked(name: str, given: list[str], rule: Rule) -> tuple[str, ...]:
    for value in given:
        if name == "decay" and value not in DECAYS:
            raise unknown("decay", value, DECAYS)
        if name == "decay" and any(n.endswith("weight_decay") for n in rule.hypers):
            raise UsageError(
                f"decay is {'|'.join(given)!r}, but {rule.title} has a weight decay of its own: "
                "leave decay out, or name the optimizer without it, such as adam for adamw."
            )
        if name == "schedule":
            parse_schedule(value, 1.0)
    if name == "decay" and "independent" in given and len(given) > 1:
        raise UsageError(
            f"decay is {'|'.join(given)!r}, but independent decay has weights of another size than "
            "the others, so that one range does not suit both: make it an optimizer of its own."
        )
    return tuple(dict.fromkeys(given))


def _code(rule: Rule) -> str:
    try:
        sources = [inspect.getsource(link.function) for link in rule.links]
    # What was typed into an interpreter has none.
    except OSError:
        sources = [repr(link.function.__code__.co_code) for link in rule.links]
    return sha256("".join(sources).encode()).hexdigest()[:16]
