"""An order carried out in a folder, and shown while it is."""

import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path

from thalweg import tasks
from thalweg.errors import UsageError
from thalweg.training.board import Board
from thalweg.training.display import Display, print_summary
from thalweg.training.folder import read_run
from thalweg.training.interruption import signals
from thalweg.training.loop import train
from thalweg.training.order import Order
from thalweg.training.page import write_page
from thalweg.training.records import Progress, Record

__all__ = ["carry_out", "ordered"]


def ordered(folder: Path) -> Order:
    """The order of the run that a folder holds.

    Raises:
        UsageError: there is no run, or it was begun by a program of its own.
    """
    run = read_run(folder)
    if "order" not in run:
        raise UsageError(
            f"the run in {folder} was begun by a program: go on by that program, with resume=True."
        )
    known = {f.name for f in fields(Order)}
    return Order(**{name: value for name, value in run["order"].items() if name in known})


def carry_out(
    order: Order,
    out: Path,
    *,
    command: str,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    save_every: float = 60.0,
    tensorboard: bool = False,
) -> list[Record]:
    """Train what is ordered, show how it goes, and write the run's page.

    Args:
        order: what to train.
        out: the run's folder.
        command: what was typed, for whoever repeats it.
        resume: go on with the run in the folder.
        force: go on though something differs.
        device: what to train on.
        save_every: seconds between two snapshots.
        tensorboard: whether to write event files too.

    Raises:
        DivergenceError: see `train`; the page has been written.
        Interrupted: likewise.
        UsageError: likewise, before anything has been trained.
    """
    import torch

    # Averages of gradients that have died away fade through numbers on which processors are slow.
    torch.set_flush_denormal(True)
    # What is passed over on resuming is for the user to read, not for a programmer.
    warnings.showwarning = _told
    records: list[Record] = []
    factory = order.factory()
    task = tasks.load(order.task)
    phases = order.course(task.epochs)
    with ExitStack() as stack:
        # What comes while the run waits for its record to be shown.
        stack.enter_context(signals(at_once=True))
        board = stack.enter_context(Board(out)) if tensorboard else None
        display = stack.enter_context(Display(task))
        watchers: list[Callable[[Progress], None]] = [display.watch]
        watchers += [board.watch] if board else []

        def watch(progress: Progress) -> None:
            for told in watchers:
                told(progress)

        about = {"order": order.data(), "command": command, "tensorboard": tensorboard}
        stack.callback(_write_page, out)
        run = train(
            task,
            factory,
            phases,
            device=device,
            out=out,
            resume=resume,
            force=force,
            save_every=save_every,
            watch=watch,
            about=about,
            **order.options,
        )
        for record in stack.enter_context(closing(run)):
            records.append(record)
            display(record)
            if board:
                board(record)
    print_summary(task, records, out)
    return records


def _told(message: Warning | str, *_: object) -> None:
    print(f"thalweg: {message}", file=sys.stderr)


def _write_page(out: Path) -> None:
    """The run's page, however it ended; that the page cannot be written must not hide how."""
    if (out / "run.json").exists():
        try:
            write_page(out)
        except UsageError as error:
            print(error, file=sys.stderr)
