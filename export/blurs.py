"""Joins each selection with the blur in front of it into one node, for kernels that do both in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aps_deploy.export.bodies import CHANNELS_ATTRIBUTE, PADS_ATTRIBUTE
from aps_deploy.export.op_names import DOMAIN, blurred_op, choice_of, take_stride_of


def with_blurs(traced: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``traced``, which is not changed, with ``Blurred`` operators where selections take a blurred float32 map.

    A blur is a circular ``Pad`` and a ``Conv`` with one filter per channel. It stays where something else takes it.
    Blurs of other precisions stay as they are: their kernels are the runtime's own.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.domain == DOMAIN and (choice_of(node.op_type) or take_stride_of(node.op_type)):
            convolution = producers.get(node.input[0])
            padding = None if convolution is None else producers.get(convolution.input[0])
            if convolution is not None and padding is not None and _is_blur(convolution, padding, weights):
                _take_in(node, convolution, padding, weights)
    _drop_unused(graph)
    return proto


def _is_blur(convolution: onnx.NodeProto, padding: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    if convolution.op_type != "Conv" or len(convolution.input) != 2 or convolution.input[1] not in weights:
        return False
    filters = weights[convolution.input[1]]
    if len(filters.dims) != 4 or filters.dims[1] != 1 or filters.dims[2] != filters.dims[3]:
        return False
    settings = {entry.name: helper.get_attribute_value(entry) for entry in convolution.attribute}
    plain = (
        settings.get("group") == filters.dims[0]
        and set(settings.get("strides", [1])) == {1}
        and set(settings.get("dilations", [1])) == {1}
        and set(settings.get("pads", [0])) == {0}
    )
    return (
        plain
        and filters.data_type == onnx.TensorProto.FLOAT
        and padding.op_type == "Pad"
        and any(entry.name == "mode" and entry.s == b"wrap" for entry in padding.attribute)
        and _pads(padding, weights) == _pads_of_filter(filters.dims[2])
    )


def _pads(padding: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> list[int] | None:
    tensor = weights.get(padding.input[1])
    values: npt.NDArray[np.int64] | None = None if tensor is None else numpy_helper.to_array(tensor)
    return None if values is None or len(padding.input) > 3 else [int(value) for value in values]


def _pads_of_filter(size: int) -> list[int]:
    """Return what keeps the map's size, as ``Pad`` takes it: even filters lie half a pixel off the centre."""
    before = (size - 1) // 2
    after = size - 1 - before
    return [0, 0, before, before, 0, 0, after, after]


def _take_in(
    node: onnx.NodeProto, convolution: onnx.NodeProto, padding: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> None:
    filters = weights[convolution.input[1]]
    node.name = node.name.replace(node.op_type, blurred_op(node.op_type))
    node.op_type = blurred_op(node.op_type)
    node.input[:] = [padding.input[0], convolution.input[1], *list(node.input)[1:]]
    node.attribute.append(helper.make_attribute(PADS_ATTRIBUTE, _pads_of_filter(filters.dims[2])))
    node.attribute.append(helper.make_attribute(CHANNELS_ATTRIBUTE, filters.dims[0]))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that nothing takes any more."""
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted.update(node.input)
            kept.append(node)
    _replace(graph.node, reversed(kept))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in wanted])


def _replace(field: object, entries: Iterable[onnx.NodeProto | onnx.TensorProto]) -> None:
    # Copied before the deletion, which frees what is still in the list.
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]
