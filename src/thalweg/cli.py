"""The command line: thin; nothing in it that the library cannot do."""

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from thalweg.errors import UsageError, unknown

try:
    import typer
except ImportError as error:
    raise SystemExit(
        f"thalweg: {error.name} is missing, which the command needs and the library does not. "
        'Install it with: pip install "thalweg[lab]"'
    ) from error

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
    size = _batch_size(batch_size)
    names = _listed(optimizers, OPTIMIZERS)
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


def _batch_size(text: str | None) -> int | Literal["full"] | None:
    if text is None or text == "full":
        return text
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


bench = typer.Typer(help="Measure how fast it is, beside torch.", no_args_is_help=True)
app.add_typer(bench, name="bench")


_Rounds = Annotated[int | None, typer.Option(help="Rounds to time in each cell; else by --seconds")]
_Seconds = Annotated[float, typer.Option(help="How long to time each cell")]
_Threads = Annotated[int | None, typer.Option(help="Threads; else torch's choice")]
_Json = Annotated[
    Path | None, typer.Option(help="Write everything measured to this file", metavar="FILE")
]
_Markdown = Annotated[
    Path | None,
    typer.Option(help="Write the tables to a new file, or a page's place for them", metavar="FILE"),
]
_Cell = TypeVar("_Cell")


def _prepared(
    threads: int | None, json: Path | None, markdown: Path | None, place: str
) -> dict[str, str]:
    """See that all can be written, choose the threads, and describe the machine."""
    import torch

    from thalweg.bench import machine, record

    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}, but must be at least 1.")
    if json is not None:
        record.check_writable(json)
    if markdown is not None:
        record.check_place(markdown, place)
    if threads is not None:
        torch.set_num_threads(threads)
    return machine.description()


def _measured(
    cells: Iterable[_Cell],
    count: int,
    line: Callable[[_Cell], str],
    json: Path | None,
    written: Callable[[list[_Cell]], str],
) -> tuple[list[_Cell], bool]:
    """The cells, each told of and kept as soon as it is there; whether they were stopped."""
    done: list[_Cell] = []
    try:
        for cell in cells:
            done.append(cell)
            typer.echo(f"[{len(done)}/{count}] {line(cell)}", err=True)
            if json is not None:
                json.write_text(written(done), encoding="utf-8")
    except KeyboardInterrupt:
        typer.echo("\nStopped. What has been measured follows.", err=True)
        if json is not None:
            json.write_text(written(done), encoding="utf-8")
        return done, True
    return done, False


@bench.command("step")
def bench_step(
    optimizers: Annotated[
        str, typer.Option(help="Which, separated by commas, or 'all'", metavar="LIST")
    ] = "all",
    shapes: Annotated[
        str,
        typer.Option(
            help="On which tensors: mlp, small, gpt2 and large, separated by commas, or 'all'",
            metavar="LIST",
        ),
    ] = "all",
    rounds: _Rounds = None,
    seconds: _Seconds = 5.0,
    threads: _Threads = None,
    compiled: Annotated[
        bool, typer.Option(help="Beside torch.compile too, up to a minute for each cell")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16")] = "float32",
    json: _Json = None,
    markdown: _Markdown = None,
) -> None:
    """Time one step of each optimizer, torch's and ours in turn, and what memory allows."""
    from thalweg.bench import record, table
    from thalweg.bench.cell import Plan, measured
    from thalweg.bench.shapes import SETS
    from thalweg.rules import OPTIMIZERS

    plan = Plan(
        optimizers=_listed(optimizers, OPTIMIZERS),
        shapes=_listed(shapes, SETS),
        dtype=dtype,
        rounds=rounds,
        seconds=seconds,
        compiled=compiled,
    )
    facts = _prepared(threads, json, markdown, record.MEASURED)
    cells, stopped = _measured(
        measured(plan),
        len(plan.cells()),
        table.line,
        json,
        lambda cells: record.as_json(plan, facts, cells),
    )
    table.print_tables(plan, facts, cells)
    if markdown is not None:
        record.insert(markdown, table.markdown(plan, facts, cells))
    if stopped:
        raise typer.Exit(130)


@bench.command("sparse")
def bench_sparse(
    optimizers: Annotated[
        str,
        typer.Option(help="sgd, adagrad and adam, separated by commas, or 'all'", metavar="LIST"),
    ] = "all",
    tables: Annotated[
        str, typer.Option(help="Rows of the tables, separated by commas", metavar="LIST")
    ] = "10000,100000,1000000",
    touched: Annotated[
        str, typer.Option(help="Rows that a gradient has, separated by commas", metavar="LIST")
    ] = "100,1000,10000",
    width: Annotated[int, typer.Option(help="Elements of a row")] = 64,
    entries: Annotated[
        int, typer.Option(help="Entries of a gradient for each of its rows, which are added up")
    ] = 2,
    rounds: _Rounds = None,
    seconds: _Seconds = 2.0,
    threads: _Threads = None,
    json: _Json = None,
    markdown: _Markdown = None,
) -> None:
    """Time steps whose gradients have few of a table's rows, and see what the time grows with."""
    from dataclasses import asdict

    from thalweg.bench import record, rows_table
    from thalweg.bench.rows import OPTIMIZERS, RowsCell, RowsPlan, growth, measured

    plan = RowsPlan(
        _listed(optimizers, OPTIMIZERS),
        _numbers("tables", tables),
        _numbers("touched", touched),
        width=width,
        entries=entries,
        rounds=rounds,
        seconds=seconds,
    )
    place = "measured: sparse"
    facts = _prepared(threads, json, markdown, place)

    def written(cells: list[RowsCell]) -> str:
        described = [asdict(c) for c in cells]
        return record.written(facts, plan=asdict(plan), growth=growth(cells), cells=described)

    cells, stopped = _measured(measured(plan), len(plan.cells()), rows_table.line, json, written)
    rows_table.print_tables(plan, facts, cells)
    if markdown is not None:
        record.insert(markdown, rows_table.markdown(plan, facts, cells), place)
    if stopped:
        raise typer.Exit(130)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(
            f"{name} is {text!r}, but must be whole numbers, separated by commas."
        ) from None


def _listed(text: str, all_of_them: Iterable[str]) -> tuple[str, ...]:
    names = all_of_them if text == "all" else (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(names))


@app.command()
def warmup(
    optimizers: Annotated[
        str, typer.Option(help="Which, separated by commas, or 'all'", metavar="LIST")
    ] = "all",
    dtypes: Annotated[
        str,
        typer.Option(
            help="For parameters of which types: float32, float64, bfloat16 and float16, "
            "separated by commas, or 'all'",
            metavar="LIST",
        ),
    ] = "all",
) -> None:
    """Compile the optimizers' kernels now, so that no first step has to wait for its own."""
    from thalweg.rules import OPTIMIZERS
    from thalweg.warmup import warm_up

    done = warm_up(
        _listed(optimizers, OPTIMIZERS),
        None if dtypes == "all" else _listed(dtypes, ()),
    )
    typer.echo(
        f"{done.compiled + done.present} kernels are in {done.folder}: {done.compiled} compiled in "
        f"{done.seconds:.1f} s, {done.present} were there already."
    )


@app.command()
def explain(
    optimizer: Annotated[str, typer.Argument(help="An optimizer or chain, as in compare")],
    convention: Annotated[
        str, typer.Option(help="Whose reading of the rule: paper, torch, keras or optax")
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
