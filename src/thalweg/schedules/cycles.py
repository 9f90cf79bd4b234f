"""Schedules that rise and fall within one run, and the momentum that goes against them."""

from typing import Annotated, Any

from thalweg.errors import UsageError
from thalweg.schedules.arguments import Factor, Flag, Length, Positive, Share, Value, choice
from thalweg.schedules.curves import along, wave
from thalweg.schedules.schedule import SCHEDULES, Schedule, schedule

__all__ = [
    "momentum_of",
    "one_cycle",
    "one_cycle_lr",
    "one_cycle_lr_momentum",
    "one_cycle_momentum",
    "warmup_stable_decay",
]

_FASTAI = "Smith 2018, arXiv:1803.09820; fast.ai 0.7, use_clr_beta"
_TORCH = "Smith & Topin 2017, arXiv:1708.07120; torch, OneCycleLR"
Strategy = Annotated[str, choice("cos", "linear")]


@schedule(
    source="Hu et al. 2024, arXiv:2404.06395 (MiniCPM); decays of Hägele et al. 2024, "
    "arXiv:2405.18392",
    example={"peak": 1.0, "warmup_share": 0.1, "decay_share": 0.2},
    ends=True,
)
def warmup_stable_decay(
    step: int,
    peak: Value,
    end: Value = 0.0,
    steps: Length = None,
    warmup_share: Share = 0.02,
    decay_share: Share = 0.2,
    decay: Annotated[str, choice("linear", "sqrt")] = "linear",
) -> float:
    """Up from 0 to peak, peak, then down to end.

    The shares are of the steps, rounded down. `decay="sqrt"` goes down as 1 - sqrt(share).
    """
    assert steps is not None
    # 0.29 of 100 is 29, whatever the product of their nearest numbers is.
    rising, falling = (int(steps * share + 1e-9) for share in (warmup_share, decay_share))
    if rising + falling > steps:
        raise UsageError(
            f"warmup_share is {warmup_share} and decay_share is {decay_share}, but both together "
            "may be 1 at most: warmup_stable_decay has no time for more."
        )
    if step < rising:
        return along(0.0, peak, step, rising)
    if step < steps - falling:
        return peak
    done = (step - (steps - falling)) / falling
    return peak + (end - peak) * (done**0.5 if decay == "sqrt" else done)


@schedule(source=_FASTAI, example={"lr": 1.0}, ends=True)
def one_cycle(
    step: int,
    lr: Value,
    steps: Length = None,
    start: Factor = 1 / 10,
    end: Factor = 1 / 10,
    final: Factor = 1 / 1000,
    final_share: Share = 0.075,
) -> float:
    """Up, down and a final anneal, each in a straight line: fast.ai's 1cycle.

    start, end and final are factors of lr: where it begins, where it is after going down, and what
    the anneal over the last `final_share` of the steps leads to.
    """
    part, rest = _thirds("one_cycle", steps, final_share)
    if step < part:
        return lr * along(start, 1.0, step, part)
    if step < 2 * part:
        return lr * along(1.0, end, step - part, part)
    return lr * along(end, final, step - 2 * part, rest)


@schedule(source=_FASTAI, example={}, ends=True)
def one_cycle_momentum(
    step: int,
    high: Value = 0.95,
    low: Value = 0.85,
    steps: Length = None,
    final_share: Share = 0.075,
) -> float:
    """Against `one_cycle`: from high to low while the rate rises, back while it falls, then high.

    For momentum, or beta1. fast.ai's own momentum is one step ahead of its rate; here both are of
    the same step.
    """
    part, _ = _thirds("one_cycle_momentum", steps, final_share)
    if step < part:
        return along(high, low, step, part)
    return along(low, high, step - part, part)


def _thirds(name: str, steps: int | None, final_share: float) -> tuple[int, int]:
    """The steps of the way up, which are those of the way down, and of the anneal."""
    assert steps is not None
    part = int(steps * (1 - final_share) / 2)
    if part == 0:
        raise UsageError(
            f"steps is {steps}, but {name} needs enough for at least 1 up and 1 down beside its "
            f"final share of {final_share}: give it more."
        )
    return part, steps - 2 * part


@schedule(source=_TORCH, example={"max_lr": 1.0}, ends=True)
def one_cycle_lr(
    step: int,
    max_lr: Value,
    total_steps: Length = None,
    pct_start: Share = 0.3,
    anneal_strategy: Strategy = "cos",
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
    three_phase: Flag = False,
) -> float:
    """Up, then down to almost nothing along waves: torch's 1cycle, with torch's arguments.

    It begins at max_lr / div_factor and ends at that over final_div_factor, at the last step.
    With three_phase it goes down as slowly as up, and then on to its end.
    """
    start = max_lr / div_factor
    values = (start, max_lr, *((start,) if three_phase else ()), start / final_div_factor)
    return _through(values, step, total_steps, pct_start, anneal_strategy)


@schedule(source=_TORCH, example={}, ends=True)
def one_cycle_lr_momentum(
    step: int,
    base_momentum: Value = 0.85,
    max_momentum: Value = 0.95,
    total_steps: Length = None,
    pct_start: Share = 0.3,
    anneal_strategy: Strategy = "cos",
    three_phase: Flag = False,
) -> float:
    """Against `one_cycle_lr`: from max_momentum to base_momentum and back."""
    back = (max_momentum, max_momentum) if three_phase else (max_momentum,)
    values = (max_momentum, base_momentum, *back)
    return _through(values, step, total_steps, pct_start, anneal_strategy)


def _through(
    values: tuple[float, ...], step: int, steps: int | None, pct_start: float, strategy: str
) -> float:
    """The value on the way from one of the values to the next, at torch's fractional steps."""
    assert steps is not None
    between = [pct_start * steps - 1]
    if len(values) == 4:
        if pct_start > 0.5:
            raise UsageError(
                f"pct_start is {pct_start}, but with three_phase the ways up and down take that "
                "share each: 0.5 at most."
            )
        between.append(2 * pct_start * steps - 2)
    bounds = [0.0, *between, steps - 1.0]
    part = next((i for i, bound in enumerate(bounds[1:]) if step <= bound), len(values) - 2)
    first, last = bounds[part], bounds[part + 1]
    share = (step - first) / (last - first) if last != first else 1.0
    if strategy == "cos":
        return wave(values[part], values[part + 1], share, 1)
    return values[part] + (values[part + 1] - values[part]) * share


_AGAINST = {
    "one_cycle": ("one_cycle_momentum", ("steps", "final_share")),
    "one_cycle_lr": (
        "one_cycle_lr_momentum",
        ("total_steps", "pct_start", "anneal_strategy", "three_phase"),
    ),
}


def momentum_of(schedule: Schedule, **values: Any) -> Schedule | None:
    """The momentum that goes against a 1cycle of the learning rate; None for other schedules.

    Args:
        values: settings of the momentum, such as high and low.
    """
    if schedule.name not in _AGAINST:
        return None
    name, shared = _AGAINST[schedule.name]
    settings = dict(schedule.arguments)
    return SCHEDULES[name].of({**{n: settings[n] for n in shared}, **values})
