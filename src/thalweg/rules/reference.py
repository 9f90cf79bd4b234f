"""What the vocabulary means, in NumPy: the reference that every backend is held against.

It evaluates a rule's graph as it was written, without any of the rewriting that makes the backends
fast.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from thalweg.errors import UsageError
from thalweg.rules import philox
from thalweg.rules.declaration import State
from thalweg.rules.rule import Rule, Settings
from thalweg.rules.vocabulary import Expr, walk

__all__ = ["MEANING", "evaluate", "inputs", "step"]

MEANING: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "gt": np.greater,
    "sqrt": np.sqrt,
    "sign": np.sign,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "where": np.where,
}


def evaluate(
    outputs: Mapping[str, Expr], values: Mapping[str, Any], *, stream: int = 0
) -> dict[str, Any]:
    """The outputs' values, given each symbol's.

    Args:
        outputs: the graphs to evaluate, by name.
        values: arrays and numbers by the symbols' names; `"g"` gives noise its shape.
        stream: the parameter's position among all, which tells noise streams apart.
    """
    known: dict[Expr, Any] = {}
    for expr in walk(*outputs.values()):
        match expr.op:
            case "const":
                known[expr] = expr.args[0]
            case "symbol":
                known[expr] = values[expr.name]
            case "normal":
                g = np.asarray(values["g"])
                seed, t = (int(known[a]) for a in expr.operands)
                index = np.arange(g.size, dtype=np.int64)
                draws = philox.normal(np, index, seed=seed, t=t, stream=stream)
                known[expr] = draws.reshape(g.shape).astype(g.dtype)
            case _:
                value = MEANING[expr.op](*(known[a] for a in expr.operands))
                # A Python number leaves the arrays it meets their dtype, NumPy's float64 does not.
                known[expr] = value if expr.element else value.item()
    return {name: known[expr] for name, expr in outputs.items()}


def inputs(settings: Settings) -> dict[str, float]:
    """The numbers of the hyperparameters' symbols; a tuple's are numbered from 1."""
    values: dict[str, float] = {}
    for name, value in settings.hypers.items():
        if isinstance(value, tuple):
            values |= {f"{name}_{i + 1}": v for i, v in enumerate(value)}
        else:
            values[name] = value
    return values


def step(rule: Rule, params: Any, grads: Any, state: Any, settings: Settings) -> tuple[Any, Any]:
    """Take one step of a rule on NumPy arrays; nothing that is passed in is changed.

    Args:
        rule: the rule or chain.
        params: an array, or a dict of arrays by name. Arrays of floating point keep their dtype
            (float64 makes this the reference); whole numbers become float64.
        grads: gradients in the form of `params`; or a function from `params` to them, which a rule
            that takes the gradient elsewhere (`nag` with `lookahead=True`) needs.
        state: what the step before returned; None at first.
        settings: the hyperparameters and flags.

    Returns:
        The new parameters and the new state: `{"t": steps taken, name: value for each state}`, the
        values in the form of `params`.

    Raises:
        UsageError: shapes or names differ between parameters and gradients, or a function is
            needed and `grads` is none.
    """
    if rule.is_stage:
        raise UsageError(
            f"{rule.name} is a stage and takes no step by itself: put it beside a rule, as in "
            f"chain({rule.name}, sgd)."
        )
    if not isinstance(params, Mapping):

        def named_grads(p: Mapping[str, Any]) -> Any:
            return {"": grads(p[""])}

        new, state = step(
            rule,
            {"": params},
            named_grads if callable(grads) else {"": grads},
            None if state is None else _mapped(state, lambda v: {"": v}),
            settings,
        )
        return new[""], _mapped(state, lambda v: v[""])
    named = cast(Mapping[str, Any], params)
    arrays = {name: _floating(p) for name, p in named.items()}
    trace = rule.trace(settings)
    numbers = inputs(settings)
    old: dict[str, Any] = {"t": 0} | {
        s.name: {name: _initial(s, p, numbers) for name, p in arrays.items()}
        for s in trace.declared.values()
    }
    if state is not None:
        old = state
    numbers["t"] = old["t"] + 1
    held = {
        name: {"theta": p} | {s: old[s][name] for s in trace.declared} for name, p in arrays.items()
    }
    at = arrays
    if trace.gradient_at is not None:
        if not callable(grads):
            raise UsageError(
                f"{rule.name} takes the gradient away from the parameters: pass grads as a "
                "function that returns the gradients at the parameters it is given."
            )
        outputs = {"at": trace.gradient_at}
        at = {name: evaluate(outputs, values | numbers)["at"] for name, values in held.items()}
    if callable(grads):
        grads = grads(at)
    if set(grads) != set(arrays):
        raise UsageError(
            f"grads has the names {sorted(grads)}, but must have those of params, {sorted(arrays)}."
        )
    if any("norm" in traced.link.uses for traced in trace.links):
        squares = (np.sum(np.abs(np.asarray(g)).astype(np.float64) ** 2) for g in grads.values())
        numbers["norm"] = float(np.sqrt(sum(squares)))
    outputs = {"step": trace.step, **trace.states}
    new_params: dict[str, Any] = {}
    new_state: dict[str, Any] = {"t": int(numbers["t"])} | {s: {} for s in trace.states}
    for stream, (name, p) in enumerate(arrays.items()):
        g = np.asarray(grads[name], dtype=p.dtype)
        if g.shape != p.shape:
            raise UsageError(
                f"the gradient of {name or 'params'} has shape {g.shape}, but must have its "
                f"parameter's, {p.shape}."
            )
        new = evaluate(outputs, held[name] | numbers | {"g": g}, stream=stream)
        new_params[name] = p - new.pop("step")
        for s, value in new.items():
            new_state[s][name] = value
    return new_params, new_state


def _mapped(state: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: value if name == "t" else change(value) for name, value in state.items()}


def _floating(p: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(p)
    return array if np.issubdtype(array.dtype, np.inexact) else array.astype(np.float64)


def _initial(s: State, p: np.ndarray[Any, Any], numbers: Mapping[str, float]) -> Any:
    value = numbers[s.init] if isinstance(s.init, str) else s.init
    return value if s.scalar else np.full_like(p, value)
