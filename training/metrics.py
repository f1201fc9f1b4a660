"""The metrics file of a run: JSON lines, one per epoch, readable while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import atomic_path

METRICS_FILE = "metrics.jsonl"

TIMED = ("train_seconds", "images_per_second", "waiting_share")
"""What a clock measured: the entries of a line that differ between two runs of the same seed."""


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add one line to the metrics file.

    Raises:
        ApsError: the file cannot be written, because the disk is full or otherwise.
    """
    try:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record, allow_nan=False) + "\n")
    except OSError as error:
        raise ApsError(
            f"cannot write {path} ({error.strerror}); free some space and continue the run with --resume."
        ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, oldest first; a last line cut short by a crash is left out.

    Raises:
        InputError: the file is missing, or a line before the last is no JSON.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    lines = path.read_text(encoding="utf-8").splitlines()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"{path}, line {number}, is not JSON ({error}).") from error
    return records


def last_metrics(path: Path) -> dict[str, Any]:
    """Return the newest record of a metrics file; empty before the first epoch ends."""
    records = read_metrics(path) if path.is_file() else []
    return records[-1] if records else {}


def keep_epochs(path: Path, num_epochs: int) -> None:
    """Drop the lines of epochs after `num_epochs`: a resumed run will write them again."""
    if not path.is_file():
        return
    records = [record for record in read_metrics(path) if record["epoch"] <= num_epochs]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
