"""What a run tells while it goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Progress", "Record"]


@dataclass(frozen=True)
class Record:
    """What a run has come to at one evaluation.

    Attributes:
        epoch: passes over the training data since the start; whole at the end of one.
        steps: steps of the optimizer since the start.
        train_loss: mean over the samples since the last record, each taken when it was trained on.
        validation_loss: of the model as it is now, or of its averaged weights where those are kept.
        metric: the task's metric on the validation data, likewise.
        seconds: spent on training since the start; evaluation is not in it.
        phase: which phase the last step belongs to, from 0.
        settings: the optimizer's settings in the last step (`lr`, `momentum`, ...), of its last
            parameter group.
        test: the metric on the test data; in the last record only, where it is asked for.
        test_tta: likewise, with test-time augmentation.
        skipped: steps left out since the start because of numbers that are not finite.
    """

    epoch: float
    steps: int
    train_loss: float
    validation_loss: float
    metric: float
    seconds: float
    phase: int = 0
    settings: Mapping[str, float] = field(default_factory=dict[str, float], compare=False)
    test: float | None = None
    test_tta: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is, for whoever watches it.

    Attributes:
        steps: steps of the optimizer since the start.
        total: steps of the whole run.
        epoch: passes over the training data since the start.
        epochs: passes of the whole run.
        loss: of the last batch.
        samples: trained on since the start, or since the run was resumed.
        seconds: which that took.
        settings: as in `Record`.
    """

    steps: int
    total: int
    epoch: float
    epochs: float
    loss: float
    samples: int
    seconds: float
    settings: Mapping[str, float] = field(default_factory=dict[str, float], compare=False)
