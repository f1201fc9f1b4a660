"""Channels and sizes of the maps that selections read, which a graph of custom operators does not state."""

from __future__ import annotations

import onnx
import onnx.inliner


def map_shapes(runnable: onnx.ModelProto) -> dict[str, tuple[int, int, int]]:
    """Return the (channels, height, width) of every map (N, C, H, W) by name, 0 for what is not known.

    Args:
        runnable: A graph whose custom operators have bodies; it is not changed.
    """
    whole = onnx.inliner.inline_local_functions(runnable) if runnable.functions else runnable
    whole = onnx.shape_inference.infer_shapes(whole, data_prop=True)
    shapes = {}
    for value in [*whole.graph.input, *whole.graph.value_info]:
        dimensions = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        if len(dimensions) == 4:
            shapes[value.name] = (dimensions[1], dimensions[2], dimensions[3])
    return shapes
