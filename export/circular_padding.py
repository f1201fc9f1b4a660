"""Circular padding as slices and a concatenation, for runtimes whose Pad has no mode ``wrap`` (OpenVINO).

Values are copied and none is computed, so both forms have the same bits everywhere.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aps_deploy.errors import known_name

CircularPadding = Literal["wrap", "concat"]
CIRCULAR_PADDINGS: tuple[CircularPadding, ...] = get_args(CircularPadding)

# Beyond every map; not the largest int64, because TensorRT before 10 has no numbers of more than 32 bits.
_END = np.iinfo(np.int32).max


def resolve_circular_padding(name: str) -> CircularPadding:
    """Return ``name`` as one of the forms of circular padding.

    Raises:
        InputError: no such form.
    """
    return known_name(name, CIRCULAR_PADDINGS, "form of circular padding")


def with_concatenations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto``, which is not changed, with every ``Pad`` of mode ``wrap`` written as slices and concatenations.

    A value of any rank is padded axis by axis: what lies before its end, itself, and what follows its beginning.

    Raises:
        ValueError: the numbers of pixels are computed and not constant.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = _constants(graph)
    nodes: list[onnx.NodeProto] = []
    written: dict[int, str] = {}
    for node in graph.node:
        if node.op_type == "Pad" and _mode(node) == "wrap":
            nodes += _concatenated(node, constants, graph, written)
        else:
            nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    _drop_unused(graph)
    return result


def _constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.int64]]:
    """Return the whole numbers among the graph's constants, by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return {
        name: numpy_helper.to_array(tensor).astype(np.int64)
        for name, tensor in tensors.items()
        if tensor.data_type in whole
    }


def _mode(node: onnx.NodeProto) -> str:
    return next((entry.s.decode() for entry in node.attribute if entry.name == "mode"), "constant")


def _concatenated(
    node: onnx.NodeProto,
    constants: dict[str, npt.NDArray[np.int64]],
    graph: onnx.GraphProto,
    written: dict[int, str],
) -> list[onnx.NodeProto]:
    if node.input[1] not in constants:
        raise ValueError(f"the padding of {node.name} is not constant")
    pads = constants[node.input[1]]
    rank = len(pads) // 2
    has_axes = len(node.input) > 3 and bool(node.input[3])
    axes = [int(axis) for axis in constants[node.input[3]]] if has_axes else list(range(rank))
    padded = [(axis, int(pads[i]), int(pads[i + rank])) for i, axis in enumerate(axes) if pads[i] or pads[i + rank]]
    if not padded:
        return [helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)]
    nodes: list[onnx.NodeProto] = []
    value = node.input[0]
    for number, (axis, before, after) in enumerate(padded):
        output = node.output[0] if number == len(padded) - 1 else f"{node.output[0]}/axis_{axis}"
        # What comes before is the end of the map, what comes behind is its beginning.
        slices = {"end": (-before, _END), "start": (0, after)}
        names = {words: f"{output}/{words}_of_axis_{axis}" for words in slices}
        parts = [*([names["end"]] if before else []), value, *([names["start"]] if after else [])]
        for words, bounds in slices.items():
            if names[words] in parts:
                numbers = [_number(graph, written, each) for each in (*bounds, axis)]
                name = f"{node.name}/Slice_{words}_{axis}"
                nodes.append(helper.make_node("Slice", [value, *numbers], [names[words]], name=name))
        nodes.append(helper.make_node("Concat", parts, [output], name=f"{node.name}/Concat_{axis}", axis=axis))
        value = output
    return nodes


def _number(graph: onnx.GraphProto, written: dict[int, str], value: int) -> str:
    """Return the name of a constant [value], which is added to the graph the first time."""
    if value not in written:
        written[value] = f"circular_padding_{'end' if value == _END else value}"
        graph.initializer.append(numpy_helper.from_array(np.asarray([value], np.int64), written[value]))
    return written[value]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the constants that only the replaced nodes took."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
