"""TensorRT and TensorRT-RTX engines: found, configured, compiled, read back, described.

Everything is imported on first use: ``import aps_deploy.export.engines`` needs neither of them, nor onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps_deploy.export.engines.engine_export import EngineArtifact, export_engine
    from aps_deploy.export.engines.profiles import Profile
    from aps_deploy.export.engines.settings import EngineSettings

_HOME_OF = {
    "EngineArtifact": "aps_deploy.export.engines.engine_export",
    "EngineSettings": "aps_deploy.export.engines.settings",
    "Profile": "aps_deploy.export.engines.profiles",
    "export_engine": "aps_deploy.export.engines.engine_export",
}

__all__ = ["EngineArtifact", "EngineSettings", "Profile", "export_engine"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'aps_deploy.export.engines' has no attribute {name!r}")
