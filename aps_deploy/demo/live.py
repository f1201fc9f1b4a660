"""Both networks side by side for a server, and the command that starts it: the page on which a picture is moved."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from aps_deploy.runtimes.sidecar import sidecar_path


def write_repository(folder: Path, files: Mapping[str, Path]) -> None:
    """Copy exported files, each with its JSON document, into a folder in the layout that `aps-deploy serve` reads.

    Args:
        folder: the repository, which must not exist.
        files: ONNX files by the names of the models they become.
    """
    for name, file in files.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(file, version / "model.onnx")
        shutil.copyfile(sidecar_path(file), version / "model.json")


def serve_command(repository: Path) -> str:
    """Return the command that serves a repository, as it can be typed in the folder where this process runs."""
    name = "aps-deploy"
    if Path(sys.argv[0]).name != name:
        program = [_short(sys.executable), "-m", "aps_deploy.cli"]
    else:
        program = [name if shutil.which(name) == sys.argv[0] else _short(sys.argv[0])]
    return shlex.join([*program, "serve", _short(repository)])


def _short(path: str | Path) -> str:
    """Return a path as seen from the current folder, where it lies in it; a link is not followed."""
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith("..") else relative
