from __future__ import annotations

import pytest

from aps_deploy.plugins.cpu import library


@pytest.fixture(autouse=True)
def _kernels() -> None:
    reason = library.why_unavailable()
    if reason is not None:
        pytest.skip(f"the CPU kernels: {reason}")
