"""`thalweg compare`."""

import shlex
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.application import app
from thalweg.cli.arguments import read_batch_size, read_names
from thalweg.errors import UsageError


@app.command()
def compare(
    task: Annotated[
        str, typer.Argument(help="A built-in task (thalweg list tasks) or your own: path.py:name")
    ] = "digits",
    optimizers: Annotated[
        str,
        typer.Option(
            help="Which, separated by commas, or 'all'; settings follow a colon: "
            "sgd:lr=0.1,l2:weight_decay=1e-4+adam",
            metavar="LIST",
        ),
    ] = "all",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data; else the task's own")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(help="Samples per step, or 'full' for batch descent", metavar="N|full"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each optimizer, each with new weights")] = 3,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of every optimizer; else its default")
    ] = None,
    convention: Annotated[
        str, typer.Option(help="Whose reading of the rules: paper, torch, keras or optax")
    ] = "paper",
    target: Annotated[
        float | None, typer.Option(help="Value of the metric whose reaching is timed")
    ] = None,
    reshuffle: Annotated[
        bool, typer.Option(help="A new order in every epoch; Keras repeats the first one's")
    ] = True,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; else one per core")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for results and report", metavar="FOLDER")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the comparison in this folder", metavar="FOLDER"),
    ] = None,
) -> None:
    """Train a task with each optimizer, and say which is best and when it is a tie."""
    from thalweg import tasks
    from thalweg.lab import comparison
    from thalweg.lab.display import Display, print_summary
    from thalweg.lab.plan import Plan
    from thalweg.lab.pool import Pool
    from thalweg.lab.store import Store, check_unused
    from thalweg.lab.summary import summarize
    from thalweg.rules import OPTIMIZERS

    for name, value in (("jobs", jobs), ("epochs", epochs), ("seeds", seeds)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, but must be at least 1.")
    changed = [
        name
        for name, given in (
            ("a task", task != "digits"),
            ("--optimizers", optimizers != "all"),
            ("--epochs", epochs is not None),
            ("--batch-size", batch_size is not None),
            ("--seeds", seeds != 3),
            ("--lr", lr is not None),
            ("--convention", convention != "paper"),
            ("--target", target is not None),
            ("--no-reshuffle", not reshuffle),
            ("--out", out is not None),
        )
        if given
    ]
    if resume is not None and changed:
        raise UsageError(
            f"--resume goes on with what was planned for {resume}, which {', '.join(changed)} "
            "cannot change: leave it out, or start anew with --out."
        )
    size = read_batch_size(batch_size)
    names = read_names(optimizers, OPTIMIZERS)
    store = None if resume is None else Store.open(resume)
    if store is None:
        plan = Plan(
            task=task,
            optimizers=names,
            convention=convention,
            lr=lr,
            epochs=epochs or 1,
            batch_size=size or 1,
            seeds=tuple(range(seeds)),
            target=target,
            reshuffle=reshuffle,
        )
        tasks.check(task)
        plan.check()
        if out is not None:
            check_unused(out)
    else:
        plan = store.study().plan
    count = min(jobs or comparison.cores(), len(list(plan.runs())))
    with Pool(plan.task, count) as pool:
        if store is None:
            facts = pool.facts()
            plan = replace(
                plan,
                epochs=epochs or facts.epochs,
                batch_size=size or facts.batch_size,
                target=facts.target if target is None else target,
            )
            now = datetime.now(timezone.utc).astimezone()
            folder = out or Path("thalweg-runs") / f"{facts.name}-{now:%Y%m%d-%H%M%S}"
            store = Store.create(folder, plan, facts, comparison.environment())
        try:
            with Display(store.study()) as display:
                study = comparison.carry_out(store, pool, display)
        except KeyboardInterrupt:
            typer.echo(
                f"\nStopped. {len(store.study().results)} finished runs are kept. Go on with:\n"
                f"  thalweg compare --resume {shlex.quote(str(store.folder))}",
                err=True,
            )
            raise typer.Exit(130) from None
        finally:
            store.close()
    summary = summarize(study)
    print_summary(study, summary)
    typer.echo(f"\nReport: {store.folder / 'report.html'}")
    if summary.rows[0].metric is None:
        raise typer.Exit(1)
