"""`thalweg train` and `thalweg lr-find`."""

import shlex
import shutil
import sys
from datetime import datetime, timezone
from operator import length_hint
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from thalweg.cli.application import app
from thalweg.cli.arguments import read_batch_size
from thalweg.errors import UsageError

_SWITCHES = {"nesterov", "amsgrad", "centered", "maximize", "lookahead"}
"""Settings that are on or off, for which the name alone stands for on."""


class _WithSettings(typer.core.TyperCommand):
    """A command that takes an optimizer's settings as options: `--beta2 0.99`.

    They go to the context's `meta`, as words under the names that Python gives them.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore
        known = {o: p for p in self.params for o in (*p.opts, *p.secondary_opts)}
        settings: dict[str, str] = {}
        left: list[str] = []
        words = iter(args)
        for word in words:
            option, equals, value = word.partition("=")
            parameter = known.get(option)
            if not option.startswith("--") or option in ("--", "--help"):
                left.append(word)
            elif parameter is not None:
                left.append(word)
                if not equals and not getattr(parameter, "is_flag", False):
                    left += [v for v in [next(words, None)] if v is not None]
            else:
                name = option.removeprefix("--").replace("-", "_")
                coming = args[len(args) - length_hint(words) :][:1]
                switch = name in _SWITCHES and coming not in (["true"], ["false"])
                if switch and not equals:
                    value = "true"
                elif not equals:
                    value = next(words, "")
                if not value or value.startswith("--"):
                    raise UsageError(f"{option} has no value: settings are written --name value.")
                settings[name] = value
        ctx.meta["settings"] = settings
        ctx.meta["options"] = [o.removeprefix("--").replace("-", "_") for o in known]
        return super().parse_args(ctx, left)


@app.command(cls=_WithSettings)
def train(
    context: typer.Context,
    task: Annotated[
        str | None,
        typer.Argument(help="A built-in task (thalweg list tasks) or your own: path.py:name"),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="As in compare. Its settings are options: --lr 3e-3 --beta2 0.99")
    ] = "adamw",
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Of the learning rate: one-cycle, warmup:steps=500+cosine, ... (thalweg list "
            "schedules). The momentum goes against a one-cycle"
        ),
    ] = None,
    decay: Annotated[
        str | None, typer.Option(help="How weights decay: l2, decoupled or independent")
    ] = None,
    phases: Annotated[
        Path | None,
        typer.Option(help="JSON list of phases, instead of the two above", metavar="FILE"),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the data; else the task's own")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(help="Samples per batch, or 'full' for batch descent", metavar="N|full"),
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Batches per step")] = 1,
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale the gradients down to this norm")
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Evaluate an exponential average of the weights: 0.999")
    ] = None,
    swa: Annotated[
        float | None, typer.Option(help="Evaluate the average of the epochs' ends after this one")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; else the task's own")
    ] = None,
    evaluate_every: Annotated[float, typer.Option(help="Epochs between evaluations")] = 1.0,
    tta: Annotated[
        bool, typer.Option("--tta", help="Test with test-time augmentation too")
    ] = False,
    test: Annotated[bool, typer.Option(help="Evaluate on the test data at the end")] = True,
    nonfinite: Annotated[
        str, typer.Option(help="At a NaN in loss or gradients: stop, skip or shrink (halve lr)")
    ] = "stop",
    seed: Annotated[int, typer.Option(help="Of the weights and the order of the data")] = 0,
    convention: Annotated[
        str, typer.Option(help="Whose reading of the rules: paper, torch, keras or optax")
    ] = "paper",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; else the best there is")] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between snapshots")] = 60.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the run", metavar="FOLDER")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder", metavar="FOLDER")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Resume though task, code or data have changed")
    ] = False,
) -> None:
    """Train a task with one optimizer; the run survives Ctrl-C, kill and power cuts."""
    from thalweg import tasks
    from thalweg.lab.runner.worker import told
    from thalweg.training import DivergenceError, Interrupted
    from thalweg.training.command import carry_out, ordered
    from thalweg.training.order import Order, check_settings, read_phases

    here = {"resume", "force", "device", "save_every", "tensorboard"}
    if resume is not None:
        given = [n for n in context.params if n not in here and _was_given(context, n)]
        given += context.meta["settings"]
        if given:
            raise UsageError(
                f"--resume goes on with the run in {resume} as it was ordered, which "
                f"{', '.join(given)} cannot change: leave it out, or start anew with --out."
            )
        order, folder = ordered(resume), resume
    else:
        if force:
            raise UsageError("--force is for --resume: give it the folder of a run.")
        if task is None:
            raise UsageError(
                f"which task? Name one ({', '.join(tasks.TASKS)}), or your own, path.py:name."
            )
        tasks.check(task)
        check_settings(optimizer, context.meta["settings"], context.meta["options"])
        options = {
            "batch_size": read_batch_size(batch_size),
            "accumulate": accumulate,
            "clip_norm": clip_norm,
            "ema": ema,
            "swa": swa,
            "precision": precision,
            "evaluate_every": evaluate_every,
            "tta": tta,
            "test": test or tta,
            "nonfinite": nonfinite,
            "seed": seed,
        }
        order = Order(
            task=_anywhere(task),
            optimizer=optimizer,
            settings=context.meta["settings"],
            convention=convention,
            schedule=schedule,
            epochs=epochs,
            decay=decay,
            phases=None if phases is None else read_phases(phases),
            options=options,
        )
        now = datetime.now(timezone.utc).astimezone()
        name = Path(task.partition(":")[0]).stem
        folder = out or Path("thalweg-runs") / f"{name}-{now:%Y%m%d-%H%M%S}"
    try:
        carry_out(
            order,
            folder,
            command=shlex.join(["thalweg", *sys.argv[1:]]),
            resume=resume is not None,
            force=force,
            device=device,
            save_every=save_every,
            tensorboard=tensorboard,
        )
    except DivergenceError as error:
        typer.echo(f"thalweg: diverged: {error}", err=True)
        raise typer.Exit(1) from None
    except Interrupted as error:
        on = f"nothing is lost. Go on with:\n  thalweg train --resume {shlex.quote(str(folder))}"
        begun = (folder / "run.json").exists()
        typer.echo(f"\nStopped; {on if begun else 'the run had not begun.'}", err=True)
        raise typer.Exit(128 + error.number) from None
    except UsageError:
        raise
    except Exception as error:
        # What a user's task does wrong is told by its place there; what we do, in full.
        if order.task in tasks.TASKS:
            raise
        typer.echo(f"thalweg: the run failed: {told(error)}", err=True)
        if (folder / "run.json").exists():
            typer.echo(
                "Once that is mended, go on with:\n"
                f"  thalweg train --force --resume {shlex.quote(str(folder))}",
                err=True,
            )
        raise typer.Exit(1) from None


def _anywhere(task: str) -> str:
    """A task that is found from whatever folder the run goes on in."""
    path, colon, name = task.partition(":")
    return f"{Path(path).expanduser().absolute()}{colon}{name}" if path.endswith(".py") else task


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command("lr-find", cls=_WithSettings)
def lr_find(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="A built-in task (thalweg list tasks) or your own: path.py:name")
    ],
    optimizer: Annotated[
        str,
        typer.Option(
            help="Which, or a chain as in compare; its settings are options too: --weight-decay 0.1"
        ),
    ] = "sgd",
    convention: Annotated[
        str, typer.Option(help="Whose reading of the optimizer: paper, torch, keras or optax")
    ] = "paper",
    start: Annotated[float, typer.Option(help="Learning rate of the first step")] = 1e-7,
    end: Annotated[float, typer.Option(help="Learning rate of the last step")] = 10.0,
    steps: Annotated[int, typer.Option(help="How many, unless the loss diverges before")] = 100,
    smoothing: Annotated[
        float, typer.Option(help="How much the averaged loss keeps of itself in each step")
    ] = 0.95,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step; else the task's own")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the initial weights and the batches")] = 0,
    png: Annotated[
        Path | None, typer.Option(help="Write the plot as a picture", metavar="FILE")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the plot as a page", metavar="FILE")
    ] = None,
) -> None:
    """Raise the learning rate until the loss diverges, and suggest one; nothing is kept."""
    from thalweg import tasks
    from thalweg.training import lr_figure, range_test
    from thalweg.training.order import check_settings, factory

    settings = context.meta["settings"]
    check_settings(optimizer, settings, context.meta["options"])
    made = factory(optimizer, convention, settings)
    test = range_test.lr_find(
        tasks.load(task),
        made,
        start=start,
        end=end,
        steps=steps,
        smoothing=smoothing,
        batch_size=batch_size,
        seed=seed,
    )
    typer.echo(test)
    typer.echo("\n" + test.plot(min(shutil.get_terminal_size().columns, 100)))
    if png is not None:
        lr_figure.write_png(test, png)
    if html is not None:
        lr_figure.write_html(test, html)
    if test.lr is None:
        raise typer.Exit(1)
