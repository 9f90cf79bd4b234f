"""`thalweg compare`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.application import app
from thalweg.cli.arguments import read_batch_size, read_numbers
from thalweg.errors import UsageError


@app.command()
def compare(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            help="Built-in tasks (thalweg list tasks) or your own: path.py:name; else digits",
            metavar="[TASKS]...",
            show_default=False,
        ),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Which, separated by commas, or 'all', as unless given; settings follow a colon: "
            "sgd:lr=0.1, and what is to be searched: sgd:lr=0.01..1. With --extend: +radam",
            metavar="LIST",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Configurations that each may try; else 1: the documented defaults", metavar="N"
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Fresh runs by which the best of each is judged; else 3", metavar="N"),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            help="Passes over the data, or one number for each task, separated by commas; else "
            "the task's own",
            metavar="N",
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(help="Samples per step, or 'full' for batch descent", metavar="N|full"),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of every optimizer, instead of a search")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Of the learning rate (thalweg list schedules); A|B: both are tried",
            metavar="A|B",
        ),
    ] = None,
    decay: Annotated[
        str | None,
        typer.Option(
            help="How weights decay: l2, decoupled or independent; likewise", metavar="A|B"
        ),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(help="Whose reading of the rules: paper (else), torch, keras or optax"),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Value of the metric whose reaching is timed")
    ] = None,
    reshuffle: Annotated[
        bool | None,
        typer.Option(
            "--reshuffle/--no-reshuffle",
            help="A new order in every epoch (else); Keras repeats the first one's",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; else one per core")] = None,
    threads: Annotated[int, typer.Option(help="Of each worker process")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; else the best there is")] = None,
    run_timeout: Annotated[
        float | None,
        typer.Option(help="After this time a run has failed", metavar="SECONDS"),
    ] = None,
    memory: Annotated[float | None, typer.Option(help="That a run may take", metavar="GIB")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for results and report", metavar="FOLDER")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the comparison in this folder", metavar="FOLDER"),
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(
            help="Likewise, with more --optimizers, --trials or --seeds", metavar="FOLDER"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on though the code of a task has changed")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="Write the figures as pictures too")] = False,
) -> None:
    """Train tasks with each optimizer, and say which is best and when it is a tie."""
    from thalweg.lab import running

    folders = {"--out": out, "--resume": resume, "--extend": extend}
    named = [name for name, folder in folders.items() if folder is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} each name the folder: leave all but one out.")
    if force and not (resume or extend):
        raise UsageError("--force is for --resume and --extend: give one of them a folder.")
    try:
        study = running.compare(
            tasks or None,
            optimizers,
            trials=trials,
            seeds=seeds,
            epochs=None if epochs is None else read_numbers("epochs", epochs),
            batch_size=read_batch_size(batch_size),
            lr=lr,
            schedule=schedule,
            decay=decay,
            convention=convention,
            target=target,
            reshuffle=reshuffle,
            out=out or resume or extend,
            resume=resume is not None,
            extend=extend is not None,
            force=force,
            jobs=jobs,
            threads=threads,
            device=device,
            run_timeout=run_timeout,
            memory=memory,
            png=png,
        )
    except running.Stopped as stopped:
        on = "Nothing had begun."
        if stopped.folder is not None:
            on = (
                f"{stopped.kept} finished runs are kept. Go on with:\n"
                f"  thalweg compare --resume {shlex.quote(str(stopped.folder))}"
            )
        typer.echo(f"\nStopped. {on}", err=True)
        raise typer.Exit(130) from None
    if not any(r.status == "finished" for r in study.results):
        raise typer.Exit(1)
