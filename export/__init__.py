"""From a model to files other programs run: ONNX for now.

Everything is imported on first use: ``import aps_deploy.export`` needs neither PyTorch nor onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps_deploy.export.artifact import Artifact
    from aps_deploy.export.onnx_export import export_checkpoint, export_onnx

_HOME_OF = {
    "Artifact": "aps_deploy.export.artifact",
    "export_checkpoint": "aps_deploy.export.onnx_export",
    "export_onnx": "aps_deploy.export.onnx_export",
}

__all__ = ["Artifact", "export_checkpoint", "export_onnx"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'aps_deploy.export' has no attribute {name!r}")
