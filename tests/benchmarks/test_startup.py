"""The benchmark of the command line runs through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup


def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "results" / "startup.json"
    monkeypatch.setattr(startup, "RESULTS", result)
    monkeypatch.setattr(sys, "argv", ["startup", "--rounds", "1", "--write"])
    startup.main()
    measured = json.loads(result.read_text())["measured"]
    assert len(measured) == 4 and all(row["median"] > 0 for row in measured)
    assert "predict, seconds" in capsys.readouterr().out


def test_a_command_that_fails_is_not_timed(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.cost(sys.executable, "-c", "raise SystemExit(3)", bytecode=tmp_path)
