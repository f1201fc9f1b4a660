"""The command `aps-deploy reproduce`: a declared table of runs, and the page of results.

Imports no torch, so that the help is there at once.
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated

import typer

from aps_deploy import options
from aps_deploy.errors import InputError
from aps_deploy.files import write_text
from aps_deploy.training import options as train_options
from aps_deploy.training.reproduction.page import records_of, write_page
from aps_deploy.training.reproduction.plots import PLOT_FILE, save_plot
from aps_deploy.training.reproduction.records import TABLE_FILE
from aps_deploy.training.reproduction.running import ReproduceSettings, run_table
from aps_deploy.training.reproduction.table import Table, find_table, read_table


def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table of the package, or a TOML file.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder of the images; without it, no row is run.")
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="PATTERN", help="Run the rows with such names, as 'resnet20_aps3*'.")
    ] = "*",
    runs_dir: Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Folder of the runs.")] = Path("runs"),
    page: Annotated[
        Path, typer.Option("--page", metavar="FILE", help="The page; metrics files are kept in a folder beside it.")
    ] = Path("docs/results.md"),
    device: options.Device = None,
    workers: train_options.Workers = None,
    nproc_per_node: train_options.NprocPerNode = None,
    progress: train_options.Progress = None,
) -> None:
    """Run a declared table of trainings and write its results.

    Rows that are finished are not run again, and a row that was stopped goes on where it stood. The page says of every
    row what was measured, or that it was not run, and the command for it.
    """
    declared = read_table(find_table(table))
    if page.suffix != ".md":
        raise InputError(f"--page is {page}; give the name of a Markdown file, such as docs/results.md.")
    results_dir = page.with_suffix("")
    _keep_declaration(declared, results_dir)
    stopped_by = None
    try:
        if data is not None:
            logger = logging.getLogger("aps_deploy.training")
            logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
            settings = ReproduceSettings(
                data=data,
                runs_dir=runs_dir,
                results_dir=results_dir,
                only=only,
                device=device,
                workers=workers,
                nproc_per_node=nproc_per_node or 1,
                progress=progress,
            )
            stopped_by = run_table(declared, settings)
    finally:
        # Also after a row that failed: the rows before it are measured.
        records = records_of(declared, results_dir)
        save_plot(results_dir / declared.name / PLOT_FILE, list(records.values()), declared.protocols[0])
        write_page(page, results_dir)
    typer.echo(f"{len(records)} of {len(declared.rows)} rows of {declared.name} are measured; {page} is written")
    if stopped_by is not None:
        again = shlex.join(["aps-deploy", "reproduce", table, "--data", str(data), "--page", str(page)])
        typer.echo(f"stopped by {stopped_by}, everything is saved; continue with: {again} --runs-dir {runs_dir}")
        if stopped_by == "SIGINT":
            raise typer.Exit(130)


def _keep_declaration(table: Table, results_dir: Path) -> None:
    folder = results_dir / table.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created ({error.strerror}); give another --page.") from error
    write_text(folder / TABLE_FILE, table.text)
