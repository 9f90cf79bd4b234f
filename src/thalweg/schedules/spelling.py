"""Schedules as they are written in one word: `one-cycle:lr=3e-3`, `warmup:steps=500+cosine`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from thalweg.errors import UsageError, unknown
from thalweg.schedules.schedule import SCHEDULES, Form, Schedule

__all__ = ["example", "names", "parsed"]


def parsed(text: str, value: float | None = None) -> Schedule:
    """The schedule that `text` names.

    A name may be followed by settings, `name:setting=value,setting=value`, and schedules that are
    joined stand with `+` between them; `join:at=30/60+` before them says where each begins. In
    names, - is as good as _. A value may be a fraction (1/10).

    Args:
        value: what a schedule starts from, or peaks at, where the text does not say it.

    Raises:
        UsageError: a schedule or setting that is not known, a missing setting, or a value that is
            not allowed.
    """

    def rest(form: Form[...], given: Mapping[str, Any]) -> Mapping[str, Any]:
        first = next(iter(form.parameters.values()))
        needed = form.length != first.name and first.default is first.empty
        return {first.name: value} if needed and value is not None else {}

    return _joined(text, rest)


def example(text: str) -> Schedule:
    """Like `parsed`, with what the text leaves out taken from the kind's example."""

    def rest(form: Form[...], given: Mapping[str, Any]) -> Mapping[str, Any]:
        needed = (n for n, p in form.parameters.items() if p.default is p.empty)
        return {n: form.example[n] for n in needed if n in form.example} if given else form.example

    return _joined(text, rest)


def names(text: str) -> bool:
    """Whether the first name in `text` is a schedule's."""
    return _name(re.split("[:+]", text)[0]) in SCHEDULES


def _joined(
    text: str, rest: Callable[[Form[...], Mapping[str, Any]], Mapping[str, Any]]
) -> Schedule:
    # The + of 1e+3 joins nothing.
    links = [_link(part) for part in re.split(r"\+(?!\d)", text)]
    whole: Mapping[str, Any] = {}
    if len(links) > 1 and links[0][0].name == "join":
        whole, links = links[0][1], links[1:]
    parts = [form.of({**rest(form, given), **given}) for form, given in links]
    return parts[0] if len(parts) == 1 else SCHEDULES["join"].of({"parts": tuple(parts), **whole})


def _name(text: str) -> str:
    return text.strip().lower().replace("-", "_")


def _link(text: str) -> tuple[Form[...], dict[str, Any]]:
    """The kind that one part names, and the settings it gives."""
    name, _, settings = text.partition(":")
    if _name(name) not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    form = SCHEDULES[_name(name)]
    given: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r} in {text!r} must be written as setting=value.")
        key = _name(key)
        given[key] = [_value(v) for v in value.split("/")] if key == "at" else _value(value)
    return form, given


def _value(text: str) -> Any:
    """A whole number, number, fraction, truth or word."""
    text = text.strip()
    for read in (int, float, _fraction):
        try:
            return read(text)
        except (ValueError, ZeroDivisionError):
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _fraction(text: str) -> float:
    above, slash, below = text.partition("/")
    if not slash:
        raise ValueError
    return float(above) / float(below)
