"""Run a rule's program over many tensors: in one compiled pass where possible, else with torch."""

from thalweg.backends.binding import BACKENDS, Bound, checked, examine

__all__ = ["BACKENDS", "Bound", "checked", "examine"]
