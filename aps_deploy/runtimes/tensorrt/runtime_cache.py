"""The runtime cache of TensorRT for RTX: kernels that were compiled for this GPU, kept between processes.

A plan of TensorRT for RTX holds kernels that are compiled further on the GPU that runs it, which makes the first run of
every shape slow. The cache keeps what was compiled, in a file of the user's cache folder named by what it depends on:
the plan's bytes, the toolkit's version, the GPU and its driver. The toolkit compares more than that and refuses what
does not fit; then, and where the file is damaged or cannot be written, the kernels are compiled as without a cache.

``APS_DEPLOY_RUNTIME_CACHE`` names another folder; ``0`` keeps nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from aps_deploy.errors import ApsError
from aps_deploy.files import atomic_path
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

_LOGGER = logging.getLogger(__name__)

SWITCH = "APS_DEPLOY_RUNTIME_CACHE"
SUFFIX = ".runtime-cache"


def cache_folder() -> Path | None:
    """Return the folder of the caches; None where they are turned off, or the user has no folder of their own."""
    told = os.environ.get(SWITCH, "")
    if told:
        return None if told == "0" else Path(told)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "aps-deploy" / "tensorrt-rtx"
    except RuntimeError:  # a user without a home
        return None


def cache_file(plan_sha256: str, toolkit: Toolkit) -> Path | None:
    """Return where the kernels of a plan are kept for this toolkit and GPU; None where nothing is.

    Args:
        plan_sha256: of the plan's bytes.
        toolkit: of `load_toolkit`.
    """
    folder = cache_folder() if toolkit.is_rtx else None
    if folder is None:
        return None
    gpu = None if toolkit.gpu is None else toolkit.gpu.to_dict()
    parts = json.dumps([plan_sha256, toolkit.version, gpu], sort_keys=True)
    return folder / f"{hashlib.sha256(parts.encode()).hexdigest()}{SUFFIX}"


class RuntimeCache:
    """A toolkit's runtime cache and the file that it outlives the process in.

    Args:
        cache: the toolkit's object, empty; every context of the engine uses this one.
        path: the file.
    """

    def __init__(self, cache: Any, path: Path) -> None:
        self.cache = cache
        self._path = path
        self._lock = threading.Lock()
        self._written: str | None = None
        self._may_write = True
        self._load()

    def _load(self) -> None:
        """Take what the file holds, where it fits."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            _LOGGER.warning("the runtime cache %s cannot be read (%s) and is not used.", self._path, error.strerror)
            return
        if content and self.cache.deserialize(content):
            self._written = hashlib.sha256(content).hexdigest()
            return
        _LOGGER.warning(
            "the runtime cache %s is damaged, or of another GPU, driver or version, and was not used; it is replaced.",
            self._path,
        )

    def keep(self) -> None:
        """Write what was compiled since; a file that cannot be written is said once, and is no error."""
        with self._lock:
            if not self._may_write:
                return
            content = bytes(self.cache.serialize())
            digest = hashlib.sha256(content).hexdigest()
            if digest == self._written:
                return
            try:
                # What is in it is run: nobody else's to write.
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with atomic_path(self._path) as temporary:
                    temporary.write_bytes(content)
            except (ApsError, OSError) as error:
                self._may_write = False
                reason = str(error).rstrip(".")
                _LOGGER.warning("the runtime cache is not kept (%s); %s=0 turns it off.", reason, SWITCH)
                return
            self._written = digest
