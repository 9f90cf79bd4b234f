"""Pages that are one HTML file each and need neither a server nor a network."""

from thalweg.pages.document import render, write
from thalweg.pages.numbers import digits, duration, finite, setting

__all__ = ["digits", "duration", "finite", "render", "setting", "write"]
