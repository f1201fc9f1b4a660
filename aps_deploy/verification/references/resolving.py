"""From what a caller gives to what a file is compared with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aps_deploy.errors import InputError
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.opening import ONNX_SUFFIXES, PLAN_SUFFIXES
from aps_deploy.verification.references.base import Reference
from aps_deploy.verification.references.checkpoint import load_reference
from aps_deploy.verification.references.onnx_file import OnnxReference
from aps_deploy.verification.references.saved import SavedReference

if TYPE_CHECKING:
    import torch


class NoReference(Reference):
    """Nothing to compare with: what a file is tried on follows from what it says of itself.

    Args:
        declared: what the file says of itself; empty for a file of another tool.
    """

    def __init__(self, declared: ModelMetadata) -> None:
        super().__init__("none", None, declared)


def resolve_reference(
    reference: str | os.PathLike[str] | torch.nn.Module | Reference | None, declared: ModelMetadata
) -> Reference:
    """Return the reference behind what a caller gave.

    Args:
        reference: a checkpoint, a packaged name, an ONNX file, a file of saved outputs (``.npz``), a network, a
            reference as it is, or None.
        declared: what the verified file says of itself, which is all there is where the reference is None.

    Raises:
        InputError: it is missing, damaged, or nothing that a file can be compared with.
    """
    if reference is None:
        return NoReference(declared)
    if hasattr(reference, "can_force"):
        return cast(Reference, reference)
    if isinstance(reference, (str, os.PathLike)):
        suffix = Path(reference).suffix.lower()
        if suffix in ONNX_SUFFIXES:
            return OnnxReference(reference)
        if suffix == ".npz":
            return SavedReference.load(reference)
        if suffix in PLAN_SUFFIXES:
            raise InputError(
                f"{os.fspath(reference)} is an engine, and a reference must be more exact than what it judges; give "
                "the checkpoint or the ONNX file it was made from, or answers that --save-reference wrote."
            )
    return load_reference(reference)
