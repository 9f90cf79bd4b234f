"""The optimizers as classes: drop-ins for those of `torch.optim`, and those torch does not have."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg import rules, scheduling
from thalweg.backends.program import Program
from thalweg.batches import begin
from thalweg.compiled import Group
from thalweg.errors import UsageError, unknown
from thalweg.optimizer import Optimizer, number_of
from thalweg.rules.decaying import DECAYS, decaying
from thalweg.rules.rule import CONVENTIONS, Rule, Setting, Settings

__all__ = ["CLASSES", "Optimizer"]


def _checked_decay(decay: str | None) -> str | None:
    if decay is not None and decay not in DECAYS:
        raise unknown("decay", str(decay), DECAYS)
    return decay


@dataclass(frozen=True)
class _Mirror:
    """How a class of torch's maps to rules.

    Attributes:
        rule: from a group to the rule that trains it.
        settings: the rule's settings that torch names otherwise: its key, or key and index.
        states: the keys under which torch keeps the rule's states.
        counts: whether torch counts the steps.
        at_once: whether torch makes the states with the optimizer, not with its first step.
    """

    rule: Callable[[Group], Rule]
    settings: Mapping[str, str | tuple[str, int]] = field(default_factory=dict[str, Any])
    states: Mapping[str, str] = field(default_factory=dict[str, str])
    counts: bool = True
    at_once: bool = False


def _pair(key: str, *names: str) -> dict[str, tuple[str, int]]:
    return {name: (key, index) for index, name in enumerate(names)}


_BETAS = _pair("betas", "beta1", "beta2")
_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}


def _sgd(group: Group) -> Rule:
    if group["nesterov"]:
        if not group["momentum"] or group["dampening"]:
            raise UsageError(
                "nesterov is True, but momentum is "
                f"{group['momentum']!r} and dampening {group['dampening']!r}: Nesterov momentum "
                "requires a momentum and zero dampening."
            )
        return rules.nag
    return rules.momentum if group["momentum"] else rules.sgd


def _adam(group: Group) -> Rule:
    return rules.amsgrad if group["amsgrad"] else rules.adam


_MIRRORS: Mapping[str, _Mirror] = {
    "SGD": _Mirror(_sgd, {"gamma": "momentum"}, {"v": "momentum_buffer"}, counts=False),
    "Adagrad": _Mirror(lambda group: rules.adagrad, states={"G": "sum"}, at_once=True),
    "Adadelta": _Mirror(lambda group: rules.adadelta, states={"E": "square_avg", "D": "acc_delta"}),
    "RMSprop": _Mirror(
        lambda group: rules.rmsprop,
        {"rho": "alpha"},
        {"E": "square_avg", "mean": "grad_avg", "v": "momentum_buffer"},
    ),
    "Adam": _Mirror(_adam, _BETAS, _MOMENTS),
    "AdamW": _Mirror(_adam, _BETAS, _MOMENTS),
    "Adamax": _Mirror(lambda group: rules.adamax, _BETAS, {"m": "exp_avg", "u": "exp_inf"}),
    "NAdam": _Mirror(lambda group: rules.nadam, _BETAS, _MOMENTS),
    "RAdam": _Mirror(lambda group: rules.radam, _BETAS, _MOMENTS),
    "Rprop": _Mirror(
        lambda group: rules.rprop,
        _pair("etas", "eta_minus", "eta_plus") | _pair("step_sizes", "delta_min", "delta_max"),
        {"g_prev": "prev", "delta": "step_size"},
    ),
}


class _Mirrored(Optimizer):
    """A drop-in for a class of torch's: its constructor, its groups, its state, its trajectory."""

    has_decay_modes = True
    mirror: ClassVar[_Mirror]
    original: ClassVar[type[torch.optim.Optimizer]]
    signature: ClassVar[inspect.Signature]

    def __init__(
        self,
        *args: Any,
        convention: str = "torch",
        decay: str | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        if convention not in CONVENTIONS:
            raise unknown("convention", str(convention), CONVENTIONS)
        self.convention = convention
        # torch's Rprop has no weight decay; every class here does.
        missing = {"weight_decay"} - self.signature.parameters.keys()
        more = {name: kwargs.pop(name) for name in missing & kwargs.keys()}
        # Those that torch puts into pairs, or calls otherwise, may be given one by one.
        own = {name: kwargs.pop(name) for name in self.mirror.settings.keys() & kwargs.keys()}
        given = dict(self.signature.bind(*args, **kwargs).arguments)
        params = given.pop("params")
        _, schedules = scheduling.split({**given, **more, **own})
        more, _ = scheduling.split(more)
        defaults = self._defaults(self._placed(scheduling.split(given)[0], own)) | more
        if _checked_decay(decay) is not None:
            defaults["decay"] = decay
        self.start(params, None, defaults, backend, schedules)
        if defaults.get("fused"):
            # As in torch: GradScaler leaves it to the optimizer to divide by the scale.
            self._step_supports_amp_scaling = True
        if self.mirror.at_once:
            for group in self.param_groups:
                c = self._compile(group)
                keys, held = self._keys_of(c.program), self.__dict__["state"]
                for p in group["params"]:
                    begin(held[p], c.program, keys, p, c.numbers)

    def _defaults(self, given: Mapping[str, Any]) -> Group:
        """The settings of a group that has none of its own; torch itself checks what is given."""
        try:
            defaults = dict(self.original([torch.zeros(())], **given).defaults)
        except (TypeError, ValueError) as error:
            values = {n: p.default for n, p in self.signature.parameters.items()} | dict(given)
            try:
                self._settings_of(values, self._rule_of(values))
            except UsageError as ours:
                # What Python says of types does not name the setting.
                said = f"{error}: {ours}" if isinstance(error, ValueError) else str(ours)
                raise UsageError(said) from None
            if isinstance(error, ValueError):
                raise UsageError(f"{error}.") from None
            raise
        if self.convention != "torch":
            self._follow_convention(defaults, given)
        return defaults

    def _follow_convention(self, defaults: Group, given: Mapping[str, Any]) -> None:
        """Where nothing is given, a convention has defaults of its own."""
        rule = self.mirror.rule(defaults)
        values: dict[str, Any] = dict(rule.settings(self.convention).hypers)
        if self.convention == "keras":
            values["decoupled_weight_decay"] = True
        named = next((r for r in rules.OPTIMIZERS.values() if r.title == type(self).__name__), rule)
        if "weight_decay" in named.hypers:
            values["weight_decay"] = named.settings(self.convention).hypers["weight_decay"]
        for name, value in values.items():
            key, index = self._place(name)
            if key in given or key not in defaults:
                continue
            if index is None:
                defaults[key] = value
            else:
                old = defaults[key]
                defaults[key] = (*old[:index], value, *old[index + 1 :])

    def _placed(self, given: Mapping[str, Any], own: Mapping[str, Any]) -> Group:
        """What is given, with settings that have names of our own where torch has them."""
        placed = dict(given)
        for name, value in scheduling.split(own)[0].items():
            key, index = self._place(name)
            if key in given:
                raise UsageError(
                    f"{name} is {own[name]!r}, but {key} is given too, which it is part of: give "
                    "one of them."
                )
            if index is not None:
                old = placed.get(key, self.signature.parameters[key].default)
                value = (*old[:index], value, *old[index + 1 :])
            placed[key] = value
        return placed

    def _place(self, name: str) -> tuple[str, int | None]:
        """Under which key of a group, and at which index there, a setting of the rule is."""
        at = self.mirror.settings.get(name, name)
        return at if isinstance(at, tuple) else (at, None)

    def _rule_of(self, group: Group) -> Rule:
        decay = _checked_decay(group.get("decay"))
        if decay is None:
            beside = group.get("decoupled_weight_decay", self.convention == "keras")
            decay = "decoupled" if beside else "l2"
        climb = [rules.ascend] if group.get("maximize") else []
        return decaying(self.mirror.rule(group), decay, *climb)

    def _values_of(self, group: Group, rule: Rule) -> dict[str, Any]:
        found: dict[str, Any] = {
            n: v for n, v in rule.by_convention(self.convention).items() if n in rule.flags
        }
        for name in (*rule.hypers, *rule.flags):
            key, index = self._place(name)
            if key in group:
                found[name] = _part(key, group[key], index)
        return {"weight_decay": 0.0, **found}

    def _settings_of(self, group: Group, rule: Rule) -> Settings:
        values = {name: number_of(x) for name, x in self._values_of(group, rule).items()}
        try:
            return rule.settings("paper", **values)
        except UsageError:
            # torch's bounds are wider in places, and here they are what counts.
            infinite = any(isinstance(x, float) and math.isinf(x) for x in values.values())
            if infinite or not self._torch_takes(group):
                raise
        known = rule.settings("paper", **{n: v for n, v in values.items() if n in rule.flags})
        numbers = {n: float(values.get(n, x)) for n, x in known.hypers.items()}  # pyright: ignore
        return Settings(numbers, known.flags)

    def _torch_takes(self, group: Group) -> bool:
        names = self.signature.parameters.keys() - {"params"}
        given = {n: group[n] for n in names if n in group}
        try:
            self.original([torch.zeros(())], **given)
        except (TypeError, ValueError, RuntimeError):
            return False
        return True

    def _keys_of(self, program: Program) -> dict[str, str]:
        count = {"t": "step"} if self.mirror.counts else {}
        return count | {s.name: self.mirror.states.get(s.name, s.name) for s in program.states}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "convention": self.convention}

    def share_memory(self) -> None:
        """Move the states to memory that processes share; see `torch.optim.Adagrad`."""
        for state in self.state.values():
            for x in state.values():
                x.share_memory_()


def _part(key: str, value: Any, index: int | None) -> Any:
    if index is None:
        return value
    try:
        return value[index]
    except (TypeError, IndexError):
        raise UsageError(f"{key} is {value!r}, but must be two numbers.") from None


_MORE = """`foreach` and `fused` are accepted and choose nothing: there is one implementation. With
`fused=True`, as in torch, it divides by the scale of a `GradScaler` itself. `capturable` changes
nothing on the CPU.

Args:
    convention: whose reading of the rule is followed: "torch", "keras", "optax" or "paper"; it has
        its own defaults for what is not given.
    decay: how weights decay: "l2" (added to the gradient), "decoupled" (times lr) or "independent"
        (not times lr); None: as the class, or the convention, does it.
    backend: "fused", "eager" or "auto"; see `thalweg.Optimizer`.

Raises:
    UsageError: a value is out of range.
"""


def _mirrored(name: str, mirror: _Mirror) -> type[Optimizer]:
    original = getattr(torch.optim, name)
    signature = inspect.signature(original)
    own = inspect.signature(_Mirrored).parameters
    more = [own[n] for n in ("convention", "decay", "backend")]
    shown = signature.replace(parameters=[*signature.parameters.values(), *more])
    doc = f"{original.__name__} with torch's arguments, defaults, state and trajectory.\n\n{_MORE}"
    attributes = {
        "mirror": mirror,
        "original": original,
        "signature": signature,
        "__signature__": shown,
        "__doc__": doc,
        "__module__": __name__,
    }
    return type(name, (_Mirrored,), attributes)


class _Derived(Optimizer):
    """The class of a rule that torch does not have: weight decay, and the rule's settings."""

    has_decay_modes = True

    def _rule_of(self, group: Group) -> Rule:
        assert self.rule is not None
        return decaying(self.rule, _checked_decay(group["decay"]) or "l2")


def _derived(rule: Rule) -> type[Optimizer]:
    def __init__(  # noqa: N807
        self: _Derived,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        *,
        weight_decay: float | Tensor = 0.0,
        decay: str | None = None,
        convention: str = "torch",
        backend: str = "auto",
        **settings: Setting,
    ) -> None:
        given: dict[str, Any] = settings if lr is None else {"lr": lr, **settings}
        checked = _checked_decay(decay) or ("decoupled" if convention == "keras" else "l2")
        staged = decaying(rule, checked)
        known = (*staged.hypers, *staged.flags, "decay", "convention", "backend")
        misspelt = next((name for name in given if name not in known), None)
        if misspelt is not None:
            raise unknown(f"setting of {rule.title}", misspelt, known)
        given["weight_decay"] = weight_decay
        given, schedules = scheduling.split(given)
        numbers = {name: number_of(x) for name, x in given.items()}
        chosen = staged.settings(convention, **numbers)
        tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
        defaults = {**chosen.hypers, **chosen.flags, **tensors, "decay": checked}
        self.start(params, rule, defaults, backend, schedules)

    doc = (
        f"{rule.doc}\n\nSource: {rule.paper}. The settings are those of `thalweg.{rule.name}`;\n"
        '`decay` is how weights decay: "l2" (added to the gradient), "decoupled" (times lr) or\n'
        '"independent" (not times lr).'
    )
    attributes = {"__init__": __init__, "__doc__": doc, "__module__": __name__}
    return type(rule.title, (_Derived,), attributes)


CLASSES: Mapping[str, type[Optimizer]] = {
    **{r.title: _derived(r) for r in rules.OPTIMIZERS.values() if r.title not in _MIRRORS},
    **{name: _mirrored(name, mirror) for name, mirror in _MIRRORS.items()},
}
"""The optimizers as torch classes, by name."""


def __getattr__(name: str) -> type[Optimizer]:
    if name in CLASSES:
        return CLASSES[name]
    raise AttributeError(str(unknown("optimizer class", name, CLASSES)))
