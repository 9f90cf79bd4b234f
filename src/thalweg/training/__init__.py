"""Training: the loop, phases, what is kept of a run, and what is shown of it."""

from thalweg.training.loop import DivergenceError, train
from thalweg.training.records import Progress, Record

__all__ = ["DivergenceError", "Progress", "Record", "train"]
