"""The peak of a run is seen; a short run leaves a whole result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aps_deploy.errors import ApsError
from benchmarks import memory
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux records the peak of the memory")

MIB = 1024 * 1024


@pytest.mark.slow
def test_what_is_freed_again_counts() -> None:
    # In a process of its own, as the benchmark does it: an older one has memory at hand that counts as resident.
    code = (
        "import numpy as np; from benchmarks import memory;"
        "print(memory.peak_bytes(lambda: int(np.ones(1 << 26, np.uint8).sum())))"
    )
    peak = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    # Linux adds pages to its record in batches of 64 for each thread, so the last few of them may be missing.
    assert 63 * MIB <= peak < 96 * MIB


def test_nothing_costs_next_to_nothing() -> None:
    assert memory.peak_bytes(lambda: None) < MIB


def test_a_field_the_kernel_does_not_know_is_an_error() -> None:
    with pytest.raises(ApsError, match="VmNothing"):
        memory._status_bytes("VmNothing")


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "memory.json"
    options = ["--settings", "resnet20_aps3:32:8", "--processes", "1", "--write", str(result)]
    monkeypatch.setattr(sys, "argv", ["memory", *options])
    memory.main()
    measured = json.loads(result.read_text())["measured"]
    assert [entry["runtime"] for entry in measured] == ["onnxruntime", "torch"]
    for entry in measured:
        assert set(entry["peak_bytes"]) == set(entry["largest_alive_bytes"])
        assert all(peak > 0 for peak in entry["peak_bytes"].values())
    assert "over lpf" in capsys.readouterr().out
