"""What a result was measured on; names no host."""

from __future__ import annotations

from typing import Any

from aps_deploy.plugins.cpu.library import why_unavailable
from aps_deploy.verification import machine as described


def machine() -> dict[str, Any]:
    """Return processor, cores, system and versions, and why our CPU kernels are not used, or None where they are."""
    return {**described.machine(), "cpu_kernels": why_unavailable()}
