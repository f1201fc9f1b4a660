"""ONNX files of other tools: a torchvision ResNet as torch.onnx writes it, and a classifier by average colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

SIDE, CLASSES = 32, 5


def export_torchvision(path: Path, *, batch: int | None = None, seed: int = 0) -> Path:
    """Write a small torchvision ResNet; ``batch`` images per run, None for any number."""
    torch.manual_seed(seed)
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES).eval()
    example = torch.randn(batch or 2, 3, SIDE, SIDE)
    shapes = None if batch is not None else ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        network, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False,
        input_names=["x"], output_names=["scores"],
    )  # fmt: skip
    return path


def write_average_colour(path: Path, side: int | str = SIDE, *, num_outputs: int = 2) -> Path:
    """Write a classifier by the average of each channel: no circular shift changes it but for rounding."""
    weights = numpy_helper.from_array(np.arange(15, dtype=np.float32).reshape(3, CLASSES) % 7 - 3, "weights")
    axes = numpy_helper.from_array(np.asarray([2, 3], dtype=np.int64), "axes")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["colours"], keepdims=0),
            helper.make_node("MatMul", ["colours", "weights"], ["scores"]),
        ],
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
            for name, width in (("scores", CLASSES), ("colours", 3))[:num_outputs]
        ],
        [weights, axes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
