"""The networks that are compared compute the same; the times of so short a run mean nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from benchmarks import networks
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)


@pytest.mark.parametrize("setting", ["resnet20_aps3:32:4", "resnet18_aps2:64:2", "cifar_resnet50_aps1:16:2"])
def test_the_authors_formulation_chooses_and_computes_the_same(setting: str) -> None:
    torch.manual_seed(0)
    chosen = networks.Setting.parse(setting)
    found = chosen.networks()
    images = torch.randn(chosen.batch, 3, chosen.side, chosen.side)
    with torch.inference_mode():
        logits = {name: model(images) for name, model in found.items()}
    torch.testing.assert_close(logits["authors"], logits["aps"], rtol=0, atol=0)
    assert not torch.equal(logits["lpf"], logits["aps"])


@pytest.mark.slow
def test_the_authors_file_holds_their_operators() -> None:
    model = networks.Setting.parse("resnet20_aps3:32:2").networks()["authors"]
    graph = networks.exported(model, 32).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("ArgMax") == 2 and operators.count("GatherND") == 4
    assert onnxruntime.InferenceSession(networks.exported(model, 32).SerializeToString())


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "results" / "networks.json"
    monkeypatch.setattr(networks, "RESULTS", result)
    options = ["--settings", "resnet20_aps3:16:2", "--runtimes", "onnxruntime", "torch", "--rounds", "3", "--write"]
    monkeypatch.setattr(sys, "argv", ["networks", *options])
    networks.main()
    measured = json.loads(result.read_text())["measured"]
    assert [entry["runtime"] for entry in measured] == ["onnxruntime", "torch"]
    assert all(found["smallest"] > 0 for entry in measured for found in entry["ratios"])
    found = {entry["runtime"]: [ratio["ratio"] for ratio in entry["ratios"]] for entry in measured}
    assert "aps_custom_op/lpf" in found["onnxruntime"] and "aps_custom_op/lpf" not in found["torch"]
    assert "aps/lpf" in capsys.readouterr().out
