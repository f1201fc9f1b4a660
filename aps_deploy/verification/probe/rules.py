"""What the output of each operator must do when its inputs move: a few hypotheses, the likely one first.

A rule says only *where* the output's pixels belong, read off shapes and attributes; whether the operator keeps that
promise is measured. So an operator without a rule of its own is no gap: what it makes is taken for pixel by pixel work
of the same size, and if it is not, its output is not the shifted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import onnx

from aps_deploy.verification.graph import attribute
from aps_deploy.verification.probe.grids import Grid, Offset, enlarged, sampled
from aps_deploy.verification.probe.states import (
    STILL,
    Array,
    Axis,
    Moving,
    State,
    Value,
    fits,
    is_spatial,
    regrouped,
)

Hypotheses = list[State]
Rule = Callable[[onnx.NodeProto, Sequence[Value], Array], Hypotheses | None]

_LARGEST_STRIDE = 8
"""Strides tried where a region of rearranged pixels is taken as one unit; a selection has one phase per component."""


def hypotheses(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses | None:
    """Return what ``output`` may do when the inputs move; None where it only rearranges pixels and is left open.

    Args:
        node: the operator.
        inputs: its inputs, none of them open; an input left out is a still, empty value.
        output: one of its outputs.
    """
    if not any(isinstance(value.state, Moving) for value in inputs):
        return [STILL]
    return _RULES.get(node.op_type, _pixel_by_pixel)(node, inputs, output)


def closing(grids: Iterable[Grid], output: Array) -> Hypotheses:
    """Return what the output (N, C, H, W) of a region of rearranged pixels may be, if the region is one whole.

    A map as large as one of ``grids`` (or larger: padded), or one that is smaller by a stride, in any phase.
    """
    found: Hypotheses = []
    if output.ndim == 4:
        for grid in dict.fromkeys(grids):
            stride = tuple(map(_stride_between, grid.size, output.shape[2:]))
            if None not in stride:
                size = (output.shape[2], output.shape[3])
                axes: tuple[Axis, ...] = ((output.shape[0],), (output.shape[1],), ("H",), ("W",))
                for made in sampled(grid, (stride[0] or 1, stride[1] or 1), size):
                    found.append(Moving(made, axes))
    return [state for state in found if fits(state, output.shape)]


def _stride_between(whole: int, kept: int) -> int | None:
    if kept >= whole:
        return 1
    stride = whole // kept
    return stride if kept > 0 and whole % kept == 0 and stride <= _LARGEST_STRIDE else None


def _moving(inputs: Sequence[Value]) -> list[tuple[Moving, Array]]:
    return [(value.state, value.array) for value in inputs if isinstance(value.state, Moving)]


def _on_each_grid(inputs: Sequence[Value], axes: Sequence[Axis], output: Array) -> Hypotheses:
    if not any(map(is_spatial, axes)):
        return [STILL]
    grids = dict.fromkeys(state.grid for state, _ in _moving(inputs))
    states: Hypotheses = [Moving(grid, tuple(axes)) for grid in grids]
    return [state for state in states if fits(state, output.shape)] or [STILL]


def _pixel_by_pixel(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    """Broadcasting: each axis of the output is that of the input whose axis it has, counted from the last."""
    axes: list[Axis] = []
    for from_last, length in enumerate(reversed(output.shape), start=1):
        axis: Axis = (length,)
        for state, array in _moving(inputs):
            if from_last <= array.ndim:
                candidate, size = state.axes[-from_last], array.shape[-from_last]
                sides: dict[Axis, int] = {("H",): state.grid.height, ("W",): state.grid.width}
                # Padding and tiling make rows and columns longer than their grid.
                if is_spatial(candidate) and (length == size or length >= sides.get(candidate, length + 1)):
                    axis = candidate
                    break
        axes.insert(0, axis)
    found = _on_each_grid(inputs, axes, output)
    changes_rank = all(array.ndim != output.ndim for _, array in _moving(inputs))
    return [*found, STILL] if changes_rank and STILL not in found else found


def _still(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    return [STILL]


def _open(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> None:
    return None


def _windowed(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    state = inputs[0].state
    if not isinstance(state, Moving) or output.ndim != 4 or not _is_map(state.axes):
        return _pixel_by_pixel(node, inputs, output)
    strides = attribute(node, "strides") or (1, 1)
    size = (output.shape[2], output.shape[3])
    axes: tuple[Axis, ...] = ((output.shape[0],), (output.shape[1],), ("H",), ("W",))
    return [Moving(grid, axes) for grid in sampled(state.grid, (int(strides[0]), int(strides[1])), size)]


def _is_map(axes: Sequence[Axis]) -> bool:
    return len(axes) == 4 and tuple(axes[2:]) == (("H",), ("W",))


def _rescaled(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    """Resize, DepthToSpace, ConvTranspose: the ratio of the sizes says how far the output moves."""
    state, array = inputs[0].state, inputs[0].array
    if not isinstance(state, Moving) or output.ndim != 4 or not _is_map(state.axes):
        return _pixel_by_pixel(node, inputs, output)
    ratios = [Fraction(made, had) for made, had in zip(output.shape[2:], array.shape[2:], strict=True)]
    grid = enlarged(state.grid, (ratios[0].numerator, ratios[1].numerator))
    stride: Offset = (ratios[0].denominator, ratios[1].denominator)
    axes: tuple[Axis, ...] = ((output.shape[0],), (output.shape[1],), ("H",), ("W",))
    candidates = (grid,) if stride == (1, 1) else sampled(grid, stride, (output.shape[2], output.shape[3]))
    found: Hypotheses = [Moving(each, axes) for each in candidates]
    return [each for each in found if fits(each, output.shape)] or _pixel_by_pixel(node, inputs, output)


def _reshaped(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses | None:
    state = inputs[0].state
    if not isinstance(state, Moving):
        return [STILL]
    axes = regrouped(state, inputs[0].array.shape, output.shape)
    return None if axes is None else _on_each_grid(inputs, axes, output)


def _transposed(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    state = inputs[0].state
    assert isinstance(state, Moving)
    order = attribute(node, "perm") or tuple(reversed(range(output.ndim)))
    return _on_each_grid(inputs, [state.axes[axis] for axis in order], output)


def _reduced(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    state, array = inputs[0].state, inputs[0].array
    if not isinstance(state, Moving):
        return [STILL]
    if node.op_type.startswith("Arg"):
        axes = [int(attribute(node, "axis", 0))]
    else:
        given = attribute(node, "axes")
        if given is None and len(inputs) > 1:
            given = inputs[1].array.reshape(-1).tolist()
        if not given and attribute(node, "noop_with_empty_axes", 0):
            return _pixel_by_pixel(node, inputs, output)
        axes = list(given) if given else list(range(array.ndim))
    gone = {int(axis) % array.ndim for axis in axes}
    left = attribute(node, "keepdims", 1)
    kept: list[Axis] = []
    for position, axis in enumerate(state.axes):
        if position not in gone:
            kept.append(axis)
        elif left:
            kept.append((1,))
    return _on_each_grid(inputs, kept, output)


def _along_axis(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses | None:
    """Concat, Split: free along channels, open along rows and columns."""
    moving = _moving(inputs)
    axis = int(attribute(node, "axis", 0)) % output.ndim
    if any(is_spatial(state.axes[axis]) for state, array in moving if array.ndim == output.ndim):
        return None
    axes = list(moving[0][0].axes)
    axes[axis] = (output.shape[axis],)
    return _on_each_grid(inputs, axes, output)


def _gathered(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses | None:
    state, array = inputs[0].state, inputs[0].array
    if not isinstance(state, Moving) or isinstance(inputs[1].state, Moving):
        return None
    axis = int(attribute(node, "axis", 0)) % array.ndim
    if is_spatial(state.axes[axis]):
        return None
    taken: list[Axis] = [(length,) for length in inputs[1].array.shape]
    return _on_each_grid(inputs, [*state.axes[:axis], *taken, *state.axes[axis + 1 :]], output)


def _sliced(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses | None:
    state, array = inputs[0].state, inputs[0].array
    if not isinstance(state, Moving):
        return [STILL]
    steps = inputs[4].array.reshape(-1).tolist() if len(inputs) > 4 else []
    given = inputs[3].array.reshape(-1).tolist() if len(inputs) > 3 else attribute(node, "axes")
    step_of = dict(zip((int(axis) % array.ndim for axis in given or range(len(steps))), steps, strict=False))
    axes: list[Axis] = []
    for position, axis in enumerate(state.axes):
        same = output.shape[position] == array.shape[position]
        if not is_spatial(axis):
            axes.append((output.shape[position],))
            continue
        if step_of.get(position, 1) != 1:
            return None
        sides: dict[Axis, int] = {("H",): state.grid.height, ("W",): state.grid.width}
        period = sides.get(axis)
        # Any stretch as long as the map holds all of it; a shorter one must be seen with what it is joined to.
        if not same and (period is None or output.shape[position] < period):
            return None
        axes.append(axis)
    return _on_each_grid(inputs, axes, output)


def _product(node: onnx.NodeProto, inputs: Sequence[Value], output: Array) -> Hypotheses:
    """MatMul and Gemm: rows of the first, columns of the second, what stands before from either."""
    axes: list[Axis] = [(length,) for length in output.shape]
    first, second = inputs[0], inputs[1]
    swapped = [bool(attribute(node, name, 0)) for name in ("transA", "transB")]
    for value, own, swap in ((first, -2, swapped[0]), (second, -1, swapped[1])):
        if isinstance(value.state, Moving) and value.array.ndim >= 2 and output.ndim >= 2:
            source = {-2: -1, -1: -2}[own] if swap else own
            axes[own] = value.state.axes[source]
            for from_last in range(3, min(value.array.ndim, output.ndim) + 1):
                if is_spatial(value.state.axes[-from_last]):
                    axes[-from_last] = value.state.axes[-from_last]
    return _on_each_grid(inputs, axes, output)


_WINDOWED = ("AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearConv", "DeformConv")
_REDUCING = ("ArgMax", "ArgMin", *(f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean",
             "Min", "Prod", "Sum", "SumSquare")))  # fmt: skip
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_WINDOWED, _windowed),
    **dict.fromkeys(_REDUCING, _reduced),
    **dict.fromkeys(("ConvTranspose", "DepthToSpace", "Resize", "Upsample"), _rescaled),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshaped),
    **dict.fromkeys(("Concat", "Split"), _along_axis),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Shape", "Size"), _still),
    **dict.fromkeys(("GatherElements", "GatherND", "SpaceToDepth"), _open),
    **dict.fromkeys(("Gemm", "MatMul"), _product),
    "Gather": _gathered,
    "Slice": _sliced,
    "Transpose": _transposed,
}
REARRANGING = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "Clip", "Compress", "Concat", "Constant", "ConstantOfShape",
    "DepthToSpace", "Div", "Equal", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or",
    "Pow", "Range", "Reciprocal", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sign", "Slice",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
    *_REDUCING,
})  # fmt: skip
"""Operators of which selections and circular paddings are written. Whatever else reads an open value ends its region:
a network that computes on one fixed component is not equivariant, whatever follows."""
