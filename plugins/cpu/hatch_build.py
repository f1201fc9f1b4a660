"""The part of the package's build that compiles the CPU kernels; without a compiler the package goes without them."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
from building import LIBRARY, BuildError, build  # type: ignore[import-not-found]


class CpuKernels(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the library into the wheel, which is then one for this platform and any Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected."""
        try:
            build()
        except BuildError as error:
            LIBRARY.unlink(missing_ok=True)  # one of other sources
            self.app.display_warning(f"aps-deploy is built without its CPU kernels, and works without: {error}.")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
