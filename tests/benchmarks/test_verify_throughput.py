"""The benchmark of a verification runs through; what it measures means nothing on so few images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import verify_throughput
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)


def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "results" / "verify_throughput.json"
    monkeypatch.setattr(verify_throughput, "RESULTS", result)
    monkeypatch.setattr(sys, "argv", ["verify_throughput", "--images", "4", "--rounds", "2", "--write"])
    verify_throughput.main()
    document = json.loads(result.read_text())
    assert (document["num_images"], document["num_shifts"]) == (4, 15)
    whole = document["whole_verification"]
    assert whole["passed"] and whole["pairs"] == 60
    assert document["consistency_pass"]["share_of_raw"]["smallest"] > 0
    assert "of the raw session's throughput" in capsys.readouterr().out
