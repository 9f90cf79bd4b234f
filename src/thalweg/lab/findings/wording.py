"""Lists and numbers as they stand in a sentence."""

from collections.abc import Sequence

__all__ = ["MANY", "counted", "listed", "number", "short"]

MANY = 4


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def short(names: Sequence[str], every: Sequence[str] = (), more: str = "others") -> list[str]:
    """The names; where they are many, how many, or who of all is not among them.

    Args:
        names: at least one.
        every: all that could be among them.
        more: what they are called where they are counted.
    """
    if len(names) <= MANY:
        return list(names)
    rest = [n for n in every if n not in names]
    if every and len(rest) <= 2:
        return [f"all {more} but {listed(rest)}" if rest else f"all {len(names)} {more}"]
    return [f"{len(names)} {more}"]


def counted(count: int, what: str) -> str:
    """How many of a thing there are: `1 seed`, `3 seeds`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits."""
    return "nothing" if value is None else f"{value:.{digits}g}"
