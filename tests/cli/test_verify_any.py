"""`aps-deploy verify` on files of other tools, and against answers saved elsewhere."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.cli.conftest import Invoke


def test_a_file_of_another_tool_without_a_reference(
    invoke: Invoke, foreign_onnx: Path, images: Path, tmp_path: Path
) -> None:
    words = ("verify", foreign_onnx, "--data", images / "test", "--shifts", "5", "--mean", "0.5", "--std", "0.25")
    result = invoke(*words, "-o", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    assert "without a reference" in result.output
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["reference"]["kind"] == "none" and document["data"]["labelled"]
    # The command in the certificate measures the same again.
    again = invoke(*shlex.split(document["command"])[1:], "-o", tmp_path / "d.json")
    assert again.exit_code == 0, again.output
    repeated = json.loads((tmp_path / "d.json").read_text())
    assert {**repeated, "created": None} == {**document, "created": None}


def test_answers_are_saved_and_used_without_the_checkpoint(
    invoke: Invoke, onnx_file: Path, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    answers, data = tmp_path / "answers.npz", ("--data", images / "test")
    result = invoke("verify", "--reference", checkpoint, *data, "--save-reference", answers)
    assert result.exit_code == 0, result.output
    assert "to 6 images" in result.output and answers.is_file()
    result = invoke(
        "verify",
        onnx_file,
        "--load-reference",
        answers,
        *data,
        "--shifts",
        "2",
        "--images",
        "3",
        "-o",
        tmp_path / "c.json",
    )
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["reference"]["saved"]["name"] == "answers.npz"
    assert document["counts"]["parity_images"] == 3
    assert "--load-reference" in document["command"]
    other = tmp_path / "with-file.npz"
    words = ("verify", onnx_file, "--reference", checkpoint, *data, "--shifts", "1", "-o", tmp_path / "d.json")
    result = invoke(*words, "--save-reference", other)
    assert result.exit_code == 0 and f"saved reference: {other}" in result.output
