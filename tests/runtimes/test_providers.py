"""GPU tests of ONNX Runtime are skipped, not failed, with its CPU build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON_A_CPU_BUILD = """
import sys, onnxruntime, pytest
from aps_deploy.runtimes import availability
availability.num_cuda_devices = lambda: 1
onnxruntime.get_available_providers = lambda: ["CPUExecutionProvider"]
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_cpu_build_on_a_gpu_machine_is_a_reason_to_skip() -> None:
    pytest.importorskip("tritonclient")
    files = ["tests/runtimes/test_onnx_sessions.py", "tests/serving/test_gpu.py"]
    arguments = ["-m", "gpu", "-k", "not plan", "-q", "-rs", "-n", "0", "-p", "no:cacheprovider", *files]
    command = [sys.executable, "-c", ON_A_CPU_BUILD, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert result.stdout.count("this build of ONNX Runtime has no CUDA provider") == 2
    assert "3 skipped" in result.stdout
