"""Why a piece of the graph is not equivariant, in words that name what to change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from aps_deploy.verification.graph import attribute
from aps_deploy.verification.instrument import whole_scores
from aps_deploy.verification.probe.result import Kind
from aps_deploy.verification.probe.states import Array, Moving, is_spatial
from aps_deploy.verification.probe.walking import Failure, Walk

Reason = tuple[Kind, str]

_WINDOWED = {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "LpPool", "MaxPool", "QLinearConv"}
_REARRANGED = {"Slice", "SpaceToDepth", "DepthToSpace", "Reshape", "Gather", "Split", "Concat", "Squeeze", "Flatten"}
_CHOOSING = {"Where": 0, "Gather": 1, "GatherND": 1, "GatherElements": 1, "Compress": 1}
_ADDING = {"Einsum", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GroupNormalization", "InstanceNormalization",
           "LayerNormalization", "LogSoftmax", "LpNormalization", "MatMul", "MeanVarianceNormalization",
           "Softmax"}  # fmt: skip

# A different order of addition costs a few units in the last place of the largest number.
_ROUNDING_STEPS = 64
_STEP_OF_WIDTH = {2: 2.0**-10, 4: 2.0**-23, 8: 2.0**-52}


def reason_for(walk: Walk, failure: Failure, scores: Mapping[str, int | None]) -> Reason:
    """Return the kind of a failure and one sentence.

    Args:
        walk: in which it was found, on the same image.
        failure: the piece.
        scores: values that hold the scores (N, K) of a selection, to recognise an exact tie; by name, with the bits of
            their limbs where they are written in limbs, see `SelectionTensors`.
    """
    nodes = [walk.nodes[position] for position in failure.nodes]
    if len(nodes) > 1:
        return _of_region(walk, nodes, scores)
    node = nodes[0]
    if len(set(failure.movements)) > 1:
        words = " and ".join(f"({dy}, {dx})" for dy, dx in dict.fromkeys(failure.movements))
        return "branches", f"it joins maps that moved apart, by {words} pixels: they were taken at different phases"
    own = _of_windows(walk, node) or _of_padding(node) or _of_pieces(node)
    if own is not None:
        return own
    rounding = _is_rounding(failure)
    constant = _spatial_constant(walk, node, failure)
    if constant is not None and not rounding:
        return "position", f"{constant} holds a number of its own for each position"
    if node.op_type in _ADDING or node.op_type.startswith("Reduce"):
        if rounding:
            return "order", f"{node.op_type} adds the numbers of a map in an order that depends on their positions"
        return "position", f"{node.op_type} joins positions with weights of their own, so it knows where a pixel is"
    if rounding:
        return "order", f"{node.op_type} rounds the same numbers otherwise at another position"
    if node.op_type in ("Resize", "Upsample"):
        return _of_resizing(walk, node)
    return "other", f"{node.op_type} gives something else for the shifted map"


def _of_region(walk: Walk, nodes: list[onnx.NodeProto], scores: Mapping[str, int | None]) -> Reason:
    if not any(_chooses(walk, node) for node in nodes):
        first = _of_pieces(nodes[0])
        return first or ("grid", f"it rearranges pixels on a fixed grid, up to {_name(nodes[-1])}")
    made = {name for node in nodes for name in node.output}
    if any(_ties(whole_scores(walk.arrays[name], scores[name])) for name in sorted(scores.keys() & made)):
        return "tie", "the two best components of this selection tie exactly, and no rule by index breaks a tie alike"
    sums = sorted(
        {node.op_type for node in nodes if node.op_type.startswith("Reduce") and _works_in_floats(walk, node)}
    )
    words = f": it compares float sums ({', '.join(sums)}), which change with the order of addition" if sums else ""
    return "selection", f"the selection up to {_name(nodes[-1])} takes another component of the shifted map{words}"


def _chooses(walk: Walk, node: onnx.NodeProto) -> bool:
    position = _CHOOSING.get(node.op_type)
    return position is not None and not walk.is_constant(node.input[position])


def _ties(scores: Array) -> bool:
    ranked = np.sort(scores.reshape(-1, scores.shape[-1]).astype(np.float64), axis=1)
    return bool((ranked[:, -1] == ranked[:, -2]).any() or (ranked[:, 0] == ranked[:, 1]).any())


def _works_in_floats(walk: Walk, node: onnx.NodeProto) -> bool:
    return walk.arrays[node.input[0]].dtype.kind not in "iub" and node.op_type not in ("ReduceMax", "ReduceMin")


def _of_windows(walk: Walk, node: onnx.NodeProto) -> Reason | None:
    if node.op_type not in _WINDOWED:
        return None
    strides = tuple(attribute(node, "strides") or ())
    if any(step > 1 for step in strides) and node.op_type != "ConvTranspose":
        shown = str(strides[0]) if len(set(strides)) == 1 else "x".join(map(str, strides))
        return "grid", f"{node.op_type} with stride {shown} keeps a fixed grid: an odd shift leaves other pixels"
    if any(attribute(node, "pads") or ()) or str(attribute(node, "auto_pad", "NOTSET")).startswith("SAME"):
        return "padding", f"{node.op_type} pads with zeros, where a circular shift brings in pixels"
    before, after = walk.arrays[node.input[0]].shape, walk.arrays[node.output[0]].shape
    if len(before) == len(after) == 4 and any(made < had for made, had in zip(after[2:], before[2:], strict=True)):
        lost = "x".join(str(had - made) for made, had in zip(after[2:], before[2:], strict=True))
        return "border", f"{node.op_type} without padding loses {lost} rows and columns at the border"
    return None


def _of_padding(node: onnx.NodeProto) -> Reason | None:
    if node.op_type != "Pad":
        return None
    return "padding", f"Pad with mode {attribute(node, 'mode', 'constant')}, where only wrap is circular"


def _of_resizing(walk: Walk, node: onnx.NodeProto) -> Reason:
    before, after = walk.arrays[node.input[0]].shape, walk.arrays[node.output[0]].shape
    if all(made % had == 0 for made, had in zip(after, before, strict=True)):
        return "padding", f"{node.op_type} interpolates at the border without going around it"
    return "grid", f"{node.op_type} interpolates on a fixed grid"


def _of_pieces(node: onnx.NodeProto) -> Reason | None:
    if node.op_type not in _REARRANGED:
        return None
    return "grid", f"{node.op_type} keeps or cuts pixels on a fixed grid, and nothing chooses by content among them"


def _spatial_constant(walk: Walk, node: onnx.NodeProto, failure: Failure) -> str | None:
    """Return the name of a constant that is as wide or as high as the map it is joined with, pixel by pixel."""
    if node.op_type in _WINDOWED | _ADDING:
        return None
    state = next((walk.states[name] for name in failure.inputs if isinstance(walk.states[name], Moving)), None)
    for name in node.input:
        if isinstance(state, Moving) and name and walk.is_constant(name):
            shape = walk.arrays[name].shape
            axes = state.axes[-len(shape) :] if shape else ()
            pairs = zip(axes, shape[-len(axes) :] if axes else (), strict=True)
            if any(is_spatial(axis) and length > 1 for axis, length in pairs):
                return str(name)
    return None


def _is_rounding(failure: Failure) -> bool:
    """Return whether the outputs differ as sums in another order do, and not in what they mean."""
    expected = failure.expected
    if expected.dtype.kind in "iub" or expected.shape != failure.found.shape:
        return False
    difference = largest_difference(failure)
    if difference is None:
        return False
    largest = float(np.abs(expected.astype(np.float64)).max(initial=0.0))
    step = _STEP_OF_WIDTH.get(expected.dtype.itemsize, 0.0)
    return difference <= _ROUNDING_STEPS * step * largest


def largest_difference(failure: Failure) -> float | None:
    """Return the largest absolute difference of the two outputs; None where there is no such number."""
    if failure.expected.shape != failure.found.shape or failure.expected.dtype.kind not in "iubfV":
        return None
    with np.errstate(invalid="ignore"):
        difference = np.abs(failure.expected.astype(np.float64) - failure.found.astype(np.float64))
    value = float(difference.max(initial=0.0))
    return value if np.isfinite(value) else None


def differing_percent(failure: Failure) -> float:
    """Return how many elements of the two outputs have other bits, in percent."""
    first, second = failure.expected, failure.found
    if first.shape != second.shape or first.dtype != second.dtype or first.size == 0:
        return 100.0
    bits = [np.ascontiguousarray(array).view(np.uint8).reshape(array.size, -1) for array in (first, second)]
    return 100 * float((bits[0] != bits[1]).any(axis=1).mean())


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])
