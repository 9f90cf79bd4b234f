"""Training: the loop, phases, what is kept of a run, and what is shown of it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg.training.records import Progress, Record

if TYPE_CHECKING:
    from thalweg.training.interruption import Interrupted
    from thalweg.training.loop import train
    from thalweg.training.nonfinite import DivergenceError
    from thalweg.training.phases import Phase
    from thalweg.training.recipe import Recipe

__all__ = ["DivergenceError", "Interrupted", "Phase", "Progress", "Recipe", "Record", "train"]

# Imported when they are first used: torch alone takes more than a second.
_LATER = {
    "DivergenceError": "nonfinite",
    "Interrupted": "interruption",
    "Phase": "phases",
    "Recipe": "recipe",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
