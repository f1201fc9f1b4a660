"""The layers that are compared compute the same, and their files hold nothing else; the times mean nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from aps_deploy.plugins.cpu.library import why_unavailable
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnxruntime_session import why_no_kernels
from benchmarks import layers
from benchmarks.calls import onnx_session, random_images, say_without_kernels
from benchmarks.layer_alone import FORMS, LayerSetting
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)


@pytest.mark.parametrize(("name", "text"), [*((name, "4x8x8:2") for name in layers.NAMES), ("aps", "3x12x12:3:s3")])
def test_the_file_computes_the_layer_on_maps(name: str, text: str) -> None:
    setting = LayerSetting.parse(text)
    maps = random_images(setting.shape)
    model = setting.exported(name)
    assert [value.name for value in model.graph.input] == [model.graph.node[0].input[0]]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: maps.numpy()})
    with torch.inference_mode():
        expected = setting.layer("aps" if name in FORMS else name)(maps).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.shape == (setting.batch, setting.channels, *[setting.side // setting.stride] * 2)


def test_the_custom_op_runs_in_the_kernels_where_they_are() -> None:
    setting = LayerSetting.parse("8x8x8:3")
    maps = random_images(setting.shape).numpy()
    results = {}
    for name in ("aps", "aps_custom_op"):
        session = onnx_session(setting.exported(name), 1)
        (results[name],) = session.run(None, {session.get_inputs()[0].name: maps})
    np.testing.assert_allclose(results["aps_custom_op"], results["aps"], rtol=0, atol=1e-6)


def test_a_session_knows_the_form_of_a_file(tmp_path: Path) -> None:
    for name, form in FORMS.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(LayerSetting.parse("4x8x8:1").exported(name), path)
        assert ModelMetadata.from_onnx(path).polyphase == form
        if why_unavailable() is None:
            assert (why_no_kernels(path) is None) == (form == "custom-op")


def test_the_forms_select_what_the_authors_do() -> None:
    setting = LayerSetting.parse("8x16x16:4")
    maps = random_images(setting.shape)
    with torch.inference_mode():
        torch.testing.assert_close(setting.layer("authors")(maps), setting.layer("aps")(maps), rtol=0, atol=0)
        assert not torch.equal(setting.layer("lpf")(maps), setting.layer("aps")(maps))


def test_the_stem_is_gone() -> None:
    graph = LayerSetting.parse("16x16x16:2").exported("strided").graph
    assert {node.op_type for node in graph.node} == {"Slice"}
    assert all(np.prod(weight.dims) != 16 * 3 for weight in graph.initializer)


@pytest.mark.parametrize("text", ["16x112x112:1", "512x14x14:16", "64x30x30:2:s3"])
def test_a_setting_is_spelled_as_it_is_read(text: str) -> None:
    assert str(LayerSetting.parse(text)) == text


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "layers.json"
    monkeypatch.setattr(layers, "RESULTS", result)
    monkeypatch.setattr(layers, "LEAST_S", 0.0)
    options = ["--settings", "4x8x8:1", "--runtimes", "onnxruntime", "torch", "--rounds", "2", "--write"]
    monkeypatch.setattr(sys, "argv", ["layers", *options])
    layers.main()
    measured = json.loads(result.read_text())["measured"]
    assert [(entry["setting"], entry["runtime"]) for entry in measured] == [
        ("4x8x8:1", "onnxruntime"),
        ("4x8x8:1", "torch"),
    ]
    assert set(measured[0]["seconds"]) == set(layers.NAMES)
    assert set(measured[1]["seconds"]) == {"aps", "lpf", "strided", "authors"}
    assert "authors/aps_gather" in capsys.readouterr().out


def test_missing_kernels_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.calls.why_unavailable", lambda: "they were not built")
    say_without_kernels()
    assert "without our CPU kernels here: they were not built." in capsys.readouterr().out
    monkeypatch.setattr("benchmarks.calls.why_unavailable", lambda: None)
    say_without_kernels()
    assert capsys.readouterr().out == ""
