"""Small ONNX graphs (N, 3, 8, 8) -> logits (N, 4), each equivariant but for what its name says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIZE = 8
CHANNELS = 4
_OPSET = 20


def make_images(count: int = 1, size: int = SIZE, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)


def node(op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, list(inputs), [output], name=f"{output}_{op_type}", **attributes)


def conv(source: str, output: str, weights: str = "conv3", **attributes: object) -> NodeProto:
    return node("Conv", [source, weights], output, **attributes)


def wrapped(source: str, output: str) -> list[NodeProto]:
    """Circular padding and a convolution."""
    return [node("Pad", [source, "pads"], f"{output}_padded", mode="wrap"), conv(f"{output}_padded", output)]


HEAD = [node("GlobalMaxPool", ["map"], "pooled"), node("Flatten", ["pooled"], "logits")]
"""A maximum is free of order."""


def selection(source: str, output: str, *, smallest: bool = False) -> list[NodeProto]:
    """A selection as others write it: strided slices, norms, ArgMax, Gather."""
    parts = [f"{output}_{dy}{dx}" for dx in (0, 1) for dy in (0, 1)]
    nodes = [node("Slice", [source, f"from_{part[-2:]}", "ends", "spatial", "steps"], part) for part in parts]
    for part in parts:
        nodes.append(node("ReduceSumSquare", [part, "all_axes"], f"{part}_norm", keepdims=0))
        nodes.append(node("Unsqueeze", [f"{part}_norm", "last"], f"{part}_column"))
        nodes.append(node("Unsqueeze", [part, "last"], f"{part}_row"))
    nodes.append(node("Concat", [f"{part}_column" for part in parts], f"{output}_scores", axis=0))
    choice = "ArgMin" if smallest else "ArgMax"
    nodes.append(node(choice, [f"{output}_scores"], f"{output}_index", axis=0, keepdims=0))
    nodes.append(node("Concat", [f"{part}_row" for part in parts], f"{output}_stack", axis=0))
    nodes.append(node("Gather", [f"{output}_stack", f"{output}_index"], output, axis=0))
    return nodes


def model_of(nodes: Sequence[NodeProto], *, size: int = SIZE) -> onnx.ModelProto:
    """Return a checked model of the nodes, with the weights that any of them may read."""
    generator = np.random.default_rng(1)
    weights = {
        "conv3": generator.standard_normal((CHANNELS, 3, 3, 3)),
        "again3": generator.standard_normal((CHANNELS, CHANNELS, 3, 3)),
        "gemm": generator.standard_normal((CHANNELS * size * size, 4)),
        "places": generator.standard_normal((1, 1, size, size)),
    }
    integers = {
        "pads": [0, 0, 1, 1, 0, 0, 1, 1],
        "ends": [2**31 - 1] * 2,
        "steps": [2, 2],
        "spatial": [2, 3],
        "all_axes": [0, 1, 2, 3],
        "last": [0],
        **{f"from_{dy}{dx}": [dy, dx] for dy in (0, 1) for dx in (0, 1)},
        **{"minus_one": [-1], "end": [2**31 - 1], "zero": [0], "one": [1], "rows": [2], "columns": [3]},
    }
    read = {name for each in nodes for name in each.input}
    initializers = [
        numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items() if name in read
    ] + [
        numpy_helper.from_array(np.asarray(values, np.int64), name) for name, values in integers.items() if name in read
    ]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "classes"])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def write(nodes: Sequence[NodeProto], path: Path) -> Path:
    onnx.save(model_of(nodes), path)
    return path


def sliced_padding(source: str, output: str) -> list[NodeProto]:
    """Circular padding by one pixel, written with slices and joins."""
    nodes = []
    for axis, number, result in (("rows", 2, f"{output}_rows"), ("columns", 3, output)):
        nodes += [
            node("Slice", [source, "minus_one", "end", axis], f"{result}_last"),
            node("Slice", [source, "zero", "one", axis], f"{result}_first"),
            node("Concat", [f"{result}_last", source, f"{result}_first"], result, axis=number),
        ]
        source = result
    return nodes
