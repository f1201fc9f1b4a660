"""The result file of a GPU: written after every row, filled by several commands, with a line for what failed."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import write_json
from benchmarks.gpu.identity import CudnnSettings

# Each part, in the order in which they run, with the fields that tell its rows apart.
ROW_KEYS: dict[str, tuple[str, ...]] = {
    "tests": ("test",),
    "bandwidth": ("setting",),
    "bits": ("dtype", *(field.name for field in fields(CudnnSettings))),
    "compiled": ("setting", "dtype"),
    "networks": ("arch", "against", "runtime"),
}

# What tells a row apart, and the call that measures the rest of it.
Entry = tuple[dict[str, Any], Callable[[], dict[str, Any]]]

_LONGEST_REASON = 500


class Result:
    """The result of one machine, on disk after every change.

    Attributes:
        path: its file.
        document: ``environment``, and ``parts`` by name: ``finished``, how it was measured, ``rows``.
    """

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self.path = path
        self.document: dict[str, Any] = {"environment": environment, "parts": {}}

    def take_over(self) -> None:
        """Take the parts that the file has from an earlier command.

        Raises:
            InputError: the file cannot be read, or was measured in another environment.
        """
        if self.path.exists():
            self.document = joined(read_result(self.path), self.document, self.path)

    def put(self, name: str, part: dict[str, Any]) -> None:
        """Set a part and write the file."""
        self.document["parts"][name] = part
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, finite(self.document))

    def fill(self, name: str, entries: Iterable[Entry], **settings: Any) -> None:
        """Measure a part row by row; what does not run here or fails is a row that says why.

        Args:
            name: the part.
            entries: its rows.
            settings: how it is measured, as the file says it.
        """
        rows = list[dict[str, Any]]()
        self.put(name, {"finished": False, **settings, "rows": rows})
        for key, measure in entries:
            print(f"{name}: {', '.join(str(value) for value in key.values())}", file=sys.stderr, flush=True)
            rows.append(attempted(key, measure))
            self.put(name, {"finished": False, **settings, "rows": rows})
        self.put(name, {"finished": True, **settings, "rows": rows})

    def fail(self, name: str, error: Exception) -> None:
        """Say why a part came to its end between its rows; those it has stay."""
        part = self.document["parts"].get(name, {"finished": False, "rows": []})
        self.put(name, {**part, "failed": told(error)})

    def failures(self, name: str) -> list[str]:
        """Return why rows of a part failed."""
        return [str(row["failed"]) for row in self.document["parts"][name]["rows"] if "failed" in row]


def attempted(key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a measured row; ``skipped`` in it says why it cannot run here, ``failed`` what broke."""
    try:
        return {**key, **measure()}
    except ApsError as error:
        return {**key, "skipped": str(error)}
    except Exception as error:  # of any library: the other rows are still worth measuring
        failed = {**key, "failed": told(error)}
    # Only here, where the error holds the frames of the call no more: what it left would be missing in the next row.
    gc.collect()
    with contextlib.suppress(Exception):
        torch.cuda.empty_cache()
    return failed


def told(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {one_line(str(error))}"


def one_line(text: str) -> str:
    """Return a text without line breaks, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def finite(value: Any) -> Any:
    """Return a document with null for what JSON has no number for: NaN and infinities."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(path: Path) -> dict[str, Any]:
    """Return what a result file says.

    Raises:
        InputError: it is not there or no result.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {"environment": document["environment"], "parts": dict(document["parts"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of benchmarks.gpu ({one_line(str(error))}); move it away.") from error


def joined(document: dict[str, Any], later: dict[str, Any], name: Path) -> dict[str, Any]:
    """Return two results of one machine as one; of rows that both have, the later one's.

    Raises:
        InputError: another GPU, driver or version, whose figures do not belong beside these; ``name`` is said.
    """
    if document["environment"] != later["environment"]:
        raise InputError(
            f"{name} was measured in another environment (GPU, driver or a version); give another --output folder."
        )
    parts = dict(document["parts"])
    for part, keys in ROW_KEYS.items():
        if part not in later["parts"]:
            continue
        content = later["parts"][part]
        rows = [*parts.get(part, {"rows": []})["rows"], *content["rows"]]
        only_latest = {tuple(row.get(key) for key in keys): row for row in rows}
        parts[part] = {**content, "rows": list(only_latest.values())}
    return {"environment": later["environment"], "parts": {part: parts[part] for part in ROW_KEYS if part in parts}}
