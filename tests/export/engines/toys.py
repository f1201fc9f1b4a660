"""Networks of two convolutions with everything an exported file has: a selection, exact pooling, both outputs.

Made without PyTorch, and small: the compiler takes its time for every convolution.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aps_deploy.export.dynamic_size import with_dynamic_size
from aps_deploy.export.forms import PolyphaseForm, apply_form, selection_values
from aps_deploy.export.narrow_integers import with_narrow_integers
from aps_deploy.export.onnx_export import finish_for_tensorrt8
from aps_deploy.export.op_names import Choice, exact_mean_op, select_op
from aps_deploy.export.precisions import in_half_precision
from aps_deploy.export.quantisation import quantised
from aps_deploy.runtimes.metadata import METADATA_KEY, ModelMetadata, SelectionTensors

SIZE = 8
CHANNELS = 8
CLASSES = ("cat", "dog", "emu")
Precision = Literal["fp32", "fp16", "bf16", "int8"]


def traced_toy(opset: int = 20) -> onnx.ModelProto:
    """Pad, convolve, select one of four components, pad, convolve, pool, classify; its form is not chosen yet."""
    generator = np.random.default_rng(0)
    shapes = {
        "first.weight": (CHANNELS, 3, 3, 3),
        "second.weight": (CHANNELS, CHANNELS, 3, 3),
        "fc.weight": (len(CLASSES), CHANNELS),
        "fc.bias": (len(CLASSES),),
    }
    weights = [
        numpy_helper.from_array((0.3 * generator.standard_normal(shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    weights.append(numpy_helper.from_array(np.asarray([0, 0, 1, 1, 0, 0, 1, 1]), "ring"))
    weights.append(numpy_helper.from_array(np.asarray([1]), "column"))
    choice, half = Choice(), SIZE // 2
    nodes = [
        helper.make_node("Pad", ["images", "ring"], ["ringed"], name="first/Pad", mode="wrap"),
        helper.make_node("Conv", ["ringed", "first.weight"], ["map"], name="first/Conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["map"], ["positive"], name="first/Relu"),
        helper.make_node(
            select_op(choice),
            ["positive"],
            ["kept", "pool/polyphase_index"],
            name=f"pool/{select_op(choice)}",
            domain="aps",
            plugin_namespace="aps",
            plugin_version="1",
            stride=2,
        ),
        helper.make_node("Pad", ["kept", "ring"], ["ringed_again"], name="second/Pad", mode="wrap"),
        helper.make_node("Conv", ["ringed_again", "second.weight"], ["small"], name="second/Conv", kernel_shape=[3, 3]),
        helper.make_node(exact_mean_op((half, half)), ["small"], ["mean"], name="mean/ExactMean", domain="aps"),
        helper.make_node("Gemm", ["mean", "fc.weight", "fc.bias"], ["logits"], name="fc/Gemm", transB=1),
        helper.make_node("Unsqueeze", ["pool/polyphase_index", "column"], ["index_column"], name="Unsqueeze"),
        helper.make_node("Concat", ["index_column"], ["polyphase_indices"], name="Concat", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)]),
            helper.make_tensor_value_info("polyphase_indices", TensorProto.INT64, ["batch", 1]),
        ],
        weights,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("aps", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def narrowed_toy(precision: Precision) -> onnx.ModelProto:
    """The traced graph in one of the precisions."""
    return _in_precision(traced_toy(22 if precision == "bf16" else 20), precision)


def _in_precision(traced: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    if precision == "int8":
        images = np.random.default_rng(1).standard_normal((32, 3, SIZE, SIZE)).astype(np.float32)
        return quantised(traced, images, "minmax")
    return traced if precision == "fp32" else in_half_precision(traced, precision)


def legacy_toy(precision: Literal["fp32", "fp16", "int8"] = "fp32") -> onnx.ModelProto:
    """The file for TensorRT 8, in memory and without metadata."""
    return finish_for_tensorrt8(_in_precision(with_narrow_integers(traced_toy()), precision))


def toy(precision: Precision = "fp32", form: PolyphaseForm = "where") -> onnx.ModelProto:
    """A finished file, with its metadata, in memory."""
    proto = apply_form(narrowed_toy(precision), form)
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    ((index, scores),) = selection_values(proto)
    metadata = ModelMetadata(
        architecture="toy",
        num_classes=len(CLASSES),
        class_names=CLASSES,
        size_divisor=2,
        selection="exact",
        criterion="l2",
        selection_layers=("pool",),
        selections=(SelectionTensors("pool", index, scores),),
        polyphase=form,
        precision=precision,
        checkpoint_sha256="0" * 64,
    )
    proto.metadata_props.add(key=METADATA_KEY, value=metadata.to_json())
    return proto


def write_toy(path: Path, precision: Precision = "fp32", form: PolyphaseForm = "where", **changes: Any) -> Path:
    """A finished file on disk; ``changes`` replace fields of its metadata."""
    proto = toy(precision, form)
    (entry,) = proto.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **changes})
    onnx.save(proto, path)
    return path


def dynamic_toy(precision: Precision = "fp32") -> onnx.ModelProto:
    """The same with an open height and width, in memory and without metadata."""
    proto = apply_form(with_dynamic_size(narrowed_toy(precision)), "where")
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
