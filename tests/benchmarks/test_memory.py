"""The peak of a run is seen; a short run leaves a whole result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from aps_deploy.errors import ApsError
from benchmarks import memory
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux records the peak of the memory")

MIB = 1024 * 1024


def test_what_is_freed_again_counts() -> None:
    # Large enough for pages of its own, and given back at once.
    peak = memory.peak_bytes(lambda: int(np.ones(64 * MIB, np.uint8).sum()))
    assert 64 * MIB <= peak < 96 * MIB


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
