"""Rules as `torch.optim` optimizers: one adapter, and the classes made with it."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from itertools import accumulate
from operator import is_
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer  # pyright: ignore

from thalweg import rules
from thalweg.backends import checked
from thalweg.backends.program import Program, program
from thalweg.batches import Batch, Gathering, state_dtype
from thalweg.errors import UsageError, unknown
from thalweg.rules.reference import inputs
from thalweg.rules.rule import Rule, Setting, chain

__all__ = ["CLASSES", "Optimizer"]

Group: TypeAlias = dict[str, Any]


class Optimizer(torch.optim.Optimizer):
    """Trains parameters by a rule.

    Everything a `torch.optim.Optimizer` does works as it does there: parameter groups with
    settings of their own, closures, hooks, learning rate schedulers, `state_dict`.

    Args:
        params: parameters, named parameters, or groups of them with settings of their own.
        rule: a rule or a chain, such as `thalweg.adam` or `chain(l2(1e-4), momentum)`.
        convention: whose reading of the rule is followed: "torch", "keras" or "paper".
        backend: "fused" (one compiled pass over memory), "eager" (torch's operations) or "auto":
            the first that can.
        settings: hyperparameters and flags of the rule, by name.

    Raises:
        UsageError: no setting has that name, or a value is out of range.
    """

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        convention: str = "torch",
        backend: str = "auto",
        **settings: Setting,
    ) -> None:
        if rule.is_stage:
            raise UsageError(
                f"rule is {rule!r}, a stage, which moves nothing by itself: put it beside a rule, "
                f"as in chain({rule!r}, sgd())."
            )
        chosen = rule.settings(convention, **settings)
        self._start(params, rule, {**chosen.hypers, **chosen.flags}, backend)

    def _start(
        self, params: Any, rule: Rule | None, defaults: dict[str, Any], backend: str
    ) -> None:
        self.rule = rule
        self.backend = checked(backend)
        self._compiled: dict[int, _Compiled] = {}
        self._gathering: dict[int, Gathering] = {}
        self._states: list[Any] | None = None
        super().__init__(params, defaults)

    @property
    def state(self) -> Any:  # pyright: ignore
        """What is kept for each parameter; see `torch.optim.Optimizer`.

        Whoever has seen it may change it at any time, so from then on each step looks.
        """
        if self._states is None:
            self._states = []
            self._gathering.clear()
        return self.__dict__["state"]

    @state.setter
    def state(self, value: Any) -> None:  # pyright: ignore
        self.__dict__["state"] = value
        self._gathering.clear()

    # What a class that mirrors one of torch's answers differently:

    def _rule_of(self, group: Group) -> Rule:
        assert self.rule is not None
        return self.rule

    def _settings_of(self, group: Group, rule: Rule) -> dict[str, Setting]:
        return {name: group[name] for name in (*rule.hypers, *rule.flags)}

    def _state_key(self, name: str) -> str:
        return name

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compiled = {}
        self._gathering = {}
        # What is loaded is not copied, so whoever has it may change it.
        self._states = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` has returned; see `torch.optim.Optimizer.load_state_dict`.

        torch rounds the states to the parameter's type. Those that are kept in float32 because
        the parameter has fewer digits are taken as they were saved.
        """
        super().load_state_dict(state_dict)
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for i, p in zip(saved, params, strict=True):
            dtype = state_dtype(p.dtype)
            for key, value in state_dict["state"].get(i, {}).items():
                if key == "step" or not isinstance(value, Tensor):
                    continue
                # Numbers kept for the whole parameter are float64.
                if dtype is not p.dtype or not value.dim():
                    wide = dtype if value.dim() else torch.promote_types(value.dtype, dtype)
                    self.__dict__["state"][p][key] = value.to(p.device, wide, copy=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            UsageError: a setting of the group is out of range.
        """
        if isinstance(param_group, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            self._compile({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _compile(self, group: Group) -> "_Compiled":
        """The group's program and the numbers of its hyperparameters, as they are now."""
        values = [*group.values()]
        values[[*group].index("params")] = None
        known = self._compiled.get(id(group))
        try:
            # A learning rate that is a tensor may have been changed in place.
            changed = known is None or known.changing or known.values != values
        except (RuntimeError, ValueError):
            # What is no number need not be comparable with one.
            changed = True
        if known is None or changed:
            rule = self._rule_of(group)
            settings = rule.settings("paper", **self._settings_of(group, rule))
            changing = any(_holds_tensor(v) for v in values)
            known = _Compiled(values, changing, program(rule.trace(settings)), inputs(settings))
            self._compiled[id(group)] = known
        return known

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `step` for hooks and the profiler, as torch does, but only while there are any.

        torch's wrapper takes longer than the step of a small network.
        """
        hooked = torch.optim.Optimizer.profile_hook_step(func)

        @wraps(func)
        def wrapper(self: "Optimizer", *args: Any, **kwargs: Any) -> Any:
            plain = not (
                self._optimizer_step_pre_hooks
                or self._optimizer_step_post_hooks
                or optimizer._global_optimizer_pre_hooks  # pyright: ignore
                or optimizer._global_optimizer_post_hooks  # pyright: ignore
                or profiler._is_profiler_enabled  # pyright: ignore
            )
            return (func if plain else hooked)(self, *args, **kwargs)

        return wrapper

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Take one step.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the
                loss. A rule that takes the gradient away from the parameters needs one.

        Returns:
            What the closure returned; None without one.

        Raises:
            UsageError: the rule needs a closure and there is none.
        """
        compiled = [self._compile(group) for group in self.param_groups]
        loss = None
        if any(c.program.at is not None for c in compiled):
            loss = self._loss_at_gradient_points(compiled, closure)
        elif closure is not None:
            if torch.is_grad_enabled():
                loss = closure()
            else:
                with torch.enable_grad():
                    loss = closure()
        if not self._same_states():
            self._gathering.clear()
            self._states = [*self.__dict__["state"].values()]
        firsts = accumulate((len(group["params"]) for group in self.param_groups), initial=0)
        # All that can be wrong is found before anything is changed.
        ready = [
            (batch, *batch.numbers(c.numbers))
            for group, c, first in zip(self.param_groups, compiled, firsts, strict=False)
            for batch in self._batches(group, c, first)
        ]
        for batch, numbers, values in ready:
            batch.step(numbers, values)
        return loss

    @torch.no_grad()
    def _loss_at_gradient_points(
        self, compiled: list["_Compiled"], closure: Callable[[], Any] | None
    ) -> Any:
        if closure is None:
            raise UsageError(
                "this rule takes the gradient away from the parameters (lookahead=True): call "
                "step(closure) with a function that clears the gradients, computes the loss, "
                "calls backward() and returns the loss."
            )
        points: list[tuple[Tensor, Tensor]] = []
        for group, c in zip(self.param_groups, compiled, strict=True):
            if c.program.at is not None:
                # To gather them for this takes their counts away from what steps them.
                self._gathering.pop(id(group), None)
                wanted = [p.requires_grad for p in group["params"]]
                for batch in self._gathered(group, c, wanted, with_gradients=False).batches:
                    batch.examine()
                    there = batch.gradient_points(c.numbers)
                    points += zip(batch.params, there, strict=True)
        # All that can be wrong has been found before anything is moved.
        before = [p.clone() for p, _ in points]
        try:
            for p, point in points:
                p.copy_(point)
            with torch.enable_grad():
                return closure()
        finally:
            for (p, _), x in zip(points, before, strict=True):
                p.copy_(x)

    def _same_states(self) -> bool:
        if self._states is None:
            return True
        states = self.__dict__["state"]
        return len(states) == len(self._states) and all(map(is_, states.values(), self._states))

    def _batches(self, group: Group, c: "_Compiled", first_stream: int) -> list[Batch]:
        """The group's parameters that have a gradient, gathered anew only if something changed."""
        known = self._gathering.get(id(group))
        if (
            known is None
            or known.program is not c.program
            or known.backend != self.backend
            or known.first_stream != first_stream
            or not known.intact(group["params"])
        ):
            # Its counts are no longer the state's, even if what follows raises an error.
            self._gathering.pop(id(group), None)
            present = [p.grad is not None for p in group["params"]]
            known = self._gathered(group, c, present, with_gradients=True)
            known.bind(watch_states=self._states is not None)
            self._gathering[id(group)] = known
            if self._states is not None:
                self._states = [*self.__dict__["state"].values()]
        return known.batches

    def _gathered(
        self, group: Group, c: "_Compiled", included: list[bool], *, with_gradients: bool
    ) -> Gathering:
        place = next(i for i, other in enumerate(self.param_groups) if other is group)
        stream = sum(len(other["params"]) for other in self.param_groups[:place])
        names: Sequence[str] = group.get("param_names") or ()

        def name(i: int) -> str:
            shape = tuple(group["params"][i].shape)
            which = repr(names[i]) if i < len(names) else f"{i} of group {place}"
            return f"parameter {which} of shape {shape}"

        return Gathering(
            c.program,
            group["params"],
            included,
            c.numbers,
            self.__dict__["state"],
            {s.name: self._state_key(s.name) for s in c.program.states},
            stream,
            checked(self.backend),
            name,
            with_gradients=with_gradients,
        )


def _plain(key: str, value: Any, index: int | None) -> Any:
    """The value, or its part, as a number if it is a tensor of one."""
    if index is not None:
        try:
            value = value[index]
        except (TypeError, IndexError):
            raise UsageError(f"{key} is {value!r}, but must be two numbers.") from None
    try:
        return float(value) if isinstance(value, Tensor) else value
    except (TypeError, ValueError, RuntimeError):
        return value


def _holds_tensor(value: Any) -> bool:
    parts = cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,))
    return any(isinstance(part, Tensor) for part in parts)


@dataclass
class _Compiled:
    """A group's values when it was compiled, its program, and its hyperparameters' numbers."""

    values: list[Any]
    changing: bool
    program: Program
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class _Mirror:
    """How a class of torch's maps to rules.

    Attributes:
        rule: from a group to the rule that trains it.
        settings: the rule's settings that torch names otherwise: its key, or key and index.
        states: the keys under which torch keeps the rule's states.
        decoupled: from a group to whether its weight decay is decoupled.
    """

    rule: Callable[[Group], Rule]
    settings: Mapping[str, str | tuple[str, int]] = field(default_factory=dict[str, Any])
    states: Mapping[str, str] = field(default_factory=dict[str, str])
    decoupled: Callable[[Group], bool] = lambda group: group.get("decoupled_weight_decay", False)


_BETAS: Mapping[str, tuple[str, int]] = {"beta1": ("betas", 0), "beta2": ("betas", 1)}
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
    "SGD": _Mirror(_sgd, {"gamma": "momentum"}, {"v": "momentum_buffer"}),
    "Adagrad": _Mirror(lambda group: rules.adagrad, states={"G": "sum"}),
    "Adadelta": _Mirror(lambda group: rules.adadelta, states={"E": "square_avg", "D": "acc_delta"}),
    "RMSprop": _Mirror(
        lambda group: rules.rmsprop,
        {"rho": "alpha"},
        {"E": "square_avg", "mean": "grad_avg", "v": "momentum_buffer"},
    ),
    "Adam": _Mirror(_adam, _BETAS, _MOMENTS),
    "AdamW": _Mirror(_adam, _BETAS, _MOMENTS, decoupled=lambda group: True),
    "Adamax": _Mirror(lambda group: rules.adamax, _BETAS, {"m": "exp_avg", "u": "exp_inf"}),
    "NAdam": _Mirror(lambda group: rules.nadam, _BETAS, _MOMENTS),
}


@lru_cache(maxsize=256)
def _staged(rule: Rule, decoupled: bool, maximize: bool) -> Rule:
    """The rule with the stages that the options of torch's classes stand for."""
    climb = [rules.ascend] if maximize else []
    return chain(*climb, rule, rules.decay) if decoupled else chain(*climb, rules.l2, rule)


class _Mirrored(Optimizer):
    """A drop-in for a class of torch's: its constructor, its groups, its trajectory."""

    mirror: ClassVar[_Mirror]
    signature: ClassVar[inspect.Signature]

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        defaults = dict(bound.arguments)
        self._start(defaults.pop("params"), None, defaults, backend)

    def _rule_of(self, group: Group) -> Rule:
        for name in ("differentiable", "capturable"):
            if group.get(name):
                raise UsageError(f"{name} is True, which is not supported yet: leave it False.")
        rule = self.mirror.rule(group)
        return _staged(rule, self.mirror.decoupled(group), bool(group["maximize"]))

    def _settings_of(self, group: Group, rule: Rule) -> dict[str, Setting]:
        found = {
            name: value for name, value in rule.by_convention("torch").items() if name in rule.flags
        }
        for name in (*rule.hypers, *rule.flags):
            at = self.mirror.settings.get(name, name)
            key, index = at if isinstance(at, tuple) else (at, None)
            if key in group:
                found[name] = _plain(key, group[key], index)
        return found

    def _state_key(self, name: str) -> str:
        return self.mirror.states.get(name, name)


def _mirrored(name: str, mirror: _Mirror) -> type[Optimizer]:
    original = getattr(torch.optim, name)
    signature = inspect.signature(original)
    doc = (
        f"{original.__name__} with torch's arguments, defaults and trajectory.\n\n"
        "`foreach` and `fused` are accepted and choose nothing: there is one implementation.\n\n"
        "Raises:\n    UsageError: a value is out of range."
    )
    attributes = {
        "mirror": mirror,
        "signature": signature,
        "__signature__": signature,
        "__doc__": doc,
        "__module__": __name__,
    }
    return type(name, (_Mirrored,), attributes)


def _derived(rule: Rule) -> type[Optimizer]:
    """The class of a rule that torch does not have; its arguments are the rule's settings."""

    def __init__(  # noqa: N807
        self: Optimizer,
        params: Iterable[Any],
        lr: float | None = None,
        *,
        convention: str = "torch",
        backend: str = "auto",
        **settings: Setting,
    ) -> None:
        given = settings if lr is None else {"lr": lr, **settings}
        Optimizer.__init__(self, params, rule, convention=convention, backend=backend, **given)

    doc = f"{rule.doc}\n\nSource: {rule.paper}. The settings are those of `thalweg.{rule.name}`."
    attributes = {"__init__": __init__, "__doc__": doc, "__module__": __name__}
    return type(rule.title, (Optimizer,), attributes)


CLASSES: Mapping[str, type[Optimizer]] = {
    **{r.title: _derived(r) for r in rules.OPTIMIZERS.values() if r.title not in _MIRRORS},
    **{name: _mirrored(name, mirror) for name, mirror in _MIRRORS.items()},
}
"""The optimizers as torch classes, by name."""


def __getattr__(name: str) -> type[Optimizer]:
    if name in CLASSES:
        return CLASSES[name]
    raise AttributeError(str(unknown("optimizer class", name, CLASSES)))
