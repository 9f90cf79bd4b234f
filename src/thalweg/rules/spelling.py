"""Rules as they are written in one word: `adam`, `sgd:lr=0.1`, `l2:weight_decay=1e-4+adam`."""

import re

from thalweg import rules
from thalweg.errors import UsageError, unknown
from thalweg.rules.declaration import Hyper
from thalweg.rules.rule import Rule, Setting, chain

__all__ = ["links_of", "parsed", "spelled"]


def parsed(text: str) -> Rule:
    """The rule that `text` names.

    Links are joined by `+` in the order in which they act, and each may be followed by settings:
    `name:setting=value:setting=value`. The values of a tuple are separated by `/`.

    Raises:
        UsageError: a rule or setting that is not known, or a value out of range.
    """
    links = [_link(part) for part in links_of(text)]
    if all(link.is_stage for link in links):
        raise UsageError(
            f"{text!r} has no optimizer, only what stands beside one: put one behind it, as in "
            "'l2+sgd', or in front, as in 'adam+decay'."
        )
    return links[0] if len(links) == 1 else chain(*links)


def links_of(text: str) -> list[str]:
    """The words of each link in a chain's, in which the + of 1e+3 joins nothing."""
    return [part.strip() for part in re.split(r"\+(?!\d)", text)]


def spelled(rule: Rule) -> str | None:
    """The words that `parsed` reads as this rule; None if there are none: it is one's own."""
    known = rules.OPTIMIZERS | rules.STAGES
    names = [rule.name] if rule.name in known else [link.name for link in rule.links]
    if not all(name in known for name in names):
        return None
    plain = parsed("+".join(names))
    given = dict(rule.given)
    parts: list[str] = []
    for name, own in zip(names, plain.qualified if len(names) > 1 else [None], strict=True):
        whole = own or {n: n for n in (*plain.hypers, *plain.flags)}
        some = (f":{n}={_spelled(given[q])}" for n, q in whole.items() if q in given)
        parts.append("".join((name, *some)))
    text = "+".join(parts)
    again = parsed(text)
    same = (rule.links, rule.given, rule.conventions) == (
        again.links,
        again.given,
        again.conventions,
    )
    return text if same else None


def _spelled(value: Setting) -> str:
    if isinstance(value, tuple):
        return "/".join(map(repr, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _link(text: str) -> Rule:
    name, *settings = text.strip().split(":")
    known = rules.OPTIMIZERS | rules.STAGES
    if name not in known:
        raise unknown("optimizer", name, known)
    rule = known[name]
    given: dict[str, Setting] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r} in {text!r} must be written as setting=value.")
        declared = rule.hypers.get(key) or rule.flags.get(key)
        if declared is None:
            raise unknown(f"setting of {name}", key, (*rule.hypers, *rule.flags))
        given[key] = _value(value, declared.default, isinstance(declared, Hyper))
    return rule(**given)


def _value(text: str, default: Setting, is_number: bool) -> Setting:
    if isinstance(default, tuple):
        return tuple(_number(v) for v in text.split("/"))  # pyright: ignore
    if is_number:
        return _number(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
