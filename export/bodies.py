"""The bodies of the custom operators, in standard ONNX operators.

They repeat `aps_deploy.polyphase` operation for operation, so equal energies give equal integers, equal indices and
equal bits. Component k = dy + s*dx is ``X[:, :, dy::s, dx::s]``; ties go to the lowest k. Four things differ from
the obvious way to write them, each for a reason:

* The index comes from a chain of comparisons. ArgMax and TopK promise no order among ties in TensorRT.
* Non-finite values are found by ``value <= FLT_MAX``, which is false for NaN and infinity alike. ReduceMax is no
  help: in ONNX Runtime 1.31 on a CPU it loses a NaN nearly always (29 of 30 small maps).
* A blur takes its padding and its number of groups from the node's attributes: a body is shared by layers that
  differ in both, and they must be constants.
* Energies are sorted into components by SpaceToDepth, which needs no shape arithmetic in the graph. It numbers
  components dy*s + dx, so the scores (one per component, N x s*s of them) are permuted at the end.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from aps_deploy.export.body_writer import BodyWriter
from aps_deploy.export.limbs import (
    QUANTISED_BITS,
    limb_bits,
    num_limbs,
    write_limb_chain,
    write_limb_sums,
    write_limb_total,
)
from aps_deploy.export.one_pass import write_one_pass_scores
from aps_deploy.export.op_names import Choice, blurred_op, exact_mean_op, index_op, select_op, take_op
from aps_deploy.plugins.tensorrt.operators import PluginOperator

# `gather` differs from `where` in how it takes, `one-pass` in that and in how it sums.
BodyForm = Literal["where", "gather", "one-pass"]

# The value inside an index body that holds the (N, s*s) scores, or sums of limbs that make them up; the exporter looks
# for it after inlining.
SCORES = "polyphase_scores"
NODE_ATTRIBUTES = ("plugin_namespace", "plugin_version", "stride")
# Of the blurred operators only: what circular padding adds, as `Pad` takes it (8 integers), and the groups of the blur.
PADS_ATTRIBUTE, CHANNELS_ATTRIBUTE = "pads", "channels"

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_QUANTISED_MAX = 2.0**QUANTISED_BITS
_SCALE_FLOOR = 2.0**-90
# A slice end beyond every map; TensorRT keeps shapes in 32 bits in places, so not the largest int64.
_LAST = np.iinfo(np.int32).max


def index_function(
    choice: Choice, *, form: BodyForm, opset: int, blurred: bool = False, groups: int = 1
) -> onnx.FunctionProto:
    """Return ``PolyphaseIndex_*``: X (N, C, H, W) -> I (N,) int64; with ``blurred``, ``BlurredIndex_*``: X, K -> I.

    ``groups``, a divisor of C, is the form ``one-pass``'s; the others need none.
    """
    writer = BodyWriter(["I"], opset=opset, index_dtype=_index_dtype(choice.limb_bits is not None))
    _write_index(writer, choice, form, _write_map(writer, blurred), groups)
    return _function(writer, index_op(choice), blurred, [])


def take_function(
    stride: int, *, form: BodyForm, opset: int, blurred: bool = False, narrow: bool = False
) -> onnx.FunctionProto:
    """Return ``PolyphaseTake``: X (N, C, H, W), I (N,) -> Y (N, C, H/s, W/s); or ``BlurredTake``: X, K, I -> Y.

    With ``narrow`` I is int32, which the form ``gather`` cannot take: ONNX has ``GatherND`` for int64 only.
    """
    writer = BodyWriter(["Y"], opset=opset, index_dtype=_index_dtype(narrow))
    _write_take(writer, stride, form, _write_map(writer, blurred))
    return _function(writer, take_op(stride, narrow=narrow), blurred, ["I"])


def select_function(
    choice: Choice, *, form: BodyForm, opset: int, blurred: bool = False, groups: int = 1
) -> onnx.FunctionProto:
    """Return ``PolyphaseSelect_*``: X (N, C, H, W) -> Y (N, C, H/s, W/s), I (N,); or ``BlurredSelect_*``: X, K.

    ``groups`` as in `index_function`.
    """
    writer = BodyWriter(["Y", "I"], opset=opset, index_dtype=_index_dtype(choice.limb_bits is not None))
    source = _write_map(writer, blurred)
    _write_index(writer, choice, form, source, groups)
    _write_take(writer, choice.stride, form, source)
    return _function(writer, select_op(choice), blurred, [])


def plugin_function(operator: PluginOperator, *, opset: int) -> onnx.FunctionProto:
    """Return the body of an operator that a TensorRT plugin computes; see `plugins.tensorrt.operators` for the types.

    The three bodies of a selection, one after the other, are the body of `select_function`. Maxima M (N, B) and scores
    S (N, P, s*s) come in parts, as many as there are blocks of threads in the plugin; here there is one.
    """
    if operator.kind == "energy":
        writer, inputs = BodyWriter(["E", "M"], opset=opset), ["X"]
        values = writer.op("Cast", ["X"], "values", to=onnx.TensorProto.FLOAT)
        energy = _channel_sum(writer, Choice(f"l{operator.power}"), values)
        is_number = writer.op("LessOrEqual", [energy, writer.real(_FLOAT32_MAX)], "is_number")
        bounded = writer.op("Where", [is_number, energy, writer.real(float("inf"))], "bounded")
        writer.reduce("ReduceMax", bounded, (2, 3), "M", keepdims=0)
        writer.op("Squeeze", [energy, writer.integers(1)], "E")
    elif operator.kind == "score":
        writer, inputs = BodyWriter(["S"], opset=opset), ["E", "M"]
        energy = writer.op("Unsqueeze", ["E", writer.integers(1)], "energy")
        largest = writer.reduce("ReduceMax", "M", (1,), "largest", keepdims=1)
        peak = writer.op("Unsqueeze", [largest, writer.integers(2, 3)], "peak")
        finite = writer.op("LessOrEqual", [peak, writer.real(_FLOAT32_MAX)], "finite")
        sums = _component_sums(writer, _scaled_components(writer, operator.stride, energy, peak, finite))
        ordered = _put_in_order(writer, operator.stride, sums, "ordered_sums")
        writer.op("Unsqueeze", [ordered, writer.integers(1)], "S")
    else:
        writer, inputs = BodyWriter(["Y", "I"], opset=opset), ["X", "S"]
        _write_choice(writer, operator)
        _blend(writer, "X", operator.stride)
    return writer.function(operator.op_type, inputs, attributes=NODE_ATTRIBUTES)


def decision_function(operator: PluginOperator, *, opset: int) -> onnx.FunctionProto:
    """Return the part of a ``select`` operator's body that takes nothing: S (N, P, s*s) -> I (N,)."""
    writer = BodyWriter(["I"], opset=opset)
    _write_choice(writer, operator)
    return writer.function(decision_op(operator), ["S"], attributes=NODE_ATTRIBUTES)


def decision_op(operator: PluginOperator) -> str:
    """Return the type of `decision_function`."""
    return f"{operator.op_type}Index"


def _write_choice(writer: BodyWriter, operator: PluginOperator) -> None:
    scores = writer.reduce("ReduceSum", "S", (1,), SCORES, keepdims=0)
    _write_chain(writer, scores, Choice("l2_min" if operator.smallest else "l2", stride=operator.stride))


def _index_dtype(narrow: bool) -> type[np.int32] | type[np.int64]:
    return np.int32 if narrow else np.int64


def _function(writer: BodyWriter, op_type: str, blurred: bool, further_inputs: list[str]) -> onnx.FunctionProto:
    inputs = ["X", "K", *further_inputs] if blurred else ["X", *further_inputs]
    attributes = (*NODE_ATTRIBUTES, PADS_ATTRIBUTE, CHANNELS_ATTRIBUTE) if blurred else NODE_ATTRIBUTES
    return writer.function(blurred_op(op_type) if blurred else op_type, inputs, attributes=attributes)


def _write_map(writer: BodyWriter, blurred: bool) -> str:
    """Return the map that components are taken of: X, or X blurred by K (C, 1, f, f), one filter per channel."""
    if not blurred:
        return "X"
    pads = writer.op("Constant", [], "pads", references={"value_ints": PADS_ATTRIBUTE})
    padded = writer.op("Pad", ["X", pads], "padded", mode="wrap")
    return writer.op("Conv", [padded, "K"], "blurred", references={"group": CHANNELS_ATTRIBUTE})


def exact_mean_function(size: tuple[int, int] | None, *, opset: int, narrow: bool = False) -> onnx.FunctionProto:
    """Return ``ExactMean_HxW``: X (N, C, H, W) float32 -> Y (N, C), equal bits wherever the map is rolled to.

    Args:
        size: (H, W); None writes ``ExactMean``, which takes maps of any size and counts their pixels when it runs.
        opset: Version of the standard operators.
        narrow: Add up in 32-bit whole numbers, see `limbs`; the bits are the same. Maps of one size only.
    """
    writer = BodyWriter(["Y"], opset=opset)
    magnitude = writer.op("Abs", ["X"], "magnitude")
    peak, finite, _ = _finite_peak(writer, magnitude, (2, 3))
    clean = writer.op("Where", [finite, "X", writer.real(0.0)], "clean")
    bounded = writer.op("Max", [peak, writer.real(_SCALE_FLOOR)], "bounded_peak")
    total32 = _write_total(writer, _scale(writer, clean, bounded), size if narrow else None)
    unit = writer.op("Mul", [bounded, writer.real(1.0 / _QUANTISED_MAX)], "unit")
    real_total = writer.op("Mul", [total32, unit], "real_total")
    mean = writer.op("Div", [real_total, _num_pixels(writer, size)], "mean")
    marked = writer.op("Where", [finite, mean, writer.real(float("nan"))], "marked_mean")
    writer.op("Squeeze", [marked, writer.integers(2, 3)], "Y")
    return writer.function(exact_mean_op(size, narrow=narrow), ["X"])


def _write_total(writer: BodyWriter, rounded: str, narrow_size: tuple[int, int] | None) -> str:
    """Write the sum of whole numbers over a map as float32, rounded once; in 32 bits where the map's size is given."""
    if narrow_size is not None:
        return write_limb_total(writer, rounded, limb_bits(narrow_size[0] * narrow_size[1]))
    total = writer.reduce("ReduceSum", _whole64(writer, rounded), (2, 3), "total", keepdims=1)
    return writer.op("Cast", [total], "total32", to=onnx.TensorProto.FLOAT)


def _num_pixels(writer: BodyWriter, size: tuple[int, int] | None) -> str:
    if size is not None:
        return writer.real(size[0] * size[1])
    sides = writer.op("Shape", ["X"], "sides", start=2, end=4)
    count = writer.op("ReduceProd", [sides], "count", keepdims=0)
    # Exact up to 2**24 pixels, as the constant is.
    return writer.op("Cast", [count], "num_pixels", to=onnx.TensorProto.FLOAT)


def _write_index(writer: BodyWriter, choice: Choice, form: BodyForm, source: str, groups: int) -> None:
    # The energies of a half-precision map must be float32: rounding them breaks one shifted pair in five.
    values = writer.op("Cast", [source], "values", to=onnx.TensorProto.FLOAT)
    if choice.criterion in ("linf", "max"):
        scores = _peak_scores(writer, choice, values)  # maxima are free of order in both modes
    elif choice.selection == "float":
        scores = _norm_scores(writer, choice, values)
    elif form == "one-pass":
        power = 1 if choice.criterion.startswith("l1") else 2
        scores = write_one_pass_scores(writer, values, power=power, stride=choice.stride, groups=groups)
    else:
        scores = _sum_scores(writer, choice, values)
    if choice.limb_bits is None or not choice.has_sums:
        _write_chain(writer, _put_in_order(writer, choice.stride, scores, SCORES), choice)
    else:
        ordered = _put_in_order(writer, choice.stride, scores, SCORES, num_limbs(choice.limb_bits))
        write_limb_chain(writer, ordered, choice)


def _put_in_order(writer: BodyWriter, stride: int, scores: str, name: str, num_limbs: int = 1) -> str:
    """Write the scores (N, num_limbs*s*s) of SpaceToDepth's components, dy*s + dx, in order of k = dy + s*dx."""
    by_component = [dy * stride + dx for dx in range(stride) for dy in range(stride)]
    columns = [limb * stride**2 + column for limb in range(num_limbs) for column in by_component]
    return writer.op("Gather", [scores, writer.index(*columns)], name, axis=1)


def _sum_scores(writer: BodyWriter, choice: Choice, values: str) -> str:
    energy = _channel_sum(writer, choice, values)
    peak, finite, bounded_energy = _finite_peak(writer, energy, (1, 2, 3))
    rounded = _scaled_components(writer, choice.stride, bounded_energy, peak, finite)
    if choice.limb_bits is not None:
        return write_limb_sums(writer, rounded, choice.limb_bits, keepdims=0)
    return _component_sums(writer, rounded)


def _scaled_components(writer: BodyWriter, stride: int, energy: str, peak: str, finite: str) -> str:
    """Write energies (N, 1, H, W) on the scale of their peak, whole, as (N, s*s, H/s, W/s) in SpaceToDepth's order."""
    clean = writer.op("Where", [finite, energy, writer.real(0.0)], "clean_energy")
    bounded_peak = writer.op("Max", [peak, writer.real(_SCALE_FLOOR)], "bounded_peak")
    components = writer.op("SpaceToDepth", [clean], "components", blocksize=stride)
    return _scale(writer, components, bounded_peak)


def _component_sums(writer: BodyWriter, rounded: str) -> str:
    return writer.reduce("ReduceSum", _whole64(writer, rounded), (2, 3), "component_sums", keepdims=0)


def _peak_scores(writer: BodyWriter, choice: Choice, values: str) -> str:
    magnitude = writer.op("Abs", [values], "magnitude")
    _, finite, bounded = _finite_peak(writer, magnitude, (1, 2, 3))
    source = bounded if choice.criterion == "linf" else values
    highest = writer.reduce("ReduceMax", source, (1,), "highest", keepdims=1)
    # Cleaned after the reduction: what a NaN did to it no longer matters, and the map is C times smaller.
    clean = writer.op("Where", [finite, highest, writer.real(0.0)], "clean_highest")
    components = writer.op("SpaceToDepth", [clean], "components", blocksize=choice.stride)
    return writer.reduce("ReduceMax", components, (2, 3), "component_peaks", keepdims=0)


def _norm_scores(writer: BodyWriter, choice: Choice, values: str) -> str:
    components = writer.op(
        "SpaceToDepth", [_channel_sum(writer, choice, values)], "components", blocksize=choice.stride
    )
    norms = writer.reduce("ReduceSum", components, (2, 3), "component_sums", keepdims=0)
    if choice.criterion.startswith("l2"):
        norms = writer.op("Sqrt", [norms], "norms")
    _, finite, _ = _finite_peak(writer, norms, (1,))
    return writer.op("Where", [finite, norms, writer.real(0.0)], "clean_norms")


def _channel_sum(writer: BodyWriter, choice: Choice, values: str) -> str:
    # Not ReduceSum of Abs: in ONNX Runtime 1.31 its fast paths add in an order that depends on the batch (79 of 150
    # random shapes) and on the number of threads (13 of 150). ReduceSumSquare and ReduceL1 did so for none.
    reduction = "ReduceL1" if choice.criterion.startswith("l1") else "ReduceSumSquare"
    return writer.reduce(reduction, values, (1,), "energy", keepdims=1)


def _finite_peak(writer: BodyWriter, magnitude: str, axes: tuple[int, ...]) -> tuple[str, str, str]:
    """Write the largest magnitude; return it, whether all values are finite, and the values with NaN as infinity."""
    largest = writer.real(_FLOAT32_MAX)
    is_number = writer.op("LessOrEqual", [magnitude, largest], "is_number")
    bounded = writer.op("Where", [is_number, magnitude, writer.real(float("inf"))], "bounded")
    peak = writer.reduce("ReduceMax", bounded, axes, "peak", keepdims=1)
    return peak, writer.op("LessOrEqual", [peak, largest], "finite"), bounded


def _scale(writer: BodyWriter, values: str, bounded_peak: str) -> str:
    """Write the values on the scale on which the peak is 2**30, rounded to whole numbers, still as float32."""
    scale = writer.op("Div", [writer.real(_QUANTISED_MAX), bounded_peak], "scale")
    return writer.op("Round", [writer.op("Mul", [values, scale], "scaled")], "rounded")


def _whole64(writer: BodyWriter, rounded: str) -> str:
    return writer.op("Cast", [rounded], "quantised", to=onnx.TensorProto.INT64)


def _write_chain(writer: BodyWriter, scores: str, choice: Choice) -> None:
    number = choice.stride**2
    comparison = "Less" if choice.criterion.endswith("_min") else "Greater"
    candidates = writer.split(scores, [f"score_{k}" for k in range(number)], axis=1)
    best, index = candidates[0], writer.index(0)
    for k, candidate in enumerate(candidates[1:], start=1):
        # Strictly better, so that a tie stays with the lower index.
        better = writer.op(comparison, [candidate, best], f"better_{k}")
        index = writer.op("Where", [better, writer.index(k), index], f"index_{k}")
        if k < number - 1:
            best = writer.op("Where", [better, candidate, best], f"best_{k}")
    writer.op("Squeeze", [index, writer.integers(1)], "I")


def _write_take(writer: BodyWriter, stride: int, form: BodyForm, source: str) -> None:
    if form == "gather":
        _gather(writer, source, stride)
    elif form == "one-pass":
        _blend_at_once(writer, source, stride)
    else:
        _blend(writer, source, stride)


def _component(writer: BodyWriter, source: str, stride: int, dy: int, dx: int) -> str:
    k = dy + stride * dx
    bounds = [writer.integers(dy, dx), writer.integers(_LAST, _LAST)]
    steps = writer.integers(stride, stride)
    return writer.op("Slice", [source, *bounds, writer.integers(2, 3), steps], f"component_{k}")


def _blend(writer: BodyWriter, source: str, stride: int) -> None:
    # Rows first: a row is copied in one piece, and what must be copied pixel by pixel after it is s times smaller.
    index = writer.op("Unsqueeze", ["I", writer.integers(1, 2, 3)], "taken")
    number = writer.index(stride, scalar=True)
    row = writer.op("Mod", [index, number], "taken_row")
    column = writer.op("Div", [index, number], "taken_column")
    rows = _blend_lines(writer, source, stride, row, axis=2, name="rows", result="rows")
    _blend_lines(writer, rows, stride, column, axis=3, name="columns", result="Y")


def _blend_at_once(writer: BodyWriter, source: str, stride: int) -> None:
    # TensorRT for RTX makes one kernel of it where the batch is fixed, too; of rows, then columns, it makes two.
    index = writer.op("Unsqueeze", ["I", writer.integers(1, 2, 3)], "taken")
    last = stride**2 - 1
    taken = _component(writer, source, stride, 0, 0)
    for k in range(1, last + 1):
        part = _component(writer, source, stride, k % stride, k // stride)
        is_taken = writer.op("Equal", [index, writer.integers(k, scalar=True)], f"is_{k}")
        taken = writer.op("Where", [is_taken, part, taken], "Y" if k == last else f"blend_{k}")


def _blend_lines(writer: BodyWriter, source: str, stride: int, first: str, *, axis: int, name: str, result: str) -> str:
    """Write every s-th line of a map along an axis, from the line ``first`` (N, 1, 1, 1) on, as ``result``."""
    bounds = [writer.integers(_LAST), writer.integers(axis), writer.integers(stride)]
    parts = [writer.op("Slice", [source, writer.integers(k), *bounds], f"{name}_from_{k}") for k in range(stride)]
    taken = parts[0]
    for k, part in enumerate(parts[1:], start=1):
        is_first = writer.op("Equal", [first, writer.index(k, scalar=True)], f"is_{name}_from_{k}")
        taken = writer.op("Where", [is_first, part, taken], result if k == stride - 1 else f"blend_of_{name}_{k}")
    return taken


def _gather(writer: BodyWriter, source: str, stride: int) -> None:
    components = [_component(writer, source, stride, dy, dx) for dx in range(stride) for dy in range(stride)]
    axis = writer.integers(1)
    rows = [writer.op("Unsqueeze", [part, axis], f"row_{k}") for k, part in enumerate(components)]
    stack = writer.op("Concat", rows, "stack", axis=1)
    column = writer.op("Unsqueeze", ["I", axis], "taken")
    writer.op("GatherND", [stack, column], "Y", batch_dims=1)
