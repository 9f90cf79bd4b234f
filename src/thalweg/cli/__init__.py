"""The command line: thin; nothing in it that the library cannot do."""

import sys

try:
    import typer
except ImportError as error:
    raise SystemExit(
        f"thalweg: {error.name} is missing, which the command needs and the library does not. "
        'Install it with: pip install "thalweg[lab]"'
    ) from error

from thalweg.cli import comparison as comparison
from thalweg.cli import explanation as explanation
from thalweg.cli import kernels as kernels
from thalweg.cli import reports as reports
from thalweg.cli import training as training
from thalweg.cli.application import app
from thalweg.errors import UsageError

__all__ = ["main"]


def main() -> None:
    """Run the command; a user's mistake ends it with status 2 and one sentence."""
    try:
        app()
    except UsageError as error:
        typer.echo(f"thalweg: {error}", err=True)
        sys.exit(2)
