"""What can be read off the graph without running it: faults that a run on friendly images would not show.

Upstream of every data-dependent choice (which component, which values are finite) all arithmetic must be float32,
float64 or integer (of 32 bits where it cannot overflow), sums over positions must be integer, and ties must have an
order. What is promised
beyond that is the reference's to say: with circular padding every pad must wrap, with exact selection sums over
positions are integer ones, and no mean over positions may be a float one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import onnx
from onnx import TensorProto

from aps_deploy.verification.graph import GraphView, attribute, reduced_axes
from aps_deploy.verification.integer_bounds import Int32Bounds

if TYPE_CHECKING:
    from aps_deploy.runtimes.metadata import ModelMetadata

Rule = Literal["selection-precision", "selection-sum", "tie-order", "selection-missing", "pooling", "padding", "opaque"]

_WIDE = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL}
_WHOLE = {TensorProto.INT32, TensorProto.INT64}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_SUMS = {"ReduceSum", "ReduceSumSquare", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"}
_COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "ReduceMax", "ReduceMin"}
_ARITHMETIC = {"Abs", "Add", "Ceil", "Div", "Einsum", "Exp", "Floor", "Log", "MatMul", "Mul", "Pow", "Reciprocal",
               "Round", "Sqrt", "Sub", "Sum", "SpaceToDepth", "QuantizeLinear"}  # fmt: skip
_UNORDERED = {"ArgMax", "ArgMin", "TopK", "Hardmax"}
# A choice looks at a feature map; what made the map is the network, which may be of any precision.
_NETWORK = {"AveragePool", "BatchNormalization", "Celu", "Clip", "ConvInteger", "ConvTranspose",
            "Elu", "Gelu", "Gemm", "HardSigmoid", "HardSwish", "InstanceNormalization", "LayerNormalization",
            "LeakyRelu", "MaxPool", "Mish", "PRelu", "Pad", "QLinearConv", "Relu", "Resize", "Selu", "Shape",
            "Sigmoid", "Softmax", "Softplus", "Tanh"}  # fmt: skip
_ELEMENTWISE = {"Abs", "Add", "Cast", "Clip", "Div", "Identity", "Mul", "Relu", "Reshape", "Round", "Sigmoid", "Sqrt",
                "Squeeze", "Sub", "Tanh", "Unsqueeze"}  # fmt: skip
_WINDOWED = {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LpPool", "MaxPool", "QLinearConv"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault in the graph.

    Attributes:
        rule: which rule is broken.
        node: name of the node, or of its first output where it has none.
        op_type: the node's operator.
        message: what is wrong, in one sentence.
    """

    rule: Rule
    node: str
    op_type: str
    message: str


def check_graph(model: onnx.ModelProto, metadata: ModelMetadata, promised: ModelMetadata) -> tuple[Finding, ...]:
    """Return every fault of an ONNX model without model-local functions; none means that the rules hold.

    Args:
        model: see `instrument.load_inlined`.
        metadata: the file's own, which names the values of its selections and is believed in nothing else.
        promised: the reference's: how it selects and pads.
    """
    graph = GraphView(model)
    bounds = Int32Bounds(graph)
    findings = [*_opaque(graph), *_missing_selections(graph, metadata, promised)]
    findings.extend(_choices(graph, bounds, metadata, exact=_is_exact(promised)))
    if promised.is_known:
        findings.extend(_missing_integer_sums(graph, metadata, promised))
        findings.extend(_float_pooling(graph, bounds))
        if promised.arguments.get("padding", "circular") == "circular":
            findings.extend(_padding(graph))
    return tuple(dict.fromkeys(findings))


def _opaque(graph: GraphView) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
            yield _finding(
                "opaque", node, f"operator {node.domain}::{node.op_type} has no body here, so it cannot be checked"
            )
        elif any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            yield _finding("opaque", node, f"{node.op_type} holds graphs of its own, which are not looked into")


def _is_exact(promised: ModelMetadata) -> bool:
    return promised.is_known and promised.arguments.get("selection", "exact") == "exact"


def _missing_selections(graph: GraphView, metadata: ModelMetadata, promised: ModelMetadata) -> Iterator[Finding]:
    named = tuple(entry.layer for entry in metadata.selections)
    if named != promised.selection_layers:
        listed, wanted = (", ".join(layers) or "no layer" for layers in (named, promised.selection_layers))
        message = f"the metadata names the selections of {listed}; the network selects in {wanted}"
        yield Finding("selection-missing", "metadata", "", message)
    for entry in metadata.selections:
        for name in (entry.index, entry.scores):
            if not graph.has_value(name):
                message = f"the selection of {entry.layer} has no value {name!r} in the graph"
                yield Finding("selection-missing", name, "", message)
    if metadata.selections and "polyphase_indices" in graph.outputs:
        made_of = {name for node in graph.upstream("polyphase_indices") for name in node.output}
        for entry in metadata.selections:
            if entry.index not in made_of:
                message = f"the output polyphase_indices does not report the index of {entry.layer}"
                yield Finding("selection-missing", entry.index, "", message)


def _choices(graph: GraphView, bounds: Int32Bounds, metadata: ModelMetadata, *, exact: bool) -> Iterator[Finding]:
    for node in _selecting_nodes(graph, metadata):
        yield from _low_precision(graph, bounds, node)
        if node.op_type in _UNORDERED:
            yield _finding("tie-order", node, f"{node.op_type} leaves the order of ties to the runtime")
        if node.op_type in ("GreaterOrEqual", "LessOrEqual") and not any(map(graph.is_constant, node.input)):
            yield _finding("tie-order", node, f"{node.op_type} gives a tie to the higher index")
        if exact and node.op_type == "Cast" and _rounds_integers(graph, node):
            yield _finding("selection-sum", node, "rounds an integer sum to floating point before the comparison")
        if exact and _is_float_sum_over_positions(graph, node):
            yield _finding(
                "selection-sum", node, f"{node.op_type} adds floats over positions, which depends on their order"
            )


def _selecting_nodes(graph: GraphView, metadata: ModelMetadata) -> Iterator[onnx.NodeProto]:
    """Yield every node between a feature map and a choice that depends on it, each once."""
    starts = [entry.index for entry in metadata.selections]
    for node in graph.nodes:
        if node.op_type == "Where":
            starts.append(node.input[0])
        elif node.op_type in ("Gather", "GatherND", "GatherElements") and not graph.is_constant(node.input[1]):
            starts.append(node.input[1])
    if "polyphase_indices" in graph.outputs:
        starts.append("polyphase_indices")
    seen: set[str] = set()
    for start in starts:
        for node in graph.upstream(start, is_network):
            if node.output[0] not in seen:
                seen.add(node.output[0])
                yield node


def is_network(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether a node upstream of a choice belongs to the network, whose maps the choice looks at."""
    if node.op_type in _NETWORK:
        return not _is_of_energies(graph, node)
    if node.op_type == "Conv":
        # A convolution with one output channel may be an energy written as a product with ones.
        shape = graph.shape(node.output[0])
        return shape is None or len(shape) != 4 or shape[1] != 1
    if node.op_type == "DequantizeLinear":
        return _is_network_quantisation(graph, node)
    if node.op_type == "Add":
        # A residual sum joins two feature maps.
        shapes = [graph.shape(name) for name in node.input]
        return node.input[0] != node.input[1] and all(
            shape is not None and len(shape) == 4 and shape[1] != 1 for shape in shapes
        )
    return False


def _is_of_energies(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether an operator of networks, such as Relu, acts on energies or their sums and not on a feature map."""
    if node.op_type == "Shape":
        return False
    source = graph.maker(node.input[0])
    while source is not None and source.input:
        if source.op_type in _SUMS | {"SpaceToDepth"}:
            return True
        if source.op_type not in _ELEMENTWISE:
            return False
        source = graph.maker(source.input[0])
    return False


def _is_network_quantisation(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether a DequantizeLinear gives back a feature map, and not energies that were quantised on the way."""
    quantise = graph.maker(node.input[0])
    if quantise is None or quantise.op_type != "QuantizeLinear":
        return True
    source = graph.maker(quantise.input[0])
    return source is None or is_network(graph, source)


def _low_precision(
    graph: GraphView,
    bounds: Int32Bounds,
    node: onnx.NodeProto,
    rule: Rule = "selection-precision",
    what: str = "selection",
) -> Iterator[Finding]:
    if node.op_type == "Cast":
        target = attribute(node, "to")
        source = graph.element_type(node.input[0])
        is_narrowing = target not in _WIDE and (source in _FLOATS or source in _WIDE or not source)
        is_whole = target == TensorProto.INT32 and (_is_rounded(graph, node) or _is_widened(graph, node))
        if is_narrowing and not is_whole:
            yield _finding(rule, node, f"casts a value of the {what} to {_type_name(target)}")
        return
    if node.op_type not in _SUMS | _COMPARISONS | _ARITHMETIC | _UNORDERED | {"Conv"}:
        return
    if bounds.overflows(node):
        yield _finding(rule, node, f"{node.op_type} of the {what} works in int32, which may overflow")
        return
    for name in (*node.input, *node.output):
        kind = graph.element_type(name)
        if name and kind not in _WIDE and kind != TensorProto.INT32:
            shown = _type_name(kind) if kind else "an unknown type"
            yield _finding(rule, node, f"{node.op_type} of the {what} works in {shown}")
            return


def _is_widened(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether nothing is computed with what ``node`` makes before it is int64."""
    readers = graph.readers(node.output[0])
    return bool(readers) and all(
        reader.op_type == "Cast" and attribute(reader, "to") == TensorProto.INT64 for reader in readers
    )


def _is_rounded(graph: GraphView, cast: onnx.NodeProto) -> bool:
    """Return whether what is cast are whole numbers already, so that nothing but their size can be lost."""
    maker = graph.maker(cast.input[0])
    return maker is not None and maker.op_type == "Round"


def _is_float_sum_over_positions(graph: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type in ("GlobalAveragePool", "GlobalLpPool"):
        return True
    if node.op_type not in _SUMS or graph.element_type(node.input[0]) not in _FLOATS:
        return False
    # Channels are added in the same order at every position; any other axis holds positions.
    return reduced_axes(graph, node) != (1,)


def _rounds_integers(graph: GraphView, node: onnx.NodeProto) -> bool:
    maker = graph.maker(node.input[0])
    is_sum = maker is not None and maker.op_type != "Shape"
    return is_sum and graph.element_type(node.input[0]) in _WHOLE and attribute(node, "to") in _FLOATS


def _missing_integer_sums(graph: GraphView, metadata: ModelMetadata, promised: ModelMetadata) -> Iterator[Finding]:
    """Yield every choice that is to be exact and comes from no integer sum, whatever it comes from instead."""
    if not _is_exact(promised) or not str(promised.criterion or "l2").startswith(("l1", "l2")):
        return
    for entry in metadata.selections:
        if not any(_is_integer_sum(graph, node) for node in graph.upstream(entry.index, is_network)):
            message = f"the index of {entry.layer} comes from no integer sum; exact selection is promised"
            yield Finding("selection-sum", entry.index, "", message)


def _is_integer_sum(graph: GraphView, node: onnx.NodeProto) -> bool:
    return node.op_type == "ReduceSum" and graph.element_type(node.input[0]) in _WHOLE


def _float_pooling(graph: GraphView, bounds: Int32Bounds) -> Iterator[Finding]:
    if "logits" not in graph.outputs:
        return
    pooled_exactly = False
    for node in graph.upstream("logits", data_only=True):
        if _is_integer_sum(graph, node):
            pooled_exactly = True
            for step in graph.upstream(node.output[0], is_network):
                yield from _low_precision(graph, bounds, step, "pooling", "pooling")
        elif node.op_type in _ARITHMETIC and bounds.overflows(node):
            yield _finding("pooling", node, f"{node.op_type} works in int32, which may overflow")
        whole_map = node.op_type in ("GlobalAveragePool", "GlobalLpPool")
        if node.op_type in _SUMS and graph.element_type(node.input[0]) in _FLOATS:
            axes = reduced_axes(graph, node)
            whole_map = axes is None or not {2, 3}.isdisjoint(axes)
        elif node.op_type == "AveragePool":
            shape = graph.shape(node.output[0])
            whole_map = shape is not None and tuple(shape[2:]) == (1, 1)
        if whole_map:
            yield _finding("pooling", node, f"{node.op_type} averages floats over positions; exact pooling is promised")
    if not pooled_exactly:
        yield Finding("pooling", "logits", "", "the logits come from no integer sum; exact pooling is promised")


def _padding(graph: GraphView) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type == "Pad":
            mode = attribute(node, "mode", "constant")
            if mode != "wrap" and _pads_anything(graph, node) and _has_positions(graph, node.input[0]):
                yield _finding("padding", node, f"pads in mode {mode}; circular padding is promised")
        elif node.op_type in _WINDOWED:
            automatic = attribute(node, "auto_pad", "NOTSET")
            pads = any(attribute(node, "pads", ())) or automatic.startswith("SAME")
            if pads and _has_positions(graph, node.input[0]):
                yield _finding("padding", node, f"{node.op_type} pads with zeros; circular padding is promised")


def _has_positions(graph: GraphView, name: str) -> bool:
    """Return whether a value comes from the images on a way where nothing reduced all positions of a map.

    What is left behind that has channels only, which ECA pads with zeros for its convolution over them.
    """
    used = {name}.union(*(node.input for node in graph.upstream(name, _reduces_all_positions)))
    return not graph.inputs.isdisjoint(used)


def _reduces_all_positions(graph: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type.startswith("Reduce"):
        return len(graph.shape(node.input[0]) or ()) == 4 and {2, 3} <= set(reduced_axes(graph, node) or ())
    return node.op_type in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Shape")


def _pads_anything(graph: GraphView, node: onnx.NodeProto) -> bool:
    pads = attribute(node, "pads")
    if pads is None:
        constant = graph.constant(node.input[1]) if len(node.input) > 1 else None
        if constant is None:
            return True
        pads = constant.reshape(-1).tolist()
    return any(pads)


def _finding(rule: Rule, node: onnx.NodeProto, message: str) -> Finding:
    return Finding(rule, node.name or node.output[0], node.op_type, message)


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()
