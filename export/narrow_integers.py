"""Whole numbers of 32 bits in a graph that was traced with 64-bit ones: indices, and the sums that choose them.

Like every precision it is an edit of the one traced graph, made while selections and pooling are still single nodes.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from aps_deploy.export.forms import INDICES_NAME, apply_form
from aps_deploy.export.limbs import limb_bits
from aps_deploy.export.map_shapes import map_shapes
from aps_deploy.export.op_names import (
    DOMAIN,
    EXACT_MEAN_OP,
    Choice,
    choice_of,
    exact_mean_op,
    exact_mean_size,
    index_op,
    is_choosing_only,
    select_op,
    take_op,
    take_stride_of,
)


def with_narrow_integers(traced: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of `trace_onnx`, which is not changed, that computes with whole numbers of 32 bits only.

    Choices and means stay what they are, bit for bit. ``polyphase_indices`` becomes int32.

    Raises:
        ApsError: a map has more pixels than 32-bit sums are written for.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    shapes = map_shapes(apply_form(traced, "where"))
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            narrow = _narrow_op(node, shapes)
            node.name = node.name.replace(node.op_type, narrow)
            node.op_type = narrow
    for value in proto.graph.output:
        if value.name == INDICES_NAME:
            value.type.tensor_type.elem_type = TensorProto.INT32
    # They state 64-bit indices; `finish_onnx` infers them anew.
    del proto.graph.value_info[:]
    return proto


def limb_bits_of_selections(narrow: onnx.ModelProto) -> dict[str, int]:
    """Return the bits of a limb of every selection that adds, by the name of its index, before bodies come in."""
    choices = ((node, choice_of(node.op_type)) for node in narrow.graph.node if node.domain == DOMAIN)
    return {
        node.output[-1]: choice.limb_bits
        for node, choice in choices
        if choice is not None and choice.has_sums and choice.limb_bits is not None
    }


def _narrow_op(node: onnx.NodeProto, shapes: dict[str, tuple[int, int, int]]) -> str:
    choice, stride = choice_of(node.op_type), take_stride_of(node.op_type)
    if choice is not None:
        _, height, width = shapes[node.input[0]]
        bits = limb_bits(height * width // choice.stride**2)
        narrow = Choice(choice.criterion, choice.selection, choice.stride, bits)
        return index_op(narrow) if is_choosing_only(node.op_type) else select_op(narrow)
    if stride is not None:
        return take_op(stride, narrow=True)
    assert node.op_type.startswith(EXACT_MEAN_OP)
    return exact_mean_op(exact_mean_size(node.op_type), narrow=True)
