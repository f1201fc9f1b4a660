"""Small ONNX models written by hand, each with its value in numpy, so that no exporter is needed to test a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata

CLASS_NAMES = ("ape", "bee", "cat", "dog", "eel")
SMALL = Preprocessing(image_size=8, resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
METADATA = ModelMetadata(
    architecture="tiny_aps1",
    num_classes=len(CLASS_NAMES),
    class_names=CLASS_NAMES,
    preprocessing=SMALL,
    size_divisor=4,
    selection="exact",
    selection_layers=("layer1",),
    polyphase="where",
    precision="fp32",
)

Dimension = int | str
DYNAMIC: tuple[Dimension, ...] = ("N", 3, "H", "W")


def weights() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    head = generator.standard_normal((4, len(CLASS_NAMES))).astype(np.float32)
    return kernel, head


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: dict[str, npt.NDArray[np.generic]] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    *,
    opset: int = 20,
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(value, name) for name, value in (initializers or {}).items()]
    domains = sorted({function.domain for function in functions})
    model = helper.make_model(
        helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), constants),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)],
        functions=list(functions),
        producer_name="by hand",
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def classifier(
    *,
    input_name: str = "images",
    output_names: Sequence[str] = ("logits",),
    shape: Sequence[Dimension] = DYNAMIC,
    dtype: int = TensorProto.FLOAT,
    metadata: ModelMetadata | None = METADATA,
    with_indices: bool = True,
) -> onnx.ModelProto:
    """Return circular padding, 3x3 convolution, global average pool and linear head, with the values of `expected`.

    With ``with_indices`` a second output holds which half of the channels had the larger maximum: an int64 per image.
    """
    kernel, head = weights()
    nodes = [
        helper.make_node("Pad", [input_name, "pads"], ["padded"], mode="wrap"),
        helper.make_node("Conv", ["padded", "kernel"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("ReduceMean", ["map", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], [output_names[0]]),
    ]
    batch, _, height, width = shape
    del height, width
    outputs = [helper.make_tensor_value_info(output_names[0], dtype, [batch, len(CLASS_NAMES)])]
    if with_indices:
        nodes.append(helper.make_node("ArgMax", ["pooled"], ["polyphase_indices"], axis=1, keepdims=1))
        outputs.append(helper.make_tensor_value_info("polyphase_indices", TensorProto.INT64, [batch, 1]))
    element = helper.tensor_dtype_to_np_dtype(dtype)
    model = make_model(
        nodes,
        [helper.make_tensor_value_info(input_name, dtype, list(shape))],
        outputs,
        {
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            "axes": np.array([2, 3], np.int64),
            "kernel": kernel.astype(element),
            "head": head.astype(element),
        },
    )
    if metadata is not None:
        helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    return model


def expected(images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the logits of `classifier` in float64 and its indices, computed by rolling: no padding, no convolution."""
    kernel, head = weights()
    total = np.zeros((len(images), 4, *images.shape[2:]))
    for row in range(3):
        for column in range(3):
            rolled = np.roll(images.astype(np.float64), (1 - row, 1 - column), axis=(2, 3))
            total += np.einsum("oc,nchw->nohw", kernel[:, :, row, column].astype(np.float64), rolled)
    pooled = total.mean(axis=(2, 3))
    return pooled @ head.astype(np.float64), pooled.argmax(axis=1)[:, None]


def images(count: int, height: int = 8, width: int = 8, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, height, width)).astype(np.float32)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
