"""The benchmark of the server runs through, and does not time wrong answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks import serving
from benchmarks.peers import missing, peer


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "results" / "serving.json"
    monkeypatch.setattr(serving, "RESULTS", result)
    result.parent.mkdir()
    result.write_text('{"measured": [{"setting": "kept before results told of the machine"}]}')
    setting = f"{serving.TOY}:8:1"
    arguments = ["--rounds", "1", "--seconds", "1", "--settings", setting, "--peers", "--write"]
    monkeypatch.setattr(sys, "argv", ["serving", *arguments])
    serving.main()
    document = json.loads(result.read_text())
    (measured,) = document["measured"]
    assert measured["setting"] == setting and document["left_out"] == {}
    own = measured["servers"]["own"]
    assert own["images_per_s"]["median"] > 0 and own["mean_batch"] >= 1
    (ratio,) = measured["ratios"]
    assert ratio["ratio"] == "own/session"
    assert ratio["median"] == pytest.approx(own["images_per_s"]["median"] / measured["session_images_per_s"]["median"])
    assert "own over it" in capsys.readouterr().out


def test_wrong_answers_are_not_timed(tmp_path: Path) -> None:
    import onnx

    file = tmp_path / "network.onnx"
    onnx.save(serving.two_convolutions(8), file)
    image = np.ones((1, 3, 8, 8), np.float32)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": image})[0]
    with peer("own", file, image, 1, tmp_path) as server, server.awake():
        serving.check(server, logits.tobytes())
        with pytest.raises(RuntimeError, match="own answers something else than the session"):
            serving.check(dataclasses.replace(server, body=server.body[:-4] + b"\0\0\0\0"), logits.tobytes())


def test_every_setting_has_its_bars() -> None:
    assert {text.split(":")[0] for text in serving.SETTINGS} == set(serving.LEAST)
    assert missing("own") is None
