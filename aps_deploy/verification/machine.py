"""What a result was measured on; names no host."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from aps_deploy.verification.versions import package_versions


def machine() -> dict[str, Any]:
    """Return the processor, the cores this process may use, the system and the versions of the packages."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": package_versions(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
