"""What several commands take, read from the words that were typed."""

from collections.abc import Iterable
from typing import Literal

from thalweg.errors import UsageError

__all__ = ["read_batch_size", "read_names", "read_numbers"]


def read_batch_size(text: str | None) -> int | Literal["full"] | None:
    if text is None or text == "full":
        return text
    if not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"batch-size is {text!r}, but must be a whole number from 1, or 'full' for all "
            "training data in one step."
        )
    return int(text)


def read_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{name} is {text!r}, but must be whole numbers, separated by commas."
        ) from None


def read_names(text: str, all_of_them: Iterable[str]) -> tuple[str, ...]:
    names = all_of_them if text == "all" else (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(names))
