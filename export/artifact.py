"""What an export leaves on disk, and the document beside the file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import aps_deploy
from aps_deploy.errors import InputError
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.sidecar import read_sidecar, sidecar_path

# Whatever had a hand in the file's bytes.
_TOOLS = ("torch", "onnx", "onnxscript", "numpy")

_KINDS = {".onnx": "an ONNX file", ".plan": "an engine"}


@dataclass(frozen=True)
class Artifact:
    """An exported file.

    Attributes:
        path: The file.
        sidecar_path: The JSON document beside it.
        sha256: Of the file's bytes.
        metadata: What the file says about itself.
        warnings: What the user should know about it, in sentences.
    """

    path: Path
    sidecar_path: Path
    sha256: str
    metadata: ModelMetadata
    warnings: tuple[str, ...] = ()


def checked_target(path: str | os.PathLike[str], suffix: str) -> Path:
    """Return where an export is to be written, after looking whether it can be.

    Args:
        path: as the user gave it.
        suffix: what its name must end in, ``.onnx`` or ``.plan``.

    Raises:
        InputError: another suffix, a folder, a folder that is not there, or a JSON file of another tool is in the way.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the name of a file in it, ending in {suffix}.")
    if target.suffix != suffix:
        kind = _KINDS[suffix]
        raise InputError(f"cannot write {target}: {kind}'s name ends in {suffix}; use {target.with_suffix(suffix)}.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first.")
    beside = sidecar_path(target)
    if beside.exists() and not _is_sidecar(target):
        raise InputError(
            f"cannot write {target}: {beside} is in the way and was not made by an export; move it or choose another "
            "output."
        )
    return target


def _is_sidecar(target: Path) -> bool:
    try:
        return read_sidecar(target) is not None
    except InputError:
        return False


def sidecar_document(
    file: Path, sha256: str, metadata: dict[str, Any], layer_precisions: Mapping[str, int]
) -> dict[str, Any]:
    """Return the JSON document that stands beside an exported ONNX file.

    Args:
        file: The final path of the file.
        sha256: Of its bytes.
        metadata: The object inside the file.
        layer_precisions: Number of layers that compute in each precision, as found in the graph.
    """
    return {
        "file": file.name,
        "sha256": sha256,
        "onnx_sha256": sha256,
        "checkpoint_sha256": metadata["checkpoint_sha256"],
        "layer_precisions": dict(layer_precisions),
        "tools": tool_versions(quantised=metadata["precision"] == "int8"),
        "metadata": metadata,
    }


def tool_versions(*, quantised: bool = False) -> dict[str, str]:
    """Return the versions of this package and of the tools it exports with; ONNX Runtime's where it ``quantised``."""
    versions = {"aps_deploy": aps_deploy.__version__, **{name: distributions.version(name) for name in _TOOLS}}
    if quantised:
        import onnxruntime  # distributed under two names, so its own word is asked

        versions["onnxruntime"] = onnxruntime.__version__
    return versions


def source_revision() -> str | None:
    """Return the git revision of the checkout this package runs from, or None for an installed package."""
    checkout = Path(aps_deploy.__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not a repository git is willing to read
    return answer.stdout.strip() or None
