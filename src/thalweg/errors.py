"""What a caller's mistake looks like, so that it is told apart from a bug of ours."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["UsageError", "unknown"]


class UsageError(ValueError):
    """The caller asked for something impossible.

    The message names the argument, the value it got, what is allowed and what to do next.
    The command line prints it and exits with status 2; it never shows a traceback for one.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for `name`, which is none of the `known`; it offers the nearest names."""
    names = sorted(known)
    by_lower = {n.lower(): n for n in names}
    near = [by_lower[n] for n in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}.")
