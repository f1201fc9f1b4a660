"""The timing cache: measured times of kernels, kept between builds so that a second build need not measure again.

TensorRT only: TensorRT for RTX measures nothing when it builds. A cache fits one GPU and one version; TensorRT refuses
another, and the build then starts from an empty one.
"""

from __future__ import annotations

import logging
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.files import atomic_path

_LOGGER = logging.getLogger(__name__)


def attach_timing_cache(config: Any, settings: EngineSettings) -> Any:
    """Give a builder configuration the times in the settings' file, or none to start with; return the cache.

    Returns None where the settings name no file. The cache must outlive the build.

    Raises:
        InputError: the file's folder does not exist, or the file cannot be read.
    """
    path = settings.timing_cache
    if path is None:
        return None
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--timing-cache {path} cannot be written; give the name of a file in a folder that exists.")
    known = path.read_bytes() if path.is_file() else b""
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            if content != known:
                _LOGGER.warning("%s is of another GPU or version and was not used; it is replaced.", path)
            return cache
    raise InputError(f"--timing-cache {path} is refused by this version of TensorRT; leave it out.")


def save_timing_cache(cache: Any, settings: EngineSettings) -> None:
    """Write the times of a finished build into the settings' file, where they name one."""
    if cache is None or settings.timing_cache is None:
        return
    with atomic_path(settings.timing_cache) as temporary:
        temporary.write_bytes(bytes(cache.serialize()))
