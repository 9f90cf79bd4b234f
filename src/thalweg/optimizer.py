"""Rules as `torch.optim` optimizers: the one adapter."""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer  # pyright: ignore

from thalweg import checkpoints, compilable, scheduling
from thalweg.backends import checked
from thalweg.backends.program import Program
from thalweg.batches import Batch, Gathering
from thalweg.compiled import Compiled, Group, compiled
from thalweg.errors import UsageError
from thalweg.following import Following
from thalweg.rules.rule import Rule, Setting, Settings

__all__ = ["Optimizer", "number_of"]


class Optimizer(torch.optim.Optimizer):
    """Trains parameters by a rule.

    Everything a `torch.optim.Optimizer` does works as it does there: parameter groups with
    settings of their own, closures, hooks, learning rate schedulers, `state_dict`.

    Args:
        params: parameters, named parameters, or groups of them with settings of their own.
        rule: a rule or a chain, such as `thalweg.adam` or `chain(l2(1e-4), momentum)`.
        convention: whose reading of the rule is followed: "torch", "keras", "optax" or "paper".
        backend: "fused" (one compiled pass over memory), "eager" (torch's operations) or "auto":
            the first that can.
        differentiable: whether gradients are to flow through steps, to learn what is learned
            with; the parameters then must not be leaves that require gradients.
        settings: hyperparameters and flags of the rule, by name. A hyperparameter may be a
            schedule: a function from the number of the step, counted from 0, to its value.

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
        differentiable: bool = False,
        **settings: Setting,
    ) -> None:
        if rule.is_stage:
            raise UsageError(
                f"rule is {rule!r}, a stage, which moves nothing by itself: put it beside a rule, "
                f"as in chain({rule!r}, sgd())."
            )
        numbers, schedules = scheduling.split(settings)
        chosen = rule.settings(convention, **numbers)
        options = {"differentiable": True} if differentiable else {}
        defaults = {**chosen.hypers, **chosen.flags, **options}
        self.start(params, rule, defaults, backend, schedules)

    def start(
        self,
        params: Any,
        rule: Rule | None,
        defaults: dict[str, Any],
        backend: str,
        schedules: Mapping[str, Callable[[int], float]],
    ) -> None:
        """Begin, with groups that have these settings and schedules unless they have their own."""
        if schedules:
            defaults = {**defaults, "schedules": dict(schedules), "steps": 0}
        self.rule = rule
        self.backend = checked(backend)
        self._compiled: dict[int, Compiled] = {}
        self._gathering: dict[int, Gathering] = {}
        self._ran: dict[int, Gathering] = {}
        self._states: list[Any] | None = None
        self.known = compilable.known(self)
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

    def backend_of(self, p: Tensor) -> str | None:
        """What took the parameter's last step: "fused" or "eager"; None if it has taken none."""
        batches = (b for gathering in self._ran.values() for b in gathering.batches)
        return next((found for b in batches if (found := b.backend_of(p))), None)

    has_decay_modes = False
    """Whether `decay` of a group chooses how weights decay."""

    def check(self, group: Group) -> None:
        """See that a group's settings are valid.

        Raises:
            UsageError: one is out of range.
        """
        self._settings_of(group, self._rule_of(group))

    # What a class that mirrors one of torch's answers differently:

    def _rule_of(self, group: Group) -> Rule:
        assert self.rule is not None
        return self.rule

    def _values_of(self, group: Group, rule: Rule) -> dict[str, Any]:
        """The rule's settings as the group has them; numbers may be tensors."""
        return {name: group[name] for name in (*rule.hypers, *rule.flags)}

    def _settings_of(self, group: Group, rule: Rule) -> Settings:
        values = {name: number_of(x) for name, x in self._values_of(group, rule).items()}
        return rule.settings("paper", **values)

    def _tensors_of(self, group: Group) -> dict[str, Tensor]:
        """The settings that are tensors, which gradients may flow to."""
        values = self._values_of(group, self._rule_of(group))
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}

    def _keys_of(self, program: Program) -> dict[str, str]:
        """Under which keys the count of steps `t` and the rule's states are kept."""
        return {"t": "step"} | {s.name: s.name for s in program.states}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compiled = {}
        self._gathering = {}
        self._ran = {}
        self.known = compilable.known(self)
        for group in self.param_groups:
            # Checkpoints of old versions lack the options that have come since.
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        # What is loaded is not copied, so whoever has it may change it.
        self._states = []

    @torch._disable_dynamo  # pyright: ignore
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` has returned, here or in the class of torch's.

        As in `torch.optim.Optimizer.load_state_dict`, but parameters that have names on both sides
        are told by those, and each state keeps the type it was saved in.

        Raises:
            UsageError: a parameter has no counterpart.
        """
        saved = state_dict.copy()
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = hook(self, saved)
            saved = saved if replaced is None else replaced
        groups, state = checkpoints.restored(saved, self.param_groups)
        kept = defaultdict[Any, dict[str, Any]](dict)
        kept.update(state)
        self.__setstate__({"state": kept, "param_groups": groups})
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            UsageError: a setting of the group is out of range, or is one of the whole optimizer.
        """
        # What is no group is for torch to refuse.
        if isinstance(param_group, dict) and "params" in param_group:  # pyright: ignore
            if "convention" in param_group:
                raise UsageError(
                    f"a group has the convention {param_group['convention']!r}, but one convention "
                    "holds for a whole optimizer: make an optimizer for each."
                )
            param_group = scheduling.opened(param_group, self.defaults)
            self._compile({**self.defaults, **param_group})
        if "torch._dynamo" in sys.modules:
            super().add_param_group(param_group)
        else:
            # torch keeps its compiler away from this, for which it would have to be imported, and
            # that takes as long as the rest of torch.
            kept_away = torch.optim.Optimizer.add_param_group
            getattr(kept_away, "__wrapped__", kept_away)(self, param_group)

    def _compile(self, group: Group) -> Compiled:
        """The group's program and the numbers of its hyperparameters, as they are now."""
        values = [*group.values()]
        values[[*group].index("params")] = None
        known = self._compiled.get(id(group))
        try:
            # A learning rate that is a tensor may have been changed in place, betas in a list too.
            changed = known is None or known.changing or known.values != values
        except (RuntimeError, ValueError):
            # What is no number need not be comparable with one.
            changed = True
        if known is None or changed:
            rule = self._rule_of(group)
            settings = self._settings_of(group, rule)
            known = compiled(group, values, rule, settings)
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
        if torch.compiler.is_compiling():
            return compilable.step(self, closure)
        return self.step_plainly(closure)

    def step_plainly(self, closure: Callable[[], Any] | None) -> Any:
        """`step`, without a compiler."""
        self._follow_schedules()
        # In most steps nothing has changed but the gradients, and then each call that looks takes
        # longer than what it looks at.
        compiled = self._all_compiled()
        loss = None
        if True in [c.program.at is not None for c in compiled]:
            loss = self._loss_at_gradient_points(compiled, closure)
        elif closure is not None:
            if torch.is_grad_enabled():
                loss = closure()
            else:
                with torch.enable_grad():
                    loss = closure()
        if closure is not None:
            # It may have changed settings, or added groups.
            compiled = self._all_compiled()
        self._take(compiled)
        return loss

    def _all_compiled(self) -> list[Compiled]:
        found: list[Compiled] = []
        for group in self.param_groups:
            found.append(self._compile(group))
        return found

    # For a scheduler of torch's, which else puts a function around `step` that cannot be compiled.
    step._wrapped_by_lr_sched = True  # pyright: ignore

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; see `torch.optim.Optimizer.zero_grad`."""
        if torch.compiler.is_compiling() and set_to_none:
            # torch's own is not compiled.
            for p in compilable.parameters(self):
                p.grad = None
        else:
            super().zero_grad(set_to_none)

    def take(self) -> None:
        """Take a step along the gradients that are there."""
        self._follow_schedules()
        self._take(self._all_compiled())

    def _take(self, compiled: list[Compiled]) -> None:
        # What torch's schedulers look for, to tell whether a step comes before theirs.
        self._opt_called = True
        if self._scaled_too_far():
            return
        if len(self._compiled) != len(compiled):
            self._forget_others()
        # All that can be wrong is found before anything is changed.
        if not self._same_states():
            self._gathering.clear()
            self._states = [*self.__dict__["state"].values()]
        if len(compiled) == 1 and self._again(self.param_groups[0], compiled[0]):
            return
        first = 0
        gathered: list[tuple[int, Sequence[Batch]]] = []
        for group, c in zip(self.param_groups, compiled, strict=True):
            gathered.append((first, [] if c.followed else self._batches(group, c, first)))
            first += len(group["params"])
        # Only what has been seen to be there can be read for its norm.
        given = self._given() if True in [c.needs_norm for c in compiled] else None
        ready: list[Callable[[], None]] = []
        for group, c, (first, batches) in zip(self.param_groups, compiled, gathered, strict=True):
            numbers = {**c.numbers, **given} if given else c.numbers
            if c.followed:
                numbers = {**numbers, **self._tensors_of(group)}
                keys, name = self._keys_of(c.program), self._namer(group)
                held = self.__dict__["state"]
                ready.append(Following(c, group, keys, held, numbers, first, name))
            else:
                ready += [batch.ready(numbers) for batch in batches]
        for step in ready:
            step()
        for group in self.param_groups:
            if "schedules" in group:
                group["steps"] += 1

    def _again(self, group: Group, c: Compiled) -> bool:
        """Take the step of a group that is the only one, if it is as it was in the last."""
        known = self._gathering.get(id(group))
        if (
            known is None
            or known.program is not c.program
            or known.backend != self.backend
            or known.first_stream
            or c.followed
            or c.needs_norm
            or not known.again(group["params"], c.numbers)
        ):
            return False
        if "schedules" in group:
            group["steps"] += 1
        return True

    def _follow_schedules(self) -> None:
        for group in self.param_groups:
            if "schedules" in group:
                scheduling.follow(group)
                try:
                    self._compile(group)
                except UsageError as error:
                    raise UsageError(f"at step {group['steps']}: {error}") from None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; see `torch.optim.Optimizer.state_dict`.

        Schedules are not in it: the count of steps says it all.
        """
        packed = super().state_dict()
        for group in packed["param_groups"]:
            group.pop("schedules", None)
        return packed

    def _forget_others(self) -> None:
        """Let go of groups that are no longer there, and of their parameters."""
        there = {id(group) for group in self.param_groups}
        for kept in (self._compiled, self._gathering, self._ran):
            for gone in kept.keys() - there:
                del kept[gone]

    def _scaled_too_far(self) -> bool:
        """Divide the gradients by the scale of a `torch.amp.GradScaler`, if it leaves that to us.

        Returns:
            Whether there is nothing to be done, as the scale was too large for a gradient's type.
            The scaler has found that on the host, where the step would be started.
        """
        held = self.__dict__
        if "found_inf" not in held and "grad_scale" not in held:
            return False
        if held.get("found_inf") is not None and bool(held["found_inf"]):
            return True
        if held.get("grad_scale") is not None:
            with torch.no_grad():
                for g in self._grads():
                    g.mul_(held["grad_scale"].double().reciprocal().float())
        return False

    def _grads(self) -> list[Tensor]:
        params = [p for group in self.param_groups for p in group["params"]]
        return [p.grad for p in params if p.grad is not None]

    def _given(self) -> dict[str, float]:
        """The numbers of this step that are no settings: the norm of all gradients."""
        norms: list[float] = []
        for g in self._grads():
            x = g.coalesce().values() if g.is_sparse else g
            half = x.dtype in (torch.bfloat16, torch.float16)
            dtype = torch.float32 if half else None
            norm: Any = torch.linalg.vector_norm(x, dtype=dtype)  # pyright: ignore
            # That of a distributed gradient is in parts.
            whole = getattr(norm, "full_tensor", None)  # pyright: ignore
            norms.append(float(norm if whole is None else whole()))  # pyright: ignore
        total = math.hypot(*norms)
        if math.isnan(total):
            raise UsageError(
                "the norm of all gradients is nan, by which none of them can be scaled: look for "
                "the first loss that is not finite, or leave the stage out that clips by the norm."
            )
        return {"norm": total}

    @torch.no_grad()
    def _loss_at_gradient_points(
        self, compiled: list[Compiled], closure: Callable[[], Any] | None
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

    def _batches(self, group: Group, c: Compiled, first_stream: int) -> list[Batch]:
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
            self._gathering[id(group)] = self._ran[id(group)] = known
            if self._states is not None:
                self._states = [*self.__dict__["state"].values()]
        return known.batches

    def _namer(self, group: Group) -> Callable[[int], str]:
        """What an error calls the group's parameter of an index."""
        place = next(i for i, other in enumerate(self.param_groups) if other is group)
        names: Sequence[str] = group.get("param_names") or ()

        def name(i: int) -> str:
            shape = tuple(group["params"][i].shape)
            which = repr(names[i]) if i < len(names) else f"{i} of group {place}"
            return f"parameter {which} of shape {shape}"

        return name

    def _gathered(
        self, group: Group, c: Compiled, included: list[bool], *, with_gradients: bool
    ) -> Gathering:
        place = next(i for i, other in enumerate(self.param_groups) if other is group)
        stream = sum(len(other["params"]) for other in self.param_groups[:place])
        return Gathering(
            c.program,
            group["params"],
            included,
            c.numbers,
            self.__dict__["state"],
            self._keys_of(c.program),
            stream,
            checked(self.backend),
            c.sparse if with_gradients else None,
            self._namer(group),
            with_gradients=with_gradients,
        )


def number_of(value: Any) -> Any:
    """The value, as a number if it is a tensor of one; others show where they are checked."""
    try:
        return float(value.detach()) if isinstance(value, Tensor) else value
    except (TypeError, ValueError, RuntimeError):
        return value
