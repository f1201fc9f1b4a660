"""Leaving height and width open in a graph that was traced for one size.

Nothing of a traced network depends on the size but its input's shape and the pooling, which divides by the number of
pixels: padding, convolutions, selections and strided slices are written without it. So no second trace is needed, and
the weights are the same.
"""

from __future__ import annotations

import onnx

from aps_deploy.errors import ApsError
from aps_deploy.export.op_names import DOMAIN, EXACT_MEAN_OP, exact_mean_op

HEIGHT_NAME, WIDTH_NAME = "height", "width"

# They would carry the traced size as a constant.
_SIZED = {"Expand", "Reshape", "Resize", "Tile"}


def with_dynamic_size(traced: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of `trace_onnx`, which is not changed, whose images may have any height and width.

    Raises:
        ApsError: an operator keeps the size it was traced with.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    graph = proto.graph
    for node in graph.node:
        if node.op_type in _SIZED and not node.domain:
            raise ApsError(
                f"the node {node.name} ({node.op_type}) keeps the size it was traced with; leave --dynamic-size out, "
                "and export one file for each size."
            )
        if node.domain == DOMAIN and node.op_type.startswith(EXACT_MEAN_OP):
            node.op_type = exact_mean_op(None)
    for dimension, name in zip(graph.input[0].type.tensor_type.shape.dim[2:], (HEIGHT_NAME, WIDTH_NAME), strict=True):
        dimension.dim_param = name
    # They describe maps of the traced size; `finish_onnx` infers them anew.
    del graph.value_info[:]
    return proto
