"""What is kept of a finished row, beside the page: its metrics file and one JSON document.

`docs/results/<table>/` holds the declaration, `table.toml`, and for every row that was run a folder with
`metrics.jsonl` (one line per epoch, as the run wrote it) and `row.json` (settings, commands, evaluations, versions, and
the hash of the metrics file).
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.files import atomic_path, read_json, sha256_of, write_json
from aps_deploy.training.metrics import METRICS_FILE, read_metrics
from aps_deploy.training.reproduction.table import Row, Table
from aps_deploy.training.settings import flag

ROW_FILE = "row.json"
TABLE_FILE = "table.toml"


@dataclass(frozen=True)
class Record:
    """A finished row.

    Attributes:
        row: The declared run.
        metrics: The records of its metrics file.
        document: Its `row.json`.
    """

    row: Row
    metrics: list[dict[str, Any]]
    document: dict[str, Any]

    def describe_run(self) -> str:
        """Return on how many processes, on which device and in which number format it was trained."""
        processes = self.document.get("num_processes", 1)
        declared = self.row.settings.get("precision")
        precision = self.document.get("precision") or (declared if declared != "auto" else None)
        where = f"{processes} process{'' if processes == 1 else 'es'}, {self.document['device']}"
        return f"{where}, {precision or 'number format not kept'}"

    def evaluation(self, protocol: str) -> dict[str, Any]:
        """Return what `aps-deploy evaluate --protocol` measured."""
        found: dict[str, Any] = self.document["evaluations"][protocol]
        return found


def keep_row(folder: Path, row: Row, metrics_file: Path, document: Mapping[str, Any]) -> None:
    """Keep a finished row: its metrics first, the document that vouches for them last.

    Raises:
        ApsError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / METRICS_FILE) as temporary:
        shutil.copyfile(metrics_file, temporary)
    whole = {"settings": dict(row.settings), "metrics_sha256": sha256_of(folder / METRICS_FILE), **document}
    write_json(folder / ROW_FILE, whole)


def read_record(folder: Path, table: Table, row: Row) -> Record | None:
    """Return what was kept of a row; None where it was not run.

    Raises:
        InputError: the metrics file is missing or is not the one that was kept, or the row was run with other
            settings than are declared now.
    """
    place = folder / table.name / row.name
    if not (place / ROW_FILE).is_file():
        return None
    document = read_json(place / ROW_FILE)
    metrics = place / METRICS_FILE
    if not metrics.is_file() or sha256_of(metrics) != document["metrics_sha256"]:
        raise InputError(
            f"{metrics} is not the metrics file that the numbers of {place.name} come from; delete {place} and run the "
            "row again."
        )
    if document["settings"] != dict(row.settings) or not set(table.protocols) <= set(document["evaluations"]):
        raise InputError(
            f"{place} was run with other settings than the table declares now; delete it and run the row again."
        )
    return Record(row, read_metrics(metrics), document)


def train_command(row: Row, table: Table, run: Mapping[str, Any] | None = None) -> str:
    """Return the command that trains a row; DATA stands for the folder of the images.

    Args:
        row: The declared run.
        table: Where it is declared.
        run: The `row.json` of a row that was run, for what the declaration leaves to the machine or to who runs it:
            processes, device, and number format. Some may be missing in files of older versions.
    """
    words = ["aps-deploy", "train", "--data", "DATA", "--out-dir", f"runs/{table.name}/{row.name}"]
    return shlex.join([*words, *_options({**row.settings, **_conditions(run or {})})])


def evaluate_command(row: Row, table: Table, protocol: str, run: Mapping[str, Any] | None = None) -> str:
    """Return the command that evaluates a trained row by one protocol; `run` as in `train_command`."""
    checkpoint = f"runs/{table.name}/{row.name}/best.safetensors"
    words = ["aps-deploy", "evaluate", checkpoint, "--data", "DATA", "--protocol", protocol]
    device = {"device": run["device"]} if run and run.get("device") else {}
    limit = {key: row.settings[key] for key in ("max_unreadable_images",) if key in row.settings}
    return shlex.join([*words, *_options({**table.evaluation_of(protocol), **limit, **device}), "--json"])


def _conditions(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a row was run, as options of `aps-deploy train`."""
    found = {"device": run.get("device"), "precision": run.get("precision")}
    if run.get("num_processes", 1) > 1:
        found["nproc_per_node"] = run["num_processes"]
    return {key: value for key, value in found.items() if value is not None}


def _options(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for key, value in settings.items():
        if value is True or value is False:
            words.append(flag(key) if value else "--no-" + flag(key).removeprefix("--"))
        else:
            words += [flag(key), str(value)]
    return words
