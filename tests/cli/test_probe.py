from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Invoke


def test_probe_finds_nothing_in_an_exported_file(onnx_file: Path, images: Path, tmp_path: Path, invoke: Invoke) -> None:
    target = tmp_path / "out.json"
    result = invoke("verify", onnx_file, "--probe", "--data", images / "test", "--images", "1", "-o", target)
    assert result.exit_code == 0, result.output
    assert "every operator moves with the image" in result.stdout
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["equivariant"] is True and document["first"] is None
    assert document["about"]["preprocessing"] == "as the file states"


def test_probe_names_the_operator_of_a_foreign_file(foreign_onnx: Path, invoke: Invoke) -> None:
    result = invoke("verify", foreign_onnx, "--probe", "--images", "1")
    assert result.exit_code == 1, result.output
    assert "first: ReduceMean" in result.stdout
    document = json.loads(foreign_onnx.with_name("foreign.probe.json").read_text(encoding="utf-8"))
    assert document["first"]["op_type"] == "ReduceMean"
    assert "resized to 32x32" in document["about"]["preprocessing"]


def test_options_that_the_probe_would_ignore_are_refused(foreign_onnx: Path, tmp_path: Path, invoke: Invoke) -> None:
    for words in (("--reference", "a"), ("--shifts", "3"), ("--report", tmp_path / "a.html"), ("--from", "c.json")):
        result = invoke("verify", foreign_onnx, "--probe", *words)
        assert result.exit_code == 2, result.output
        assert f"{words[0]} does not fit it" in result.stderr
    for target in (foreign_onnx, tmp_path / "none" / "a.json"):
        result = invoke("verify", foreign_onnx, "--probe", "-o", target)
        assert result.exit_code == 2 and "cannot write" in result.stderr
    assert "FILE is missing" in invoke("verify", "--probe").stderr
