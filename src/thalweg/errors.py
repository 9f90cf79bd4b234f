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
    close = get_close_matches(name.lower(), {n.lower() for n in names}, n=3, cutoff=0.5)
    near = [n for match in close for n in names if n.lower() == match]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}.")
