from __future__ import annotations

import subprocess
import sys

import pytest

import aps_deploy.verification as verification

HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib")


def test_every_public_name_resolves() -> None:
    for name in verification.__all__:
        assert getattr(verification, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = verification.nothing_of_the_kind


@pytest.mark.parametrize(
    "statement",
    [
        "import aps_deploy.verification",
        "from aps_deploy.verification import Certificate, certificate_path",
        "from aps_deploy.verification import measure_consistency, authors_consistency, shift_set",
        "from aps_deploy.verification import verify, verify_path, parse_gates",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
