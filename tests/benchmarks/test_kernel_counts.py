"""A short run of the count of kernels, with the real compiler, leaves a whole result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import kernel_counts


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    result = tmp_path / "kernel_counts.json"
    options = ["--settings", "resnet20_aps3:32", "--precisions", "fp16", "--profiles", "1:8:16", "1:2:2"]
    monkeypatch.setattr(sys, "argv", ["kernel_counts", *options, "--write", str(result)])
    kernel_counts.main()
    default, other = json.loads(result.read_text())["measured"]
    kernels = default["kernels"]
    assert set(kernels) == {"strided", "lpf", "aps", "aps_gather", "aps_one_pass"}
    assert kernels["strided"] < kernels["lpf"]  # a blur is a kernel
    assert default["extra"] == kernels["aps_one_pass"] - kernels["lpf"] < kernels["aps"] - kernels["lpf"]
    assert default["at_most"] == 2 + 1 and "at_most" not in other
    assert "resnet20_aps3:32" in capsys.readouterr().out
