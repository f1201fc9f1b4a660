"""In which precision does each layer of a graph compute? Read off the graph, whatever the file says of itself.

A layer is a node that multiplies: a convolution or a matrix product on the way from the image to the logits. Its
precision is the type of its operands; it is ``int8`` where input and weights both come out of 8-bit DequantizeLinear
nodes, which is how a runtime knows that it may multiply integers. A quantise node elsewhere changes no layer. A file
has a precision where every layer has it, except that the classifier, the one matrix product behind all other layers,
may stay float32. A file may also declare layers that it keeps in float32: they must compute in it, and all others in
the file's precision.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from aps_deploy.verification.gates import PRECISIONS

if TYPE_CHECKING:
    import onnx

    from aps_deploy.verification.graph import GraphView

PRODUCTS = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
INTEGER_PRODUCTS = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}

# They move numbers and compute nothing; a runtime passes a quantised value through.
_MOVES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclasses.dataclass(frozen=True)
class LayerPrecision:
    """One layer and the precision in which it computes.

    Attributes:
        layer: name of the node, or of its output where it has none.
        op_type: its operator.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``fp64``, or ``unknown``.
        is_classifier: whether it is the one matrix product behind all other layers.
        evidence: what the precision was read from, for people.
        is_kept: whether the file declares that it keeps this layer in float32.
    """

    layer: str
    op_type: str
    precision: str
    is_classifier: bool
    evidence: str
    is_kept: bool = False


def layer_precisions(model: onnx.ModelProto) -> tuple[LayerPrecision, ...]:
    """Return the layers of an ONNX model without model-local functions, in graph order, each with its precision."""
    from aps_deploy.verification.graph import GraphView

    graph = GraphView(model)
    start = "logits" if "logits" in graph.outputs else graph.outputs[0]
    # By name: nodes come out of the graph as new objects each time.
    used = {node.output[0] for node in graph.upstream(start, data_only=True) if _multiplies(node)}
    last = _last_product(graph, start) if len(used) > 1 else None
    found = []
    for node in graph.nodes:
        if node.output and node.output[0] in used:
            precision, evidence = _precision(graph, node)
            is_last = node.output[0] == last
            found.append(LayerPrecision(node.name or node.output[0], node.op_type, precision, is_last, evidence))
    return tuple(found)


def with_kept(layers: Iterable[LayerPrecision], kept: Collection[str]) -> tuple[LayerPrecision, ...]:
    """Return the layers, those that a file declares as ``kept`` in float32, by name, marked as such."""
    return tuple(dataclasses.replace(layer, is_kept=layer.layer in kept) for layer in layers)


def file_precision(layers: Iterable[LayerPrecision]) -> str:
    """Return the precision that every layer has but the classifier and those kept in float32; else ``mixed``.

    A graph without layers computes in float32 as far as anyone can tell, and so does one that keeps all of them.
    """
    layers = tuple(layers)
    kinds = {layer.precision for layer in layers if not layer.is_classifier and not _is_kept_as_declared(layer)}
    if len(kinds) > 1:
        return "mixed"
    return kinds.pop() if kinds else "fp32"


def other_layers(layers: Iterable[LayerPrecision], wanted: str) -> tuple[LayerPrecision, ...]:
    """Return the layers that do not compute in the precision ``wanted``.

    A classifier may also be float32; a layer that the file declares as kept in float32 must be.
    """
    return tuple(
        layer
        for layer in layers
        if layer.precision != ("fp32" if layer.is_kept else wanted)
        and not (layer.is_classifier and layer.precision == "fp32")
    )


def _is_kept_as_declared(layer: LayerPrecision) -> bool:
    return layer.is_kept and layer.precision == "fp32"


def faults_against(layers: Iterable[LayerPrecision], wanted: str, *, shown: int = 3) -> tuple[int, str]:
    """Return how many layers compute in another precision than ``wanted``, and the first of them in words."""
    layers = tuple(layers)
    others = other_layers(layers, wanted)
    if not layers and wanted != file_precision(layers):
        return 1, "the graph has no layer that multiplies"
    if not others and wanted != "fp32" and all(layer.precision == "fp32" for layer in layers):
        return len(layers), "every layer is kept in float32"
    words = [
        f"{layer.layer} computes in {layer.precision} ({layer.evidence})"
        + (", but is declared as kept in fp32" if layer.is_kept else "")
        for layer in others[:shown]
    ]
    more = [f"and {len(others) - shown} more"] if len(others) > shown else []
    return len(others), "; ".join(words + more)


def judged_precision(declared: str | None, layers: Iterable[LayerPrecision]) -> str | None:
    """Return the precision whose limits a file is judged by: the stricter of what it declares and what is found.

    Limits widen with the precision, so a file must not choose them by what it says, nor by what it adds.
    """
    found = file_precision(layers)
    if found not in PRECISIONS:
        found = PRECISIONS[0]
    if declared is None:
        return found
    # An unknown name is the caller's to refuse.
    return min(declared, found, key=PRECISIONS.index) if declared in PRECISIONS else declared


def count_precisions(layers: Iterable[LayerPrecision]) -> dict[str, int]:
    """Return how many layers compute in each precision."""
    return dict(sorted(collections.Counter(layer.precision for layer in layers).items()))


@functools.cache
def _float_types() -> dict[int, str]:
    from onnx import TensorProto

    return {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.BFLOAT16: "bf16",
        TensorProto.DOUBLE: "fp64",
    }


@functools.cache
def _byte_types() -> frozenset[int]:
    from onnx import TensorProto

    return frozenset({TensorProto.INT8, TensorProto.UINT8})


def _multiplies(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS or node.op_type in INTEGER_PRODUCTS


def _last_product(graph: GraphView, start: str) -> str | None:
    """Return the output of the only product that ``start`` meets first, where it is a matrix product."""
    between = graph.upstream(start, lambda _, node: _multiplies(node), data_only=True)
    names = {start, *(name for node in between for name in node.input)}
    first = {node.output[0]: node for node in _makers(graph, names) if _multiplies(node)}
    if len(first) != 1:
        return None
    ((output, node),) = first.items()
    return output if node.op_type in ("Gemm", "MatMul") else None


def _makers(graph: GraphView, names: Iterable[str]) -> Iterator[onnx.NodeProto]:
    for name in names:
        node = graph.maker(name)
        if node is not None:
            yield node


def _precision(graph: GraphView, node: onnx.NodeProto) -> tuple[str, str]:
    if node.op_type in INTEGER_PRODUCTS:
        weight = node.input[3] if node.op_type.startswith("QLinear") else node.input[1]
        kinds = {graph.element_type(name) for name in (node.input[0], weight)}
        return ("int8", "8-bit operands") if kinds <= _byte_types() else ("unknown", "operands of unknown type")
    operands = node.input if node.op_type == "Einsum" else node.input[:2]
    kinds = {graph.element_type(name) for name in operands}
    name = _float_types().get(kinds.pop(), "unknown") if len(kinds) == 1 else "unknown"
    if name == "unknown":
        return name, "operands of unknown or unequal types"
    quantised = [_is_dequantised(graph, operand) for operand in operands]
    if all(quantised):
        return "int8", "8-bit input and weights"
    if any(quantised):
        return name, f"{name} operands, of which only {'the input' if quantised[0] else 'the weights'} is 8-bit"
    return name, f"{name} operands"


def _is_dequantised(graph: GraphView, name: str) -> bool:
    """Return whether a value is an 8-bit one, given back as floats for a runtime to fuse."""
    node = graph.maker(name)
    while node is not None and node.op_type in _MOVES:
        node = graph.maker(node.input[0])
    return (
        node is not None and node.op_type == "DequantizeLinear" and graph.element_type(node.input[0]) in _byte_types()
    )
