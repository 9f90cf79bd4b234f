"""A group of parameters as it was last looked at: its settings, and its rule made ready to run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

from thalweg.backends.program import Program, program
from thalweg.backends.sparse import untouched_stay
from thalweg.rules.reference import inputs
from thalweg.rules.rule import Rule, Settings
from thalweg.rules.tracing import Trace
from thalweg.rules.vocabulary import walk

__all__ = ["Compiled", "Group", "compiled"]

Group: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What steps a group, as long as its values stay as they are.

    Attributes:
        values: the group's values when it was compiled.
        changing: whether one of them may change in place.
        trace: the rule's graph.
        program: the same, as backends run it.
        numbers: the hyperparameters' numbers.
        followed: whether autograd is to follow the steps, or a device to capture them.
        needs_norm: whether a step depends on the norm of all gradients.
        sparse: what is done with a sparse gradient; see `Gathering`.
    """

    values: list[Any]
    changing: bool
    trace: Trace
    program: Program
    numbers: Mapping[str, float]
    followed: bool
    needs_norm: bool
    sparse: str | None


def compiled(group: Group, values: list[Any], rule: Rule, settings: Settings) -> Compiled:
    """The group's rule under its settings."""
    trace = rule.trace(settings)
    made = program(trace)
    on_host = all(p.is_cpu for p in group["params"]) if group.get("capturable") else True
    return Compiled(
        values,
        any(_is_mutable(v) for k, v in group.items() if k not in _LISTS),
        trace,
        made,
        inputs(settings),
        bool(group.get("differentiable")) or not on_host,
        "norm" in _symbols(trace),
        _sparsely(trace, made),
    )


_LISTS = ("params", "param_names", "schedules")


def _is_mutable(value: Any) -> bool:
    parts = cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,))
    return not all(part is None or isinstance(part, float | int | str) for part in parts)


@lru_cache(maxsize=1024)
def _symbols(trace: Trace) -> frozenset[str]:
    """The names of what the step depends on."""
    return frozenset(e.name for e in walk(trace.step) if e.op == "symbol")


_DENSE = {"sgd", "momentum", "nag"}
_LAZY = {"adam", "amsgrad"}


@lru_cache(maxsize=1024)
def _sparsely(trace: Trace, made: Program) -> str | None:
    """How a sparse gradient trains its parameter.

    Rows without a gradient stay as they are with SGD and Adagrad. Of Adam's averages only the
    touched rows are moved, as in `torch.optim.SparseAdam`, which has another epsilon; a velocity
    moves all rows, and so does torch's.
    """
    if untouched_stay(made):
        return "rows"
    names = {link.link.name for link in trace.links}
    if "theta" in _symbols(trace):
        return None
    return "rows" if names & _LAZY else "dense" if names & _DENSE else None
