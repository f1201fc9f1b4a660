from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.breakdown import by_kind
from benchmarks.networks import Setting, exported


def _event(kind: str, node: str, microseconds: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{node}_kernel_time", "dur": microseconds, "args": {"op_name": kind}}


def test_medians_are_added_up_by_kind_and_blurs_stand_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = exported(Setting.parse("resnet20_aps3:32:1").network("lpf"), 32)
    blur = next(node for node in model.graph.node if node.op_type == "Conv" and ".blur." in node.input[1])
    padding = next(node for node in model.graph.node if node.op_type == "Pad" and ".blur/" in node.name)
    plain = next(node for node in model.graph.node if node.op_type == "Conv" and node.input[1] == "conv1.weight")
    # Two runs to warm up, then three; ONNX Runtime names a node that it moved to another layout by its output.
    durations = [9_000, 9_000, 1_000, 3_000, 2_000]
    events = [
        {"cat": "Session", "name": "model_run", "dur": 1},
        *(_event("Conv", plain.name, each) for each in durations),
        *(_event("Conv", f"{blur.output[0]}_nchwc", each // 2) for each in durations),
        *(_event("Pad", padding.name, each // 4) for each in durations),
        *(_event("Pad", "layer1.0.conv1/Pad", each) for each in durations),
        *(_event("Gemm", "fc/Gemm", each // 100) for each in durations),
    ]
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(events), encoding="utf-8")
    assert by_kind(profile, model) == {
        "Conv": pytest.approx(2.0),
        "Pad": pytest.approx(2.0),
        "Blur": pytest.approx(1.5),
        "Gemm": pytest.approx(0.02),
    }
