"""Training: the loop, phases, what is kept of a run, and what is shown of it."""

from thalweg.training.interruption import Interrupted
from thalweg.training.loop import train
from thalweg.training.nonfinite import DivergenceError
from thalweg.training.phases import Phase
from thalweg.training.recipe import Recipe
from thalweg.training.records import Progress, Record

__all__ = ["DivergenceError", "Interrupted", "Phase", "Progress", "Recipe", "Record", "train"]
