"""The command `thalweg`, to which the other modules here add what it does."""

import typer

__all__ = ["app"]

app = typer.Typer(
    name="thalweg",
    help="Which optimizer? Train real networks with each and see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
