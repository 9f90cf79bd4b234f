"""What a rule is: a pure function of symbols, and the meaning of its hyperparameters.

A rule's signature is its whole declaration. The first parameter is what comes in (for an optimizer
the gradient); `theta` is the parameter being trained; the other positional ones are its state, one
array of the parameter's shape each and zero at first unless a `state()` says otherwise. Keyword
parameters are `t` (the number of this step, from 1), `norm` (the Euclidean norm of all parameters'
gradients together), hyperparameters declared with `hyper()` and options declared with `flag()`.
The function returns the step to subtract from `theta`, then the new state in the order of its
signature.

A stage is declared the same way; it changes what comes in and passes it on, and may use the `lr` of
the rule it stands beside. `chain` puts stages before and after a rule, in the order in which they
act.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from thalweg.errors import UsageError, unknown
from thalweg.rules.declaration import (
    CONVENTIONS,
    Flag,
    Hyper,
    Link,
    Setting,
    flag,
    hyper,
    linked,
    state,
)
from thalweg.rules.tracing import Trace, traced

__all__ = [
    "CONVENTIONS",
    "Rule",
    "Setting",
    "Settings",
    "chain",
    "flag",
    "hyper",
    "rule",
    "stage",
    "state",
]


@dataclass(frozen=True)
class Settings:
    """Every value a rule runs with: hyperparameters, which may change from step to step, and flags.

    Attributes:
        hypers: numbers and tuples of numbers, by name.
        flags: the choices, by name.
    """

    hypers: Mapping[str, float | tuple[float, ...]]
    flags: Mapping[str, bool | str]


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer, or a stage of one, as a pure function that every backend derives from.

    Calling a rule gives the same rule with other defaults: `adam(beta2=0.99)`.

    Attributes:
        name: the name it is called by, such as `"adam"`.
        title: the name it is written with, such as `"Adam"`; also its class's.
        paper: where it comes from: authors, year, identifier, equation or algorithm.
        doc: what it does, in a sentence or two.
        links: the functions it is made of, in the order in which they act.
        given: settings fixed by a call; they stand whatever the convention.
        conventions: settings of the whole chain by convention, after those of its links.
    """

    name: str
    title: str
    paper: str
    doc: str
    links: tuple[Link, ...]
    given: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    conventions: Mapping[str, Mapping[str, Setting]] = field(
        default_factory=dict[str, Mapping[str, Setting]]
    )

    def __repr__(self) -> str:
        links = f"({', '.join(link.name for link in self.links)})" if self.name == "chain" else ""
        given = ", ".join(f"{k}={v!r}" for k, v in self.given.items())
        return f"{self.name}{links}" + (f"({given})" if given or not links else "")

    def __deepcopy__(self, memo: object) -> "Rule":
        # It never changes, and what has been compiled for it is found by its identity.
        return self

    @property
    def is_stage(self) -> bool:
        """Whether this only changes a gradient or a step and needs a rule beside it."""
        return all(link.is_stage for link in self.links)

    @cached_property
    def qualified(self) -> tuple[Mapping[str, str], ...]:
        """For each link, its own names of settings to the chain's.

        The rule's names stay as they are. A stage's do too if no other link has the name, else
        they are preceded by the stage's: `noise_gamma` beside momentum's `gamma`.
        """
        owners: dict[str, list[str]] = {}
        for link in self.links:
            for name in (*link.hypers, *link.flags):
                owners.setdefault(name, []).append(link.name)
        return tuple(
            {
                n: f"{link.name}_{n}" if link.is_stage and len(owners[n]) > 1 else n
                for n in (*link.hypers, *link.flags)
            }
            for link in self.links
        )

    @cached_property
    def hypers(self) -> Mapping[str, Hyper]:
        """Every hyperparameter by name, with this rule's own defaults."""
        found = {
            names[n]: h
            for link, names in zip(self.links, self.qualified, strict=True)
            for n, h in link.hypers.items()
        }
        for name, value in self.given.items():
            if name in found:
                found[name] = replace(found[name], default=value)
        return found

    @cached_property
    def flags(self) -> Mapping[str, Flag]:
        """Every option by name, with this rule's own defaults."""
        found = {
            names[n]: f
            for link, names in zip(self.links, self.qualified, strict=True)
            for n, f in link.flags.items()
        }
        for name, value in self.given.items():
            if name in found:
                found[name] = replace(found[name], default=value)
        return found

    def __call__(self, *values: Setting, **given: Setting) -> "Rule":
        """This rule with other defaults, by name, or in the order of `hypers`.

        Raises:
            UsageError: no setting has that name, or the value is out of range.
        """
        if len(values) > len(self.hypers):
            raise UsageError(
                f"{self.name} takes at most {len(self.hypers)} values "
                f"({', '.join(self.hypers)}), got {len(values)}."
            )
        given = {**dict(zip(self.hypers, values, strict=False)), **given}
        return replace(self, given={**self.given, **self._checked(given)})

    def _checked(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        checked: dict[str, Setting] = {}
        for name, value in given.items():
            declared = self.hypers.get(name) or self.flags.get(name)
            if declared is None:
                raise unknown(f"setting of {self.name}", name, (*self.hypers, *self.flags))
            checked[name] = declared.checked(name, value)
        return checked

    def named(
        self,
        name: str,
        title: str,
        *,
        paper: str,
        doc: str,
        conventions: Mapping[str, Mapping[str, Setting]],
    ) -> "Rule":
        """This chain as an optimizer of its own, under a name of its own."""
        return replace(self, name=name, title=title, paper=paper, doc=doc, conventions=conventions)

    def by_convention(self, convention: str) -> dict[str, Setting]:
        """What a convention sets differently from the paper."""
        if convention not in CONVENTIONS:
            raise unknown("convention", convention, CONVENTIONS)
        found: dict[str, Setting] = {}
        for link, names in zip(self.links, self.qualified, strict=True):
            found |= {names[n]: v for n, v in link.conventions.get(convention, {}).items()}
        return found | dict(self.conventions.get(convention, {}))

    def settings(self, convention: str = "paper", /, **given: Setting) -> Settings:
        """Every value to run with: what is given, else the convention's, else the default.

        Raises:
            UsageError: an unknown name or convention, or a value out of range.
        """
        defaults = {name: h.default for name, h in (*self.hypers.items(), *self.flags.items())}
        chosen = defaults | self.by_convention(convention) | dict(self.given) | self._checked(given)
        return Settings(
            hypers={name: _as_hyper(chosen[name]) for name in self.hypers},
            flags={name: _as_flag(chosen[name]) for name in self.flags},
        )

    def trace(self, settings: Settings) -> Trace:
        """The rule's graph under these settings; equal choices give the same object."""
        shape = tuple(
            (name, len(value) if isinstance(value, tuple) else value == self.hypers[name].off)
            for name, value in settings.hypers.items()
        )
        return traced(self, tuple(settings.flags.items()), shape)

    def step(
        self,
        params: Any,
        grads: Any,
        state: Any = None,
        *,
        convention: str = "paper",
        **given: Setting,
    ) -> tuple[Any, Any]:
        """Take one step on NumPy arrays; see `thalweg.rules.reference.step`."""
        from thalweg.rules import reference

        return reference.step(self, params, grads, state, self.settings(convention, **given))


def _as_hyper(value: Setting) -> float | tuple[float, ...]:
    return value if isinstance(value, tuple) else float(value)


def _as_flag(value: Setting) -> bool | str:
    assert isinstance(value, bool | str)
    return value


def _alone(link: Link) -> Rule:
    return Rule(link.name, link.title, link.paper, link.doc, (link,))


def rule(
    title: str, *, paper: str, **conventions: Mapping[str, Setting]
) -> Callable[[Callable[..., Any]], Rule]:
    """Make a rule of a function; see this module's docstring for how the function is read.

    Args:
        title: the name as the field writes it; the torch class is called so.
        paper: authors, year, identifier, equation or algorithm number.
        conventions: for each convention the settings in which it differs from the paper.
    """
    return lambda function: _alone(linked(function, title, paper, conventions, is_stage=False))


def stage(
    title: str, *, paper: str, **conventions: Mapping[str, Setting]
) -> Callable[[Callable[..., Any]], Rule]:
    """Make a stage of a function: what comes in, changed, goes to the next link of a chain."""
    return lambda function: _alone(linked(function, title, paper, conventions, is_stage=True))


def chain(*rules: Rule) -> Rule:
    """Stages around a rule, in the order in which they act on the gradient and then on the step.

    `chain(l2(1e-4), adam())` adds the decay to the gradient, `chain(adam(), decay(1e-2))` to the
    step.

    Raises:
        UsageError: there is not exactly one rule among the stages, a stage stands there twice, or
            one that needs the gradients' norm does not stand first.
    """
    names = [r.name for r in rules]
    optimizers = [r.name for r in rules if not r.is_stage]
    if len(optimizers) != 1:
        raise UsageError(
            f"chain({', '.join(names)}) has {len(optimizers)} rules among its stages, but must "
            "have exactly one, such as chain(l2(1e-4), adam())."
        )
    links = tuple(link for r in rules for link in r.links)
    rule_of_chain = next(r for r in rules if not r.is_stage)
    if "lr" not in rule_of_chain.hypers and any("lr" in link.uses for link in links):
        raise UsageError(
            f"chain({', '.join(names)}) has a stage that is scaled by the learning rate, but "
            f"{rule_of_chain.name} has no lr."
        )
    repeated = {a.name for a in links if sum(a.name == b.name for b in links) > 1}
    if repeated:
        raise UsageError(f"{', '.join(sorted(repeated))} stands more than once in a chain.")
    late = next((link.name for link in links[1:] if "norm" in link.uses), None)
    if late is not None:
        raise UsageError(
            f"chain({', '.join(names)}) has {late} behind {links[0].name}, but it goes by the norm "
            f"of the gradients as they come: put {late} first."
        )
    chained = Rule(
        name="chain",
        title=" + ".join(r.title for r in rules),
        paper="; ".join(dict.fromkeys(r.paper for r in rules if r.paper)),
        doc="",
        links=links,
    )
    qualified = {link.name: names for link, names in zip(links, chained.qualified, strict=True)}
    given: dict[str, Setting] = {}
    conventions: dict[str, dict[str, Setting]] = {}
    for r in rules:
        inverse = {
            old: qualified[link.name][own]
            for link, names in zip(r.links, r.qualified, strict=True)
            for own, old in names.items()
        }
        given |= {inverse[n]: v for n, v in r.given.items()}
        for convention, values in r.conventions.items():
            conventions.setdefault(convention, {}).update(
                {inverse[n]: v for n, v in values.items()}
            )
    return replace(chained, given=given, conventions=conventions)
