"""What an export leaves on disk, and the document beside the file."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import aps_deploy
from aps_deploy.runtimes.metadata import ModelMetadata

# Whatever had a hand in the file's bytes.
_TOOLS = ("torch", "onnx", "onnxscript", "numpy")


@dataclass(frozen=True)
class Artifact:
    """An exported file.

    Attributes:
        path: The file.
        sidecar_path: The JSON document beside it.
        sha256: Of the file's bytes.
        metadata: What the file says about itself.
    """

    path: Path
    sidecar_path: Path
    sha256: str
    metadata: ModelMetadata


def sidecar_document(file: Path, sha256: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON document that stands beside an exported ONNX file.

    Args:
        file: The final path of the file.
        sha256: Of its bytes.
        metadata: The object inside the file.
    """
    return {
        "file": file.name,
        "sha256": sha256,
        "onnx_sha256": sha256,
        "checkpoint_sha256": metadata["checkpoint_sha256"],
        "tools": tool_versions(),
        "metadata": metadata,
    }


def tool_versions() -> dict[str, str]:
    """Return the versions of this package and of the tools it exports with."""
    return {"aps_deploy": aps_deploy.__version__, **{name: distributions.version(name) for name in _TOOLS}}


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
