from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Invoke


def test_kept_layers_are_declared_and_pass_the_proof(
    checkpoint: Path, images: Path, tmp_path: Path, invoke: Invoke
) -> None:
    file = tmp_path / "kept.onnx"
    words = ("--precision", "fp16", "--keep-fp32", "layer3.2.*", "--keep-fp32", "layer1.0.conv1")
    result = invoke("export", checkpoint, "-o", file, *words)
    assert result.exit_code == 0, result.output
    document = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    kept = ["layer1.0.bn1/Conv", "layer3.2.bn1/Conv", "layer3.2.bn2/Conv"]
    assert document["metadata"]["kept_fp32"] == kept
    result = invoke(
        *("verify", file, "--reference", checkpoint, "--data", images / "test", "--images", "2", "--shifts", "1"),
        *("--precision", "fp16"),
    )
    assert f"kept in fp32 as declared: {', '.join(kept)}" in " ".join(result.stdout.split())
    certificate = json.loads(file.with_name("kept.certificate.json").read_text(encoding="utf-8"))
    verdicts = {check["name"]: check["status"] for check in certificate["checks"]}
    assert verdicts["other_precision_layers"] == verdicts["declared_differently"] == "passed"
    assert certificate["file"]["precision_found"] == "fp16"
    assert certificate["file"]["kept_fp32"] == kept
    page = file.with_name("kept.html")
    result = invoke("verify", "--from", file.with_name("kept.certificate.json"), "--report", page)
    assert f"fp16, but fp32 in {', '.join(kept)}" in page.read_text(encoding="utf-8")


def test_nothing_to_keep_is_said_in_a_sentence(checkpoint: Path, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("export", checkpoint, "-o", tmp_path / "a.onnx", "--keep-fp32", "conv1")
    assert result.exit_code == 2 and "the precision is fp32; leave it out" in result.stderr
    result = invoke(
        "export", checkpoint, "-o", tmp_path / "a.onnx", "--precision", "fp16", "--keep-fp32", "layer9.conv1"
    )
    assert result.exit_code == 2 and "layer9.conv1 names no layer" in result.stderr and "did you mean" in result.stderr
    assert not (tmp_path / "a.onnx").exists()
