"""Edits that break an exported file the way converters and mistakes do; each takes an inlined model and changes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from aps_deploy.runtimes import METADATA_KEY
from aps_deploy.verification.instrument import load_inlined

Edit = Callable[[onnx.ModelProto], None]


def redeclare(**changes: object) -> Edit:
    """Return an edit of the metadata: ``selection`` and ``criterion`` also where they are stated a second time."""

    def edit(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        document = json.loads(entry.value)
        for name, value in changes.items():
            if name in document["arguments"]:
                document["arguments"][name] = value
            if name in document:
                document[name] = value
        entry.value = json.dumps(document)

    return edit


def both(*edits: Edit) -> Edit:
    """Return the edits as one, in order."""

    def edit(model: onnx.ModelProto) -> None:
        for each in edits:
            each(model)

    return edit


def without_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def write_sabotaged(source: Path, target: Path, edit: Edit) -> Path:
    """Write ``source`` as ``target`` with its functions inlined and ``edit`` applied; the result must still load."""
    model = load_inlined(source)
    edit(model)
    # The stored shapes and types describe the graph before the edit.
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target


def nodes(model: onnx.ModelProto, op_type: str, inside: str = "") -> list[NodeProto]:
    """Return the nodes of one type whose outputs or name hold ``inside``."""
    return [
        node
        for node in model.graph.node
        if node.op_type == op_type and any(inside in name for name in (node.name, *node.output))
    ]


def redirect(model: onnx.ModelProto, old: str, new: str, spare: tuple[NodeProto, ...] = ()) -> None:
    """Let every node but the spared ones read ``new`` instead of ``old``."""
    for node in model.graph.node:
        if not any(node is kept for kept in spare):
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new


def insert_after(model: onnx.ModelProto, value: str, added: list[NodeProto]) -> None:
    """Put ``added`` behind the maker of ``value`` and let everybody read the last added node's output instead."""
    position = next(index for index, node in enumerate(model.graph.node) if value in node.output)
    redirect(model, value, added[-1].output[0])
    for offset, node in enumerate(added, start=1):
        model.graph.node.insert(position + offset, node)


def replace(model: onnx.ModelProto, node: NodeProto, *new: NodeProto) -> None:
    """Put ``new`` in the place of ``node``."""
    position = next(index for index, other in enumerate(model.graph.node) if other is node)
    del model.graph.node[position]
    for offset, other in enumerate(new):
        model.graph.node.insert(position + offset, other)


def constant(model: onnx.ModelProto, name: str, value: object, dtype: type) -> str:
    """Add an initializer and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def initializer(model: onnx.ModelProto, name: str) -> TensorProto:
    """Return the initializer of that name."""
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def through_half(value: str, prefix: str = "half") -> list[NodeProto]:
    """Return the casts of a value to float16 and back to float32."""
    return [
        helper.make_node("Cast", [value], [f"{prefix}_{value}"], to=TensorProto.FLOAT16, name=f"{prefix}_down"),
        helper.make_node(
            "Cast", [f"{prefix}_{value}"], [f"{prefix}_{value}_back"], to=TensorProto.FLOAT, name=f"{prefix}_up"
        ),
    ]


def energies_in_half(model: onnx.ModelProto) -> None:
    energy = nodes(model, "ReduceSumSquare")[0].output[0]
    insert_after(model, energy, through_half(energy))


def energies_in_half_behind(op_type: str) -> Edit:
    """Hide the casts behind an operator that networks are made of and that leaves energies as they are."""

    def edit(model: onnx.ModelProto) -> None:
        energy = nodes(model, "ReduceSumSquare")[0].output[0]
        casts = through_half(energy)
        kept = helper.make_node(op_type, [casts[-1].output[0]], ["kept_energies"], name="kept_energies")
        insert_after(model, energy, [*casts, kept])

    return edit


def inputs_of_energies_in_half(model: onnx.ModelProto) -> None:
    reduction = nodes(model, "ReduceSumSquare")[0]
    casts = through_half(reduction.input[0])
    reduction.input[0] = casts[-1].output[0]
    replace(model, reduction, *casts, reduction)


def sums_in_half(model: onnx.ModelProto) -> None:
    """Add the energies of a component as float16 numbers instead of quantised integers."""
    total = nodes(model, "ReduceSum", "component_sums")[0]
    components = nodes(model, "SpaceToDepth")[0].output[0]
    half = [
        helper.make_node("Cast", [components], ["half_components"], to=TensorProto.FLOAT16),
        helper.make_node("ReduceSum", ["half_components", total.input[1]], ["half_sums"], keepdims=0),
        helper.make_node("Cast", ["half_sums"], [total.output[0]], to=TensorProto.FLOAT),
    ]
    replace(model, total, *half)


def sums_in_float(model: onnx.ModelProto) -> None:
    """Add the energies of a component as float32 numbers: exact nowhere, and dependent on their order."""
    total = nodes(model, "ReduceSum", "component_sums")[0]
    components = nodes(model, "SpaceToDepth")[0].output[0]
    plain = helper.make_node("ReduceSum", [components, total.input[1]], list(total.output), keepdims=0)
    replace(model, total, plain)


def comparisons_in_half(model: onnx.ModelProto) -> None:
    """Compare the first two scores as float16 numbers."""
    greater = nodes(model, "Greater")[0]
    unit = constant(model, "half_unit", 2.0**-36, np.float32)
    added = []
    for position, name in enumerate(list(greater.input)):
        real, small, half = (f"{kind}_{name}" for kind in ("real", "small", "half"))
        added += [
            helper.make_node("Cast", [name], [real], to=TensorProto.FLOAT),
            helper.make_node("Mul", [real, unit], [small]),
            helper.make_node("Cast", [small], [half], to=TensorProto.FLOAT16),
        ]
        greater.input[position] = half
    replace(model, greater, *added, greater)


def comparisons_in_float(model: onnx.ModelProto) -> None:
    """Round the integer sums to float32 before they are compared."""
    greater = nodes(model, "Greater")[0]
    casts = [helper.make_node("Cast", [name], [f"real_{name}"], to=TensorProto.FLOAT) for name in greater.input]
    greater.input[:] = [cast.output[0] for cast in casts]
    replace(model, greater, *casts, greater)


def argmax_for_chain(model: onnx.ModelProto) -> None:
    index = nodes(model, "Squeeze", "polyphase_index")[0]
    scores = nodes(model, "Gather", "polyphase_scores")[0].output[0]
    replace(model, index, helper.make_node("ArgMax", [scores], list(index.output), axis=1, keepdims=0))


def ties_to_the_last(model: onnx.ModelProto) -> None:
    for node in nodes(model, "Greater"):
        node.op_type = "GreaterOrEqual"


def permuted_components(model: onnx.ModelProto) -> None:
    """Exchange row and column of the components that the main branch takes."""
    _exchange_outputs(nodes(model, "Mod", "taken_row")[0], nodes(model, "Div", "taken_column")[0])


def _exchange_outputs(first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    first.output[0], second.output[0] = second.output[0], first.output[0]


def permuted_components_gather(model: onnx.ModelProto) -> None:
    """Exchange two rows of the stack that GatherND picks from."""
    stack = nodes(model, "Concat", "stack")[0]
    stack.input[1], stack.input[2] = stack.input[2], stack.input[1]


def permuted_scores(model: onnx.ModelProto) -> None:
    """Leave the scores in the order that SpaceToDepth gives them."""
    gather = nodes(model, "Gather", "polyphase_scores")[0]
    gather.input[1] = constant(model, "plain_order", [0, 1, 2, 3], np.int64)


def permuted_everywhere(model: onnx.ModelProto) -> None:
    """Number two components the other way round in scores and blends alike: equal logits, wrong indices."""
    permuted_scores(model)
    for first, second in zip(
        nodes(model, "Mod", "taken_row")[:2], nodes(model, "Div", "taken_column")[:2], strict=True
    ):
        _exchange_outputs(first, second)


def padding_mode(mode: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for attribute in nodes(model, "Pad", "layer1.1.conv1")[0].attribute:
            if attribute.name == "mode":
                attribute.s = mode.encode()

    return edit


def padding_in_convolution(model: onnx.ModelProto) -> None:
    """Drop a circular pad and let the convolution pad with zeros."""
    pad = nodes(model, "Pad", "layer1.1.conv1")[0]
    convolution = next(node for node in model.graph.node if pad.output[0] in node.input)
    convolution.input[0] = pad.input[0]
    kept = [entry for entry in convolution.attribute if entry.name not in ("pads", "auto_pad")]
    del convolution.attribute[:]
    convolution.attribute.extend([*kept, helper.make_attribute("pads", [1, 1, 1, 1])])


def swapped_filters(model: onnx.ModelProto) -> None:
    weight = initializer(model, "layer3.1.conv1.weight")
    values = numpy_helper.to_array(weight).copy()
    values[[0, 1]] = values[[1, 0]]
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def weights_in_half(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _pool_with(model: onnx.ModelProto, make: Callable[[str, str], list[NodeProto]]) -> None:
    source = nodes(model, "Abs")[0].input[0]
    gemm = nodes(model, "Gemm")[0]
    gemm.input[0] = "float_mean"
    replace(model, gemm, *make(source, "float_mean"), gemm)


def float_mean(model: onnx.ModelProto) -> None:
    axes = constant(model, "map_axes", [2, 3], np.int64)
    _pool_with(model, lambda source, name: [helper.make_node("ReduceMean", [source, axes], [name], keepdims=0)])


def global_average_pool(model: onnx.ModelProto) -> None:
    _pool_with(
        model,
        lambda source, name: [
            helper.make_node("GlobalAveragePool", [source], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], [name]),
        ],
    )


def mean_as_product(model: onnx.ModelProto) -> None:
    """Average by a matrix product with ones, which no rule about reductions would notice."""
    shape = constant(model, "flat_shape", [0, 0, -1], np.int64)
    side = 4
    column = constant(model, "ones", np.full((side * side,), 1 / side**2), np.float32)
    _pool_with(
        model,
        lambda source, name: [
            helper.make_node("Reshape", [source, shape], ["flat"]),
            helper.make_node("MatMul", ["flat", column], [name]),
        ],
    )


def without_indices(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def without_logits(model: onnx.ModelProto) -> None:
    nodes(model, "Gemm")[0].output[0] = "scores"
    model.graph.output[0].name = "scores"


def made_up_indices(model: onnx.ModelProto) -> None:
    """Report zeros instead of the selections."""
    for node in model.graph.node:
        if "polyphase_indices" in node.output:
            node.output[0] = "true_indices"
            zeros = helper.make_node("Sub", ["true_indices", "true_indices"], ["polyphase_indices"])
            model.graph.node.append(zeros)
            return


def indices_out_of_range(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if "polyphase_indices" in node.output:
            node.output[0] = "true_indices"
            seven = constant(model, "seven", 7, np.int64)
            model.graph.node.append(helper.make_node("Add", ["true_indices", seven], ["polyphase_indices"]))
            return


def not_a_number(model: onnx.ModelProto) -> None:
    bias = initializer(model, nodes(model, "Gemm")[0].input[2])
    values = numpy_helper.to_array(bias).copy()
    values[3] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))


def mixed_batch(model: onnx.ModelProto) -> None:
    """Let each image's logits depend on the others of its batch."""
    gemm = nodes(model, "Gemm")[0]
    gemm.output[0] = "own"
    axis = constant(model, "batch_axis", [0], np.int64)
    share = constant(model, "share", 0.01, np.float32)
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["own", axis], ["of_batch"], keepdims=1),
            helper.make_node("Mul", ["of_batch", share], ["a_little"]),
            helper.make_node("Add", ["own", "a_little"], ["logits"]),
        ]
    )


def always_first_component(model: onnx.ModelProto) -> None:
    """Stride on a fixed grid while reporting plausible indices."""
    for node in nodes(model, "Squeeze", "polyphase_index"):
        index = node.output[0]
        zero = f"zero_{index}"
        insert_after(model, index, [helper.make_node("Sub", [index, index], [zero])])
        subtract = next(other for other in model.graph.node if zero in other.output)
        subtract.input[:] = [index, index]
        for other in model.graph.node:
            if other.op_type == "Unsqueeze" and zero in other.input and "taken" not in other.output[0]:
                other.input[list(other.input).index(zero)] = index


def energies_of_narrow_maps(model: onnx.ModelProto) -> None:
    """Take the energies of a half-precision map without widening it first."""
    reduction = nodes(model, "ReduceSumSquare")[0]
    widening = next(node for node in model.graph.node if reduction.input[0] in node.output)
    reduction.input[0] = widening.input[0]
    energy = reduction.output[0]
    reduction.output[0] = "narrow_energy"
    wide = helper.make_node("Cast", ["narrow_energy"], [energy], to=TensorProto.FLOAT, name="too_late")
    replace(model, reduction, reduction, wide)


def pooling_in_half(model: onnx.ModelProto) -> None:
    """Round what the pooling adds to half precision."""
    rounding = nodes(model, "Round")[-1]
    casts = through_half(rounding.input[0])
    rounding.input[0] = casts[-1].output[0]
    replace(model, rounding, *casts, rounding)


def pair_around(value: str, model: onnx.ModelProto, scale: float = 0.05) -> list[NodeProto]:
    """Return a QuantizeLinear and a DequantizeLinear of a value, whose constants are added to the model."""
    unit = constant(model, f"{value}_unit", scale, np.float32)
    zero = constant(model, f"{value}_zero", 0, np.int8)
    return [
        helper.make_node("QuantizeLinear", [value, unit, zero], [f"{value}_q"], name=f"{value}_to_int8"),
        helper.make_node("DequantizeLinear", [f"{value}_q", unit, zero], [f"{value}_dq"], name=f"{value}_from_int8"),
    ]


def energies_in_bytes(model: onnx.ModelProto) -> None:
    energy = nodes(model, "ReduceSumSquare")[0].output[0]
    insert_after(model, energy, pair_around(energy, model))


def quantised_logits(model: onnx.ModelProto) -> None:
    """Quantise the logits, and nothing that computes them."""
    gemm = nodes(model, "Gemm")[0]
    gemm.output[0] = "fine"
    added = pair_around("fine", model)
    added[-1].output[0] = "logits"
    model.graph.node.extend(added)


def idle_integer_layer(model: onnx.ModelProto) -> None:
    """Add an int8 convolution whose result is multiplied by zero before it is added to the logits."""
    gemm = nodes(model, "Gemm")[0]
    gemm.output[0] = "own"
    image = model.graph.input[0].name
    pair = pair_around(image, model)
    classes = initializer(model, gemm.input[2]).dims[0]
    weight = constant(model, "idle_codes", np.ones((classes, 3, 16, 16)), np.int8)
    scales = [constant(model, "idle_unit", 0.1, np.float32), constant(model, "idle_zero", 0, np.int8)]
    nothing, axes = constant(model, "nothing", 0.0, np.float32), constant(model, "map", [2, 3], np.int64)
    model.graph.node.extend(
        [
            *pair,
            helper.make_node("DequantizeLinear", [weight, *scales], ["idle_weight"]),
            helper.make_node("Conv", [pair[-1].output[0], "idle_weight"], ["idle"], name="idle_layer"),
            helper.make_node("Squeeze", ["idle", axes], ["idle_row"]),
            helper.make_node("Mul", ["idle_row", nothing], ["zero_row"]),
            helper.make_node("Add", ["own", "zero_row"], ["logits"]),
        ]
    )


def _weighted_by(model: onnx.ModelProto, weight: str) -> NodeProto:
    """Return the convolution of that weight; an int8 file names the dequantised one after it."""
    return next(node for node in model.graph.node if node.op_type == "Conv" and node.input[1].startswith(weight))


def layer_in_float32(model: onnx.ModelProto) -> None:
    """Let one half-precision convolution compute in float32, as a converter does that lacks the kernel."""
    convolution = _weighted_by(model, "layer2.1.conv1.weight")
    output = convolution.output[0]
    kind = initializer(model, convolution.input[1]).data_type
    casts = []
    for position, name in enumerate(list(convolution.input)):
        casts.append(helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT))
        convolution.input[position] = f"{name}_wide"
    convolution.output[0] = "wide_map"
    back = helper.make_node("Cast", ["wide_map"], [output], to=kind)
    replace(model, convolution, *casts, convolution, back)


def layer_without_pair(model: onnx.ModelProto) -> None:
    """Take one convolution's input from before it was quantised; its weights stay 8-bit."""
    convolution = _weighted_by(model, "layer2.1.conv1.weight")
    makers = {name: node for node in model.graph.node for name in node.output}
    convolution.input[0] = makers[makers[convolution.input[0]].input[0]].input[0]
