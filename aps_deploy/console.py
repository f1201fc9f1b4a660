"""What the Typer commands are built on: the group that ends failed commands well, options before the verb, printing.

`aps_deploy.cli` and the modules that launchers start (`python -m aps_deploy.training`) build their commands on it; it
imports nothing heavy. Which errors end how is in `aps_deploy.edge`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from aps_deploy import __version__
from aps_deploy.edge import ending, prepare_messages
from aps_deploy.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType


class Commands(TyperGroup):
    """The group of commands, at whose edge errors become one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            known = ending(error)
            if known is not None:
                typer.echo(known.line, err=True)
                raise typer.Exit(known.exit_code) from None
            # Typer brings its own copy of click or uses the installed one: wrong usage is told by what it can do.
            if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
                raise
            typer.echo(f"Error: {usage_sentence(error)}", err=True)
            raise typer.Exit(InputError.exit_code) from None


def usage_sentence(error: Any) -> str:
    """Return what is wrong with a command line as one sentence: the option, the value, what is accepted, where to look.

    Args:
        error: click's, or Typer's copy of it; its cause may be pydantic's, which knows the value.
    """
    message = str(error.format_message()).removesuffix(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    command = "aps-deploy" if context is None else context.command_path
    details: list[Any] = getattr(error.__cause__, "errors", list)()
    given = repr(details[0]["input"]) if details else ""
    if given and given not in message:
        message = message.replace("Invalid value for", f"Invalid value {given} for", 1)
    return f"{message}; see {command} --help."


def new_app() -> typer.Typer:
    """Return an application without commands yet, with the options that come before the command's name."""
    app = typer.Typer(
        name="aps-deploy",
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        # Plain help takes a third of the time of coloured help, and is easier to search.
        rich_markup_mode=None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            # The authors' scripts write --filter_size: underscores and dashes mean the same.
            "token_normalize_func": lambda name: name.replace("_", "-"),
            "max_content_width": 110,
        },
    )
    app.callback()(common)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aps-deploy {__version__}")
        raise typer.Exit


def common(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for debugging.", show_default=False)
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train shift-invariant image classifiers, export them, and prove that the exported file kept the property."""
    prepare_messages(verbose)


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def print_json(document: dict[str, Any]) -> None:
    """Print a JSON document on stdout."""
    from json import dumps

    typer.echo(dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(table: RenderableType) -> None:
    """Print a table of Rich on stdout; its strings are shown as they are, styles are those of Rich's ``Text``."""
    from rich.console import Console

    # Where nobody watches there is no width to fit into: lines that a program reads are not broken. Names of files and
    # reasons stand in the tables: what looks like markup or an emoji's name in them is none.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
    console.print(table)


def progress_line() -> Callable[[str, int, int], None] | None:
    """Return what shows a long work's progress in one line of stderr; None where nobody watches.

    It takes what is being done, how many steps are done, and how many there are.
    """
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        end = "\r" if done < total else "\r\033[K"
        print(f"{what}: {done} of {total}".ljust(60), end=end, file=sys.stderr, flush=True)

    return show
