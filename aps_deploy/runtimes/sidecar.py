"""The JSON document beside an exported file: what the file's bytes were when it was written.

``model.onnx`` and ``model.plan`` share ``model.json``; the document's ``file`` says which of the two it describes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.files import read_json, sha256_of


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """Return where the sidecar of a model file stands: the same name with ``.json``."""
    return Path(path).with_suffix(".json")


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the sidecar of a model file, or None where there is none or the JSON beside it is another tool's.

    Raises:
        InputError: the file beside it is not JSON.
    """
    beside = sidecar_path(path)
    if not beside.is_file():
        return None
    document = read_json(beside)
    return document if isinstance(document, dict) and isinstance(document.get("sha256"), str) else None


def check_sidecar(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the sidecar of a model file after comparing its hash with the file's bytes; None where there is none.

    Raises:
        InputError: the file changed since it was exported, or the sidecar cannot be read.
    """
    file = Path(path)
    document = read_sidecar(file)
    if document is None:
        return None
    described = Path(str(document.get("file", file.name)))
    if described.suffix != file.suffix:
        return document  # it describes the engine made from this ONNX file, or the other way round
    if sha256_of(file) != document["sha256"].lower():
        raise InputError(
            f"{file} changed since it was exported: its SHA-256 is not the one in {sidecar_path(file).name}; "
            "export it again, or remove that file if the change was meant."
        )
    return document
