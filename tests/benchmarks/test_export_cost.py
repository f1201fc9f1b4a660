"""A short run of the export's cost leaves a whole result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import export_cost


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "export_cost.json"
    options = ["--archs", "resnet20_lpf2", "--rounds", "1", "--write", str(result)]
    monkeypatch.setattr(sys, "argv", ["export_cost", *options])
    export_cost.main()
    (row,) = json.loads(result.read_text())["measured"]
    assert (row["arch"], row["form"], row["at_most"]) == ("resnet20_lpf2", "where", 60.0)
    # The same weights, batch norms folded into convolutions, and a graph around them.
    assert 0.9 < row["file_bytes"] / row["checkpoint_bytes"] < 1.2
    assert row["median"] > 0 and row["nodes"] > 50
    assert "resnet20_lpf2" in capsys.readouterr().out
