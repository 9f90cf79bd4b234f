"""The command line: thin; nothing in it that the library cannot do."""

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from thalweg.errors import UsageError, unknown

try:
    import typer
except ImportError as error:
    raise SystemExit(
        f"thalweg: {error.name} is missing, which the command needs and the library does not. "
        'Install it with: pip install "thalweg[lab]"'
    ) from error

if TYPE_CHECKING:
    from thalweg.lab.store import Store

__all__ = ["main"]

app = typer.Typer(
    name="thalweg",
    help="Which optimizer? Train real networks with each and see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
        str, typer.Option(help="Whose reading of the rules: paper, torch or keras")
    ] = "paper",
    target: Annotated[
        float | None, typer.Option(help="Value of the metric whose reaching is timed")
    ] = None,
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
    from thalweg.lab import comparison
    from thalweg.lab.display import Display, print_summary
    from thalweg.lab.store import Store
    from thalweg.lab.summary import summarize

    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is {jobs}, but must be at least 1.")
    jobs = jobs or comparison.cores()
    if resume is not None:
        store = Store.open(resume)
    else:
        store = _started(task, optimizers, epochs, batch_size, seeds, lr, convention, target, out)
    try:
        with Display(store.study(), jobs) as display:
            study = comparison.carry_out(store, jobs, display)
    except KeyboardInterrupt:
        done = len(store.study().results)
        typer.echo(
            f"\nStopped. {done} finished runs are kept in {store.folder}. Go on with:\n"
            f"  thalweg compare --resume {store.folder}",
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


def _started(
    task: str,
    optimizers: str,
    epochs: int | None,
    batch_size: str | None,
    seeds: int,
    lr: float | None,
    convention: str,
    target: float | None,
    out: Path | None,
) -> "Store":
    from thalweg import tasks
    from thalweg.lab import comparison
    from thalweg.lab.plan import Plan
    from thalweg.rules import OPTIMIZERS

    names = OPTIMIZERS if optimizers == "all" else dict.fromkeys(optimizers.split(","))
    for name, value in (("epochs", epochs), ("seeds", seeds)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, but must be at least 1.")
    loaded = tasks.load(task)
    plan = Plan(
        task=task,
        optimizers=tuple(n.strip() for n in names),
        convention=convention,
        lr=lr,
        epochs=epochs or loaded.epochs,
        batch_size=_batch_size(batch_size) or loaded.batch_size,
        seeds=tuple(range(seeds)),
        target=loaded.target if target is None else target,
    )
    now = datetime.now(timezone.utc).astimezone()
    folder = out or Path("thalweg-runs") / f"{loaded.name}-{now:%Y%m%d-%H%M%S}"
    return comparison.start(plan, folder)


def _batch_size(text: str | None) -> "int | None":
    if text is None or text == "full":
        return text  # pyright: ignore
    if not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"batch-size is {text!r}, but must be a whole number from 1, or 'full' for all "
            "training data in one step."
        )
    return int(text)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="optimizers, stages or tasks", metavar="WHAT")],
) -> None:
    """List what there is: optimizers, stages or tasks."""
    from thalweg import rules, tasks

    lines: dict[str, dict[str, str]] = {
        "optimizers": {
            n: f"{r.title}: {r.doc.splitlines()[0]}" for n, r in rules.OPTIMIZERS.items()
        },
        "stages": {n: r.doc.splitlines()[0] for n, r in rules.STAGES.items()},
        "tasks": tasks.TASKS,
    }
    if what not in lines:
        raise unknown("list", what, lines)
    width = max(map(len, lines[what]))
    for name, about in lines[what].items():
        typer.echo(f"{name:<{width}}  {about}")


@app.command()
def explain(
    optimizer: Annotated[str, typer.Argument(help="An optimizer or chain, as in compare")],
    convention: Annotated[
        str, typer.Option(help="Whose reading of the rule: paper, torch or keras")
    ] = "paper",
    latex: Annotated[bool, typer.Option("--latex", help="Only the formula, as LaTeX")] = False,
) -> None:
    """Print an optimizer's formula from the rule that trains, and what its settings mean."""
    from thalweg.rules.explanation import explained, explained_latex
    from thalweg.rules.spelling import parsed

    rule = parsed(optimizer)
    typer.echo((explained_latex if latex else explained)(rule, convention))


def main() -> None:
    """Run the command; a user's mistake ends it with status 2 and one sentence."""
    try:
        app()
    except UsageError as error:
        typer.echo(f"thalweg: {error}", err=True)
        sys.exit(2)
