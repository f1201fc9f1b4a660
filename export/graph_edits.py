"""Small edits of an ONNX graph, each of which leaves what it computes as it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import onnx

from aps_deploy.export.op_names import DOMAIN, Choice, choice_of, select_op, take_stride_of


def rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values (inputs, outputs, initializers and what nodes make) by ``names``; others keep theirs."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = names.get(value.name, value.name)


def merge_selects(graph: onnx.GraphProto) -> None:
    """Replace each ``PolyphaseIndex`` and the first ``PolyphaseTake`` of the same map by one ``PolyphaseSelect``.

    One node is one plugin launch; takes of other maps by the same index (shortcuts) stay.
    """
    nodes = list(graph.node)
    takes: dict[tuple[str, ...], onnx.NodeProto] = {}
    for node in nodes:
        if node.domain == DOMAIN and take_stride_of(node.op_type) is not None:
            takes.setdefault(tuple(node.input), node)
    merged: list[onnx.NodeProto] = []
    for node in nodes:
        choice = choice_of(node.op_type) if node.domain == DOMAIN else None
        take = takes.get((node.input[0], node.output[0])) if choice is not None else None
        if choice is not None and take is not None and take_stride_of(take.op_type) == choice.stride:
            _become_select(node, choice, take)
            merged.append(take)
    _replace_nodes(graph, [node for node in nodes if not any(node is gone for gone in merged)])


def _become_select(node: onnx.NodeProto, choice: Choice, take: onnx.NodeProto) -> None:
    node.name = node.name.replace(node.op_type, select_op(choice))
    node.op_type = select_op(choice)
    node.output[:] = [take.output[0], node.output[0]]


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    # Copied before the deletion, which frees what is still in the list.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def share_constants(graph: onnx.GraphProto) -> None:
    """Turn ``Constant`` nodes into initializers, one for each distinct value."""
    kept: list[onnx.NodeProto] = []
    shared: dict[bytes, str] = {}
    names: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Constant" or node.domain or node.attribute[0].name != "value":
            kept.append(node)
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = ""
        content = tensor.SerializeToString(deterministic=True)
        if content not in shared:
            tensor.name = shared[content] = f"shared_constant_{len(shared)}"
            graph.initializer.append(tensor)
        names[node.output[0]] = shared[content]
    _replace_nodes(graph, kept)
    rename_values(graph, names)


def drop_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes (stack traces with paths of this machine, graph dumps) from everything."""
    graph = proto.graph
    for holder in [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def name_nodes(graph: onnx.GraphProto, *, again: bool = True) -> None:
    """Name nodes after their PyTorch module and type, uniquely: tools report layers by these names.

    Nodes that came from no module are called after the value they make.

    Args:
        graph: Its nodes are renamed in place; values keep their names.
        again: Also rename nodes that have a name.
    """
    used: Counter[str] = Counter() if again else Counter(node.name for node in graph.node if node.name)
    for node in graph.node:
        if node.name and not again:
            continue
        scope = module_of(node) or re.sub(r"__\d+$", "", node.output[0].removeprefix(f"{DOMAIN}__"))
        base = f"{scope}/{node.op_type}"
        used[base] += 1
        node.name = base if used[base] == 1 else f"{base}_{used[base] - 1}"


def name_operator_values(graph: onnx.GraphProto) -> None:
    """Name what the custom operators make after the module they stand in; the exporter numbers them."""
    names: dict[str, str] = {}
    for node in graph.node:
        if node.domain == DOMAIN:
            kind = re.sub(r"(?<!^)(?=[A-Z])", "_", node.op_type.split("_")[0]).lower()
            base = f"{module_of(node)}/{kind}"
            taken = sum(name == base or name.startswith(f"{base}_") for name in names.values())
            names[node.output[0]] = f"{base}_{taken}" if taken else base
    rename_values(graph, names)


def module_of(node: onnx.NodeProto) -> str:
    """Return the path of the PyTorch module a node was traced from, or an empty string."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes: list[str] = re.findall(r"'([^']*)'", entry.value)
            return scopes[-2].removeprefix("model").removeprefix(".") if len(scopes) >= 2 else ""
    return ""
