"""The kernels in Triton's interpreter, in a process of their own: its switch is read when triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels: Triton is not installed")

FOLDER = Path(__file__).with_name("interpreted")
ROOT = Path(__file__).resolve().parents[3]


SLOW = ("test_properties.py", "test_special_values.py")  # the operators of PyTorch call every kernel, too
NAMES = [
    pytest.param(path.name, marks=pytest.mark.slow if path.name in SLOW else ())
    for path in sorted(FOLDER.glob("test_*.py"))
]


@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(FOLDER / name)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert re.search(r"\b[1-9]\d* passed", result.stdout), result.stdout
