"""Code to paste: an optimizer as a comparison ran it, with its settings."""

from thalweg.lab.plan import Order
from thalweg.rules import OPTIMIZERS, STAGES
from thalweg.rules.declaration import Setting
from thalweg.schedules.cycles import momentum_of
from thalweg.schedules.spelling import parsed

__all__ = ["recipe", "rounded"]

_WIDTH = 88
_MOMENTA = ("momentum", "gamma", "beta", "beta1")


def recipe(order: Order) -> str:
    """Python that makes the optimizer of an order for a `model`.

    Numbers are rounded to four digits. A rule of one's own is called
    by its name and must be there already; so must `batches`, the training data, where a schedule
    needs to know how many steps there are.

    Args:
        order: what was run, from `Plan.order`.
    """
    rule = order.rule
    given: dict[str, Setting] = dict(rule.given)
    if "lr" in rule.hypers:
        given = {"lr": rule.settings(order.convention).hypers["lr"], **given}
    words = {name: repr(rounded(value)) for name, value in given.items()}
    # The seed of the noise is the run's.
    words = {n: text for n, text in words.items() if not n.endswith("seed")}
    lines: list[str] = []
    if order.schedule not in (None, "constant"):
        lines.append(f"steps = {order.epochs} * len(batches)")
        words |= _scheduled(order, words)
    if rule.name in OPTIMIZERS and not rule.flags.keys() & given.keys():
        maker, first = f"thalweg.{rule.title}", ["model.parameters()"]
    else:
        names = [_named(link.name) for link in rule.links]
        if rule.name in OPTIMIZERS:
            names = [_named(rule.name)]
        own = names[0] if len(names) == 1 else f"thalweg.chain({', '.join(names)})"
        maker, first = "thalweg.Optimizer", ["model.parameters()", own]
    arguments = [*first, *(f"{name}={text}" for name, text in words.items())]
    if order.convention != "torch":
        arguments.append(f'convention="{order.convention}"')
    return "\n".join(["import thalweg", "", *lines, _call(f"optimizer = {maker}", arguments)])


def _named(name: str) -> str:
    return f"thalweg.{name}" if name in OPTIMIZERS or name in STAGES else name


def _scheduled(order: Order, words: dict[str, str]) -> dict[str, str]:
    text = str(order.schedule)
    rule = order.rule
    lr = f'thalweg.schedules.spelling.parsed("{text}", {words["lr"]}).over(steps)'
    against = momentum_of(parsed(text, float(words["lr"])))
    own = next((name for name in _MOMENTA if name in rule.hypers), None)
    if against is None or own is None or {*_MOMENTA} & {*rule.given}:
        return {"lr": lr}
    values = ", ".join(f"{n}={v!r}" for n, v in against.arguments if v is not None)
    return {"lr": lr, own: f"thalweg.schedules.{against.name}({values}).over(steps)"}


def _call(function: str, arguments: list[str]) -> str:
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{function}(", *(f"    {a}," for a in arguments), ")"])


def rounded(value: Setting) -> Setting:
    """A setting to four digits: those of its distance from 1 where it is just below."""
    if isinstance(value, tuple):
        return tuple(map(_rounded, value))
    return value if isinstance(value, bool | str) else _rounded(value)


def _rounded(value: float) -> float:
    if not 0.5 < value < 1:
        return float(f"{value:.4g}")
    # 1 - 0.01 is not quite 0.99.
    return float(f"{1 - float(f'{1 - value:.4g}'):.12g}")
