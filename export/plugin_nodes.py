"""Writes exact selections as the operators that TensorRT plugins compute, in place of one node each."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from aps_deploy.export import bodies
from aps_deploy.export.op_names import DOMAIN, choice_of, is_choosing_only
from aps_deploy.plugins.tensorrt.operators import (
    LARGEST_STRIDE,
    NAMESPACE,
    SMALLEST_STRIDE,
    VERSION,
    PluginOperator,
    operator_of,
    operators_of,
)

_DECISIONS = {
    bodies.decision_op(select): select
    for stride in range(SMALLEST_STRIDE, LARGEST_STRIDE + 1)
    for select in (PluginOperator("select", stride), PluginOperator("select", stride, smallest=True))
}


def with_plugin_nodes(traced: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``traced``, which is not changed, with the operators of plugins for every selection that has kernels.

    A selection that takes of the map it looks at becomes three nodes; one that gives an index only becomes two, and a
    third that is a few comparisons of s*s numbers, which are left to the compiler. So is taking by an index that is
    known: it goes into the kernel of whatever follows.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    nodes: list[onnx.NodeProto] = []
    for node in traced.graph.node:
        nodes.extend(_parts_of(node) if node.domain == DOMAIN else [node])
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def plugin_body(op_type: str, *, opset: int) -> onnx.FunctionProto | None:
    """Return the body of an operator of `with_plugin_nodes`, or None for any other."""
    operator = operator_of(op_type)
    if operator is not None:
        return bodies.plugin_function(operator, opset=opset)
    decision = _DECISIONS.get(op_type)
    return None if decision is None else bodies.decision_function(decision, opset=opset)


def plugin_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of a file that plugins compute."""
    return [node for node in proto.graph.node if node.domain == DOMAIN and operator_of(node.op_type) is not None]


def forget_part_sizes(proto: onnx.ModelProto) -> None:
    """Remove the shapes inferred for maxima and scores: the bodies make one part of each, and plugins more."""
    parts = {name for node in proto.graph.node for name in node.output[-1:] if _comes_in_parts(node)}
    kept = [value for value in proto.graph.value_info if value.name not in parts]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(copies)


def _comes_in_parts(node: onnx.NodeProto) -> bool:
    operator = operator_of(node.op_type) if node.domain == DOMAIN else None
    return operator is not None and operator.kind in ("energy", "score")


def _parts_of(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    choice = choice_of(node.op_type)
    operators = None
    if choice is not None and choice.selection == "exact":
        operators = operators_of(choice.criterion, choice.stride)
    if operators is None:
        return [node]
    energy, score, select = operators
    image, index = node.input[0], node.output[-1]
    energies, maxima, scores = (_beside(index, name) for name in ("energies", "maxima", "partial_scores"))
    first = _node(node, energy.op_type, [image], [energies, maxima])
    second = _node(node, score.op_type, [energies, maxima], [scores])
    if is_choosing_only(node.op_type):
        return [first, second, _node(node, bodies.decision_op(select), [scores], [index])]
    return [first, second, _node(node, select.op_type, [image, scores], list(node.output))]


def _beside(index: str, name: str) -> str:
    """Return the name of another value of the selection that makes ``index``: ``pool/polyphase_energies``."""
    return index.replace("polyphase_index", f"polyphase_{name}") if "polyphase_index" in index else f"{index}_{name}"


def _node(origin: onnx.NodeProto, op_type: str, inputs: list[str], outputs: list[str]) -> onnx.NodeProto:
    """Return one of the nodes that take the place of ``origin``, called after it."""
    settings: dict[str, Any] = {entry.name: helper.get_attribute_value(entry) for entry in origin.attribute}
    settings.update(plugin_namespace=NAMESPACE, plugin_version=VERSION)
    name = origin.name.replace(origin.op_type, op_type)
    return helper.make_node(op_type, inputs, outputs, name=name, domain=DOMAIN, **settings)
