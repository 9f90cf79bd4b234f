"""`thalweg list` and `thalweg explain`."""

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.application import app
from thalweg.errors import UsageError, unknown


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="optimizers, stages, schedules or tasks", metavar="WHAT")
    ],
) -> None:
    """List what there is: optimizers, stages, schedules or tasks."""
    from thalweg import rules, schedules, tasks

    lines: dict[str, dict[str, str]] = {
        "optimizers": {
            n: f"{r.title}: {r.doc.splitlines()[0]}" for n, r in rules.OPTIMIZERS.items()
        },
        "stages": {n: r.doc.splitlines()[0] for n, r in rules.STAGES.items()},
        "schedules": {n: f.doc.splitlines()[0] for n, f in schedules.SCHEDULES.items()},
        "tasks": tasks.TASKS,
    }
    if what not in lines:
        raise unknown("list", what, lines)
    width = max(map(len, lines[what]))
    for name, about in lines[what].items():
        typer.echo(f"{name:<{width}}  {about}")


@app.command()
def explain(
    what: Annotated[
        str,
        typer.Argument(
            help="An optimizer or chain, as in compare, or a schedule, with settings after a "
            "colon: one-cycle:lr=3e-3,final_share=0.1"
        ),
    ],
    convention: Annotated[
        str, typer.Option(help="Whose reading of an optimizer: paper, torch, keras or optax")
    ] = "paper",
    latex: Annotated[
        bool, typer.Option("--latex", help="Only an optimizer's formula, as LaTeX")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="How many steps of a schedule are shown")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write a schedule's plot as a picture", metavar="FILE")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a schedule's plot as a page", metavar="FILE")
    ] = None,
) -> None:
    """Print an optimizer's formula from the rule that trains, or plot a schedule; and settings."""
    from thalweg.rules import OPTIMIZERS, STAGES
    from thalweg.rules.explanation import explained, explained_latex
    from thalweg.rules.spelling import parsed
    from thalweg.schedules import SCHEDULES, spelling

    name = re.split("[:+]", what)[0].strip()
    if spelling.names(what):
        if latex or convention != "paper":
            raise UsageError(f"{name} is a schedule: --latex and --convention are for optimizers.")
        _explain_schedule(what, steps, png, html)
        return
    if name not in OPTIMIZERS and name not in STAGES:
        raise unknown("optimizer or schedule", name, (*OPTIMIZERS, *STAGES, *SCHEDULES))
    if not (steps is None and png is None and html is None):
        raise UsageError(f"{name} is an optimizer: --steps, --png and --html are for schedules.")
    rule = parsed(what)
    typer.echo((explained_latex if latex else explained)(rule, convention))


def _explain_schedule(text: str, steps: int | None, png: Path | None, html: Path | None) -> None:
    from thalweg.schedules import drawing
    from thalweg.schedules.explanation import STEPS, curves, explained, shown_steps
    from thalweg.schedules.spelling import example

    if steps is not None and steps < 1:
        raise UsageError(f"steps is {steps}, but must be at least 1.")
    schedule = example(text)
    schedule = schedule.over(steps or STEPS) if schedule.open else schedule
    shown = steps or shown_steps(schedule)
    typer.echo(explained(schedule, shown, min(shutil.get_terminal_size().columns, 100)))
    if png is not None:
        drawing.write_png(curves(schedule), shown, png)
    if html is not None:
        drawing.write_html(curves(schedule), shown, html)
