"""`thalweg bench` and `thalweg warmup`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from thalweg.cli.application import app
from thalweg.cli.arguments import read_names, read_numbers
from thalweg.errors import UsageError

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
        optimizers=read_names(optimizers, OPTIMIZERS),
        shapes=read_names(shapes, SETS),
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
        read_names(optimizers, OPTIMIZERS),
        tuple(dict.fromkeys(read_numbers("tables", tables))),
        tuple(dict.fromkeys(read_numbers("touched", touched))),
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
        read_names(optimizers, OPTIMIZERS),
        None if dtypes == "all" else read_names(dtypes, ()),
    )
    typer.echo(
        f"{done.compiled + done.present} kernels are in {done.folder}: {done.compiled} compiled in "
        f"{done.seconds:.1f} s, {done.present} were there already."
    )
