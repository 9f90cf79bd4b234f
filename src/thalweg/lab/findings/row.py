"""What one optimizer came to on one task."""

from collections.abc import Mapping
from dataclasses import dataclass

from thalweg.rules.declaration import Setting

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """A row of the final table. The judged metric is on the test data, where the task has some.

    A trial is a tuning run, on one seed; a judging run is one of the chosen trial on a fresh seed.
    None stands for what there is no run to tell from.

    Attributes:
        optimizer: as it was written in the plan.
        trial: which configuration was chosen.
        settings: every value of it.
        searched: those of them that were searched for.
        edges: the searched settings whose value is so near to an end of their range that a better
            one may lie beyond it; none of the defaults.
        trials: how many trials have ended; 0 where there was nothing to choose from.
        trials_finished: how many of them finished.
        finished: how many judging runs finished.
        ended: how many have ended.
        planned: how many there are to be.
        metric: mean of the judged metric over the judging runs that finished.
        spread: its standard deviation; None for fewer than two.
        validation: mean of the final metric on the validation data over the same runs.
        train_loss: mean of the last epoch's training loss, likewise.
        difference: how much worse the judged metric is than the leader's: mean over the seeds that
            both finished, in the metric's unit; 0 for the leader, below 0 for one that did better
            on these seeds.
        low: lower end of its interval, which is `thalweg.lab.stats.Contest.low`, or, for one that
            scatters ten times as widely as is usual, that of its own paired t test, corrected for
            all pairs (Bonferroni); None for fewer than three such seeds.
        high: upper end, likewise.
        ties: whether it cannot be told apart from the leader, for which this is true; not if that
            is so because it scatters ten times as widely as is usual, though `low` is below 0 then.
        seeds_needed: about how many more seeds would show that difference; None unless it ties, and
            if they are too many to count.
        steps_to_target: steps until the target was reached on the validation data, the median over
            the judging runs; None if half of them or more did not reach it.
        epochs_to_target: the same in epochs.
        seconds_to_target: the same in seconds of training.
        seconds_per_step: median over the epochs of all runs.
        state_bytes: what the optimizer keeps between steps, in bytes per parameter.
        memory: the most memory a process had taken by the end of one of its runs, in bytes.
        default_gap: how much worse the first trial, the documented defaults, is than the best one,
            on the validation data, in the metric's unit.
        learning_rates: the lowest and the highest learning rate of the trials whose metric is
            within 1% of the best.
        lr_width: from the one to the other in decades.
        speed_stars: 1 to 3, by `thalweg.lab.stats.stars`.
        quality_stars: likewise.
        book: the textbook's stars: of speed, and the fewest and the most of quality.
        problem: why runs did not finish, if some did not; empty if only trials did not, unless
            none of those finished.
    """

    optimizer: str
    trial: int | None
    settings: Mapping[str, Setting]
    searched: Mapping[str, Setting]
    edges: tuple[str, ...]
    trials: int
    trials_finished: int
    finished: int
    ended: int
    planned: int
    metric: float | None
    spread: float | None
    validation: float | None
    train_loss: float | None
    difference: float | None
    low: float | None
    high: float | None
    ties: bool
    seeds_needed: int | None
    steps_to_target: float | None
    epochs_to_target: float | None
    seconds_to_target: float | None
    seconds_per_step: float | None
    state_bytes: float | None
    memory: int | None
    default_gap: float | None
    learning_rates: tuple[float, float] | None
    lr_width: float | None
    speed_stars: int | None
    quality_stars: int | None
    book: tuple[int, int, int] | None
    problem: str
