"""The engine cache: plans kept by what they were made of, so that the same engine is not compiled twice.

A plan is found again where everything that has a part in it is the same: the bytes of the ONNX file, the settings, the
version of the toolkit and of this package, the GPU, and the kernels of plugins. Plans are not reproducible byte for
byte, so the key is made of what goes in and not of what comes out.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import aps_deploy
from aps_deploy.errors import InputError
from aps_deploy.export.engines.plugins import PluginBuild
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.files import atomic_path, read_json, sha256_of
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

_LOGGER = logging.getLogger(__name__)

# Of what is said of a plan: raised when more of it is needed than older entries hold.
_DOCUMENT = 2


def cache_key(onnx_sha256: str, settings: EngineSettings, toolkit: Toolkit, plugins: PluginBuild | None = None) -> str:
    """Return the hexadecimal SHA-256 of everything that has a part in a plan.

    Args:
        onnx_sha256: of the ONNX file's bytes.
        settings: of `check_settings`: with nothing left open.
        toolkit: of `load_toolkit`.
        plugins: of `plugin_build`.
    """
    parts = {
        "document": _DOCUMENT,
        "onnx": onnx_sha256,
        "settings": settings.to_dict(),
        "toolkit": [toolkit.info.kind, toolkit.version],
        "aps_deploy": aps_deploy.__version__,
        "gpu": None if toolkit.gpu is None else toolkit.gpu.to_dict(),
        **({} if plugins is None else {"plugins": plugins.key()}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class EngineCache:
    """A folder of plans, each with the document that describes it.

    Args:
        folder: made with the first plan; its parent must be there.

    Raises:
        InputError: the folder cannot be one.
    """

    def __init__(self, folder: Path) -> None:
        if (folder.exists() and not folder.is_dir()) or not folder.parent.is_dir():
            raise InputError(f"--engine-cache {folder} cannot be a folder; give one whose parent is there.")
        self._folder = folder

    def find(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """Return the plan kept under a key and what was said of it; None where there is none that is whole."""
        plan, beside = self._paths(key)
        if not plan.is_file() or not beside.is_file():
            return None
        try:
            document = read_json(beside)
        except InputError:
            document = None
        if not isinstance(document, dict) or document.get("sha256") != sha256_of(plan):
            _LOGGER.warning("%s is damaged and was not used; the engine is built again.", plan)
            return None
        content = plan.read_bytes()
        return content, document["engine"]

    def keep(self, key: str, plan: bytes, engine: dict[str, Any]) -> None:
        """Keep a plan and what is said of it under a key.

        Raises:
            ApsError: the disk is full, or the folder cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        target, beside = self._paths(key)
        document = {"sha256": hashlib.sha256(plan).hexdigest(), "engine": engine}
        with atomic_path(beside) as described, atomic_path(target) as temporary:
            temporary.write_bytes(plan)
            described.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self._folder / f"{key}.plan", self._folder / f"{key}.json"
