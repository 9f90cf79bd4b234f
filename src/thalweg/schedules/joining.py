"""Schedules one after the other."""

from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import Any, NoReturn

from thalweg.errors import UsageError
from thalweg.schedules.arguments import STEPS, Boundaries, Ending, Part, Run, Value
from thalweg.schedules.curves import along, cosine
from thalweg.schedules.schedule import SCHEDULES, Form, Schedule, schedule

__all__ = ["Joined", "Warmup", "join", "warmup"]


class Warmup(Schedule):
    """A rise to the first value of the schedule that it is joined before: made by `warmup`."""

    def over(self, steps: int) -> Schedule:
        return self if not self.open else self._alone()

    def __call__(self, step: int) -> float:
        return super().__call__(step) if not self.open else self._alone()

    def _alone(self) -> NoReturn:
        raise UsageError(
            f"{self!r} leads to the schedule after it, but has none: join it before one, as in "
            "join(warmup(500), cosine(1e-3)), or say its end."
        )

    def _span(self, form: Form[...]) -> tuple[bool, int | None, int | None]:
        arguments = dict(self.arguments)
        return arguments["end"] is None, arguments["steps"], arguments["steps"]


@schedule(
    source="Goyal et al. 2017, arXiv:1706.02677, section 2.2",
    example={"steps": 50, "end": 1.0},
    ends=True,
    type=Warmup,
)
def warmup(step: int, steps: Run, start: Value = 0.0, end: Ending = None) -> float:
    """In a straight line from start to where the schedule joined after it begins."""
    assert end is not None
    return along(start, end, step, steps)


class Joined(Schedule):
    """Schedules one after the other: made by `join`."""

    def __post_init__(self) -> None:
        given = dict(self.arguments)
        if not given["parts"]:
            raise UsageError("join got no schedules, but needs at least 1.")
        parts, at = _settled(given["parts"], given["at"])
        object.__setattr__(self, "arguments", (("parts", parts), ("at", at)))
        super().__post_init__()

    def over(self, steps: int) -> Schedule:
        form = SCHEDULES[self.name]
        steps = form.taken("steps", steps, STEPS)
        if not self.open:
            return self
        given = dict(self.arguments)
        parts: list[Any] = list(given["parts"])
        at: tuple[int, ...] = given["at"]
        # Where each part's begin is known, only the last can be open.
        sharing = [i for i, part in enumerate(parts) if _length(part) is None]
        sharing = sharing[-1:] if at else sharing
        taken = at[-1] if at else sum(_length(part) or 0 for part in parts)
        if steps - taken < len(sharing):
            raise UsageError(
                f"steps is {steps}, but the parts of {self!r} that have a length take {taken} of "
                f"them and leave nothing for {parts[sharing[0]]!r}: give more steps, or shorter "
                "parts."
            )
        each, over = divmod(steps - taken, len(sharing))
        for i in sharing:
            parts[i] = parts[i].over(each + (over if i == sharing[-1] else 0))
        return form.made({"parts": tuple(parts), "at": at})

    def _span(self, form: Form[...]) -> tuple[bool, int | None, int | None]:
        given = dict(self.arguments)
        parts, at = given["parts"], given["at"]
        if any(isinstance(part, Schedule) and part.open for part in parts):
            return True, None, None
        begin, length = at[-1] if at else 0, _length(parts[-1])
        steps = parts[-1].steps if isinstance(parts[-1], Schedule) else None
        return (
            False,
            None if length is None else begin + length,
            None if steps is None else begin + steps,
        )


def _length(part: Any) -> int | None:
    return part.length if isinstance(part, Schedule) else None


def _settled(
    parts: tuple[Any, ...], at: tuple[int, ...]
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """The parts as they are joined, and where each but the first begins, if that is known."""
    found = list(parts)
    if at:
        if len(at) != len(parts) - 1:
            raise UsageError(
                f"at is {list(at)}, but {len(parts)} schedules are joined at {len(parts) - 1} "
                "steps: give the step at which each but the first begins."
            )
        for i, (begin, end) in enumerate(pairwise((0, *at))):
            if isinstance(found[i], Schedule):
                found[i] = _between(found[i], begin, end)
    else:
        for i, part in enumerate(parts[:-1]):
            if _length(part) is None and not (isinstance(part, Schedule) and part.open):
                raise UsageError(
                    f"at is left out, but {part!r} has no end: say at which step the next part "
                    f"begins, as in join(..., at=[{100 * (i + 1)}])."
                )
        lengths = [_length(part) for part in parts[:-1]]
        known = [n for n in lengths if n is not None]
        if len(known) == len(lengths):
            at = tuple(accumulate(known))
        elif _length(parts[-1]) is None and not (
            isinstance(parts[-1], Schedule) and parts[-1].open
        ):
            raise UsageError(
                f"{parts[lengths.index(None)]!r} has no length, and {parts[-1]!r} after it has no "
                "end, so where one ends cannot be told: give steps, or at."
            )
    if isinstance(found[-1], Warmup):
        found[-1].over(1)
    # From the last, since what is before a warm-up may be one too.
    for i in reversed(range(len(found) - 1)):
        part, after = found[i], found[i + 1]
        waiting = isinstance(part, Warmup) and part.open
        if waiting and not (isinstance(after, Schedule) and after.open):
            found[i] = SCHEDULES[part.name].made({**dict(part.arguments), "end": after(0)})
    return tuple(found), at


def _between(part: Schedule, begin: int, end: int) -> Schedule:
    """The part as it is between two steps of the whole, which it must fill and not overrun."""
    if part.open and part.length is None:
        return part.over(end - begin)
    found = f"at has the next part begin at step {end}, but {part!r}, which begins at step {begin},"
    if part.length is not None and begin + part.length > end:
        raise UsageError(
            f"{found} takes {part.length} steps, so that both overlap at step {end}: let the next "
            f"begin at step {begin + part.length}, or give this one {end - begin} steps."
        )
    if part.steps is not None and begin + part.steps < end:
        raise UsageError(
            f"{found} covers {part.steps} steps, so that there is a gap at step "
            f"{begin + part.steps}: let the next begin there, or give this one {end - begin} steps."
        )
    return part


@schedule(
    source="torch, SequentialLR",
    example={"parts": (warmup(20), cosine(1.0))},
    type=Joined,
)
def join(step: int, *parts: Part, at: Boundaries = ()) -> float:
    """Schedules one after the other, each from its own step 0.

    at: the steps at which the second and each later part begins. It may be left out where parts
    know their lengths; parts whose length is open share what the others leave of the run.
    """
    i = bisect_right(at, step)
    return parts[i](step - at[i - 1] if i else step)
