"""The command line: one thin Typer command per verb.

Only this file turns an error into an exit code and prints; what a command does lives in the module it imports when it
runs, so that ``aps-deploy --help`` waits for none of them.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aps_deploy import __version__
from aps_deploy.errors import ApsError

app = typer.Typer(
    name="aps-deploy",
    help="Train shift-invariant image classifiers, export them, and prove the exported file kept the property.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        print(f"aps-deploy {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train shift-invariant image classifiers, export them, and prove the exported file kept the property."""


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and its exit code."""
    try:
        app()
    except ApsError as error:
        print(f"aps-deploy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
