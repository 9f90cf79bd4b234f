"""The statistics of a comparison: pure functions of numbers, which know nothing of studies.

Everywhere a larger value is a better one; the caller turns the sign of a loss.
"""

from thalweg.lab.stats.budget import BudgetCurve, budget_curve, expected_best
from thalweg.lab.stats.contest import Contest, compare
from thalweg.lab.stats.pairs import Difference, paired, seeds_needed
from thalweg.lab.stats.sensitivity import Width, learning_rate_width
from thalweg.lab.stats.speed import MedianTime, Profile, median_time, performance_profile
from thalweg.lab.stats.stars import Stars, stars

__all__ = [
    "BudgetCurve",
    "Contest",
    "Difference",
    "MedianTime",
    "Profile",
    "Stars",
    "Width",
    "budget_curve",
    "compare",
    "expected_best",
    "learning_rate_width",
    "median_time",
    "paired",
    "performance_profile",
    "seeds_needed",
    "stars",
]
