"""The stars that a textbook gives to optimizers."""

from thalweg.lab.contestant import Contestant
from thalweg.rules.spelling import links_of

__all__ = ["BOOK", "book"]

BOOK = {
    "sgd": (1, 3, 3),
    "momentum": (2, 3, 3),
    "nag": (2, 3, 3),
    "adagrad": (3, 1, 1),
    "rmsprop": (3, 2, 3),
    "adam": (3, 2, 3),
    "adamax": (3, 2, 3),
    "nadam": (3, 2, 3),
    "adamw": (3, 2, 3),
}
"""Stars for convergence speed, and the fewest and the most for quality, by the rule's name.

Géron 2022, "Hands-On Machine Learning with Scikit-Learn, Keras, and TensorFlow", 3rd edition,
table 11-2. Adagrad's one star for quality comes with the note that it stops too early.
"""


def book(contestant: Contestant) -> tuple[int, int, int] | None:
    """What the textbook gives to a contestant's rule; None if it has none, as for a chain."""
    links = links_of(contestant.rule or "")
    return BOOK.get(links[0].split(":")[0]) if len(links) == 1 else None
