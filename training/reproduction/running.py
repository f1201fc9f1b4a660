"""Runs the rows of a table, each from where it stands: kept, trained, begun, or not begun."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import InputError
from aps_deploy.training.launch import LaunchSettings, launch
from aps_deploy.training.metrics import METRICS_FILE, read_metrics
from aps_deploy.training.recipes import Recipe, recipe_for
from aps_deploy.training.reproduction.records import evaluate_command, keep_row, read_record, train_command
from aps_deploy.training.reproduction.table import Row, Table
from aps_deploy.training.settings import TrainSettings

if TYPE_CHECKING:
    from aps_deploy.training.loop import TrainResult

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """How the rows of a table are run.

    Attributes:
        data: Folder of the images.
        runs_dir: Folder of the runs, which hold checkpoints and go on where they stopped.
        results_dir: Folder of what is kept of finished rows.
        only: Shell pattern of the rows to run.
        device: As in `TrainSettings`.
        workers: As in `TrainSettings`.
        nproc_per_node: Processes that train a row together.
        progress: As in `TrainSettings`.
    """

    data: Path
    runs_dir: Path
    results_dir: Path
    only: str = "*"
    device: str | None = None
    workers: int | None = None
    nproc_per_node: int = 1
    progress: bool | None = None


def run_table(table: Table, settings: ReproduceSettings) -> str | None:
    """Run the rows of a table that were not run so far.

    Returns:
        The signal that stopped it, with everything saved, or None.

    Raises:
        InputError: no row is named so, a row asks for what there is not, there are no images to evaluate on, or a row
            that was begun or kept is not the declared one.
        ApsError: a run failed; the rows before it are kept.
    """
    rows = [row for row in table.rows if fnmatch(row.name, settings.only)]
    if not rows:
        names = ", ".join(row.name for row in table.rows)
        raise InputError(f"no row of {table.name} is named {settings.only}; its rows are {names}.")
    missing = {row.name for row in rows if read_record(settings.results_dir, table, row) is None}
    to_run = [row for row in rows if row.name in missing]
    _check_networks(table, to_run)
    if to_run:
        _check_evaluation(table, to_run[0], settings)
    for number, row in enumerate(rows, 1):
        if row.name not in missing:
            continue
        _LOGGER.info("row %d of %d: %s", number, len(rows), row.name)
        result = _train(table, row, settings)
        if result.interrupted_by is not None:
            return result.interrupted_by
        measured = _measured(table, row, settings, result)
        document = {
            "train_commands": [train_command(row, table, measured)],
            "evaluate_commands": [evaluate_command(row, table, protocol, measured) for protocol in table.protocols],
            **measured,
        }
        keep_row(settings.results_dir / table.name / row.name, row, result.out_dir / METRICS_FILE, document)
    return None


def _check_networks(table: Table, rows: Sequence[Row]) -> None:
    """Check the settings of all rows before the first is trained for hours, once where only the seed differs.

    Raises:
        InputError: naming the file and the row.
    """
    from aps_deploy.training.loop import checked

    first: dict[tuple[str, str, str | None], Row] = {}
    for row in rows:
        first.setdefault(row.group, row)
    for row in first.values():
        try:
            checked(row.train_settings())
        except InputError as error:
            raise InputError(f"{table.path}: row {row.name}: {error}") from error


def _check_evaluation(table: Table, row: Row, settings: ReproduceSettings) -> None:
    """Look for the images of the evaluation: hours of training must not end in finding that there are none.

    Raises:
        InputError: they are not there.
    """
    from aps_deploy.training.data import preprocessing_of
    from aps_deploy.training.evaluation_images import find_evaluation_images

    if row.settings.get("download") and not settings.data.is_dir():
        return  # training fetches them, the test images too
    find_evaluation_images(
        settings.data,
        table.evaluate["split"],
        preprocessing_of(_recipe(row)),
        class_names=None,
        num_classes=None,
        limit=None,
        seed=0,
    )


def _recipe(row: Row) -> Recipe:
    from aps_deploy.models import network_spec

    return recipe_for(row.train_settings(), network_spec(row.network).family)


def _train(table: Table, row: Row, settings: ReproduceSettings) -> TrainResult:
    """Train a row, from its last saved step where it was begun."""
    from aps_deploy.training.loop import run_training
    from aps_deploy.training.state import STATE_FILE

    out_dir = settings.runs_dir / table.name / row.name
    chosen = TrainSettings(
        **row.settings,
        data=settings.data,
        out_dir=out_dir,
        resume=(out_dir / STATE_FILE).is_file(),
        device=settings.device,
        progress=settings.progress,
        workers=settings.workers,
    )
    if settings.nproc_per_node == 1:
        return run_training(chosen)
    result = launch(chosen, LaunchSettings(nproc_per_node=settings.nproc_per_node))
    assert result is not None, "one machine runs the main process"
    return result


def _measured(table: Table, row: Row, settings: ReproduceSettings, result: TrainResult) -> dict[str, Any]:
    """Return the evaluations of a trained row, and on what it was trained and evaluated."""
    from aps_deploy.training.evaluate import EvaluateSettings, evaluate
    from aps_deploy.verification.machine import machine

    evaluations = {}
    for protocol in table.protocols:
        found = evaluate(
            EvaluateSettings(
                model=result.checkpoint,
                data=settings.data,
                protocol=protocol,
                **table.evaluation_of(protocol),
                device=settings.device,
                progress=settings.progress,
                max_unreadable_images=_recipe(row).max_unreadable_images,
            )
        )
        evaluations[protocol] = _short(found.to_dict())
    lines = read_metrics(result.out_dir / METRICS_FILE)
    return {
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "train_seconds": sum(line["train_seconds"] for line in lines),
        "num_processes": settings.nproc_per_node,
        "device": evaluations[table.protocols[0]]["device"],
        "precision": result.precision,
        "machine": machine(),
        "evaluations": evaluations,
    }


def _short(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation without the file's place and without what every single shift did."""
    short = {key: value for key, value in evaluation.items() if key not in ("model", "shifts")}
    short["authors"] = {key: value for key, value in evaluation["authors"].items() if key != "pairs"}
    if evaluation.get("consistency"):
        short["consistency"] = {key: value for key, value in evaluation["consistency"].items() if key != "shifts"}
    return short
