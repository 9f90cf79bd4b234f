"""`thalweg report` and `thalweg export`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.application import app
from thalweg.errors import UsageError


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Of a comparison", metavar="FOLDER")],
    png: Annotated[
        bool, typer.Option("--png", help="Write the figures as pictures too, beside the page")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The page; else report.html in the folder", metavar="FILE")
    ] = None,
) -> None:
    """Say again what a comparison found so far, and write its report anew."""
    from thalweg.lab.display import print_summary
    from thalweg.lab.records.store import read_study
    from thalweg.lab.running import write

    study = read_study(folder)
    page = out or folder / "report.html"
    write(study, page, png=png)
    print_summary(study, page)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Of a comparison", metavar="FOLDER")],
    csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="For pandas and other tools for data")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where; else the folder itself", metavar="FOLDER")
    ] = None,
) -> None:
    """Write every run and every epoch of a comparison as tables."""
    from thalweg.lab.records.export import write
    from thalweg.lab.records.store import read_study

    forms = [n for n, on in (("csv", csv), ("json", json), ("parquet", parquet)) if on]
    if not forms:
        raise UsageError("in which form? Give --csv, --json or --parquet, or several of them.")
    for file in write(read_study(folder), out or folder, forms):
        typer.echo(file)
