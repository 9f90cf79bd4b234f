"""One training loop for batch, stochastic and mini-batch descent."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from inspect import signature
from itertools import chain
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from thalweg.errors import UsageError, unknown
from thalweg.tasks.evaluation import evaluate
from thalweg.tasks.task import Data, Task
from thalweg.training.gradients import Gradients
from thalweg.training.interruption import Interrupted, Signals, signals
from thalweg.training.keeper import Keeper
from thalweg.training.nonfinite import DivergenceError, NonfiniteError, amend, check_weights
from thalweg.training.phases import Phase
from thalweg.training.randomness import same_randomness
from thalweg.training.recipe import RECIPE, Recipe
from thalweg.training.records import Progress, Record
from thalweg.training.run import Run, usable

if TYPE_CHECKING:
    import torch

__all__ = ["train"]

# Seconds between two calls of `watch`.
_TOLD = 0.25


def train(
    task: Task,
    optimizer: "Callable[..., torch.optim.Optimizer]",
    phases: Iterable[Phase] | Phase | None = None,
    *,
    epochs: float | None = None,
    batch_size: int | Literal["full"] | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    data: Data | None = None,
    device: str | None = None,
    out: "str | PathLike[str] | None" = None,
    resume: bool = False,
    force: bool = False,
    save_every: float = 60.0,
    watch: Callable[[Progress], None] | None = None,
    about: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Generator[Record, None, None]:
    """Train a new model of the task and report at every evaluation.

    Args:
        task: what to train.
        optimizer: makes the optimizer of a model's parameters, such as a class of `thalweg`.
        phases: of the run, one after the other, or one; a phase of `epochs` unless given.
        epochs: passes over the training data; the task's own number unless given.
        batch_size: samples per step: all ("full", batch descent), 1 (stochastic) or some
            (mini-batch); the task's own number unless given.
        precision: as in `Recipe`; the task's own unless given.
        data: the task's data, where they are loaded already.
        device: what to train on, such as "cuda"; a GPU where there is one, unless given.
        out: a new folder, in which the run is kept: its records, and snapshots to go on from.
        resume: go on with the run that `out` holds, as if it had never been interrupted: its
            records come again, and then those that follow. Without a run there, start one.
        force: go on though the task, its code or data, or the settings differ; that is recorded.
        save_every: seconds between two snapshots.
        watch: is told how far the run is, four times a second at most.
        about: more entries for the folder's `run.json`.
        recipe: the other settings of `thalweg.training.Recipe`, such as `seed=1`, `ema=0.999`.

    Raises:
        DivergenceError: the loss, a gradient or the metric is NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM came; with `out`, a snapshot has been kept.
        UsageError: a setting is out of range, at whichever step; found before the first one.
    """
    if not isinstance(task, Task):  # pyright: ignore
        raise UsageError(
            f"task is {task!r}, but must be a thalweg.Task; thalweg.tasks.load finds one by name."
        )
    for name in recipe:
        if name not in RECIPE:
            raise unknown("argument of train", name, (*signature(train).parameters, *RECIPE))
    there = usable(device)
    data = data or task.data()
    size = task.batch_size if batch_size is None else batch_size
    if phases is not None and epochs is not None:
        raise UsageError(f"epochs is {epochs!r}, but phases say how long the run is.")
    chosen = Recipe(
        batch_size=len(data.train[0]) if size == "full" else size,
        precision=precision or task.precision,
        **recipe,
    )
    phases = [Phase(task.epochs if epochs is None else epochs)] if phases is None else phases
    phases = [phases] if isinstance(phases, Phase) else list(phases)
    run = Run(task, optimizer, phases, chosen, data, there)
    keeper = Keeper.begin(
        run,
        None if out is None else Path(out).expanduser().absolute(),
        resume=resume,
        force=force,
        every=save_every,
        about=about or {},
    )
    with signals(wanted=out is not None) as caught:
        status, reason = "stopped", ""
        try:
            for record in chain(keeper.earlier, _steps(run, keeper, caught, watch)):
                if record.steps == run.recorded == run.course.total:
                    # Whoever takes no more than the last record has all of the run.
                    status = "finished"
                    keeper.end(status)
                # What goes on outside draws at random too, and is not to be kept from Ctrl-C.
                with caught.removed(), same_randomness():
                    yield record
            status = "finished"
        except (DivergenceError, Interrupted) as error:
            status = "diverged" if isinstance(error, DivergenceError) else "stopped"
            reason = str(error)
            if status == "diverged" and (kept := keeper.earlier_snapshot()):
                raise DivergenceError(f"{error}. {kept}") from error
            raise
        except GeneratorExit:
            # Whoever takes the records wants no more of them: the run can go on later.
            keeper.save()
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            keeper.end(status, reason)


def _steps(
    run: Run, keeper: Keeper, caught: Signals, watch: Callable[[Progress], None] | None
) -> Iterator[Record]:
    task, course, averages, descent = run.task, run.course, run.averages, run.optimizer
    gradients, batches, due = Gradients(run), run.batches(), run.due
    first, begun = run.steps, run.seconds
    told, since = 0.0 if watch else math.inf, perf_counter()
    run.model.train()
    while run.recorded < course.total:
        if run.steps >= due:
            with caught.raised(keeper.save):
                numbers = _evaluated(run)
            # Not within it: what a record has told is counted no more.
            record = run.recorded_as(*numbers)
            keeper.record(record)
            yield record
            if run.steps == course.total:
                break
            due, since = run.due, perf_counter()
            run.model.train()
        inputs, targets = next(batches)
        if task.augment is not None:
            inputs, targets = task.augment(inputs, targets, run.augmenting)
        course.follow(run.steps)
        try:
            descent.step(gradients.of(inputs, targets))  # pyright: ignore
        except NonfiniteError:
            amend(run, gradients)
        else:
            run.count(gradients.loss or 0.0, targets.shape[0])
            averages.after_step()
        run.steps += 1
        if run.steps % run.per_epoch == 0:
            averages.after_epoch(run.steps // run.per_epoch)
        now = perf_counter()
        if now < told and now < keeper.due and run.steps < due and caught.received is None:
            continue
        run.seconds += now - since
        if watch is not None and now >= told:
            seconds, told = run.seconds - begun, now + _TOLD
            watch(_progress(run, gradients.loss or 0.0, run.steps - first, seconds))
        if now >= keeper.due or caught.received is not None:
            keeper.save()
        if caught.received is not None:
            raise Interrupted(caught.received)
        since = perf_counter()


def _evaluated(run: Run) -> list[float]:
    """The validation loss, the metric, and those on the test data, of the weights as they are now.

    What is drawn at random later is left alone.
    """
    task, recipe, averages = run.task, run.recipe, run.averages
    last = run.steps == run.course.total
    with same_randomness():
        check_weights(run)
        if last:
            averages.settle(run.x)
        precision = recipe.precision
        loss, metric = evaluate(task, averages.model, run.validation, precision=precision)
        if not math.isfinite(metric):
            raise DivergenceError(
                f"the metric ({task.metric_name}) was {metric:g} after epoch {run.epoch:g}"
            )
        tests: list[float] = []
        if last and recipe.test and run.data.test is not None:
            pair = run.there(run.data.test)
            for tta in (False, True)[: 1 + recipe.tta]:
                tests.append(evaluate(task, averages.model, pair, tta=tta, precision=precision)[1])
        return [loss, metric, *tests]


def _progress(run: Run, loss: float, steps: int, seconds: float) -> Progress:
    return Progress(
        steps=run.steps,
        total=run.course.total,
        epoch=run.epoch,
        epochs=run.course.total / run.per_epoch,
        loss=loss,
        samples=steps * run.rows,
        seconds=seconds,
        settings=run.course.settings(),
    )
