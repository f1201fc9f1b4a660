"""The five forms in which an exported file states its selections.

``custom-op``  nodes of the domain ``aps``, one for a layer's blur, choice and component, with bodies: a kernel where
               there is one, standard operators elsewhere
``where``      standard operators only; rows, then columns of the kept component come from strided slices and ``Where``
``gather``     standard operators only; the kept component comes from ``GatherND`` on the stacked components
``one-pass``   standard operators only; exact sums by one reduction instead of three, and the kept component by
               ``Where`` on all of them: fewest kernels in an engine, more work where each operator runs by itself
``plugin``     nodes of the domain ``aps``, three for a choice, with bodies: those that TensorRT's plugins compute
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

import onnx
import onnx.inliner
from onnx import helper

from aps_deploy.errors import known_name
from aps_deploy.export import bodies
from aps_deploy.export.blurs import with_blurs
from aps_deploy.export.body_writer import PREFIX
from aps_deploy.export.graph_edits import name_nodes, rename_values, share_constants
from aps_deploy.export.map_shapes import map_shapes
from aps_deploy.export.one_pass import groups_for
from aps_deploy.export.op_names import (
    DOMAIN,
    DOMAIN_VERSION,
    EXACT_MEAN_OP,
    choice_of,
    exact_mean_size,
    is_blurred,
    is_choosing_only,
    is_narrow,
    take_stride_of,
)
from aps_deploy.export.plugin_nodes import plugin_body, with_plugin_nodes
from aps_deploy.plugins.tensorrt.operators import operator_of

INDICES_NAME = "polyphase_indices"
_SCORES_PATTERN = re.compile(rf"{PREFIX}{bodies.SCORES}__\d+|.*/{bodies.SCORES}(_\d+)?")

PolyphaseForm = Literal["where", "gather", "one-pass", "custom-op", "plugin"]
POLYPHASE_FORMS: tuple[PolyphaseForm, ...] = get_args(PolyphaseForm)


def resolve_form(name: str) -> PolyphaseForm:
    """Return ``name`` as one of the five forms.

    Raises:
        InputError: no such form.
    """
    return known_name(name, POLYPHASE_FORMS, "polyphase form")


def apply_form(traced: onnx.ModelProto, form: PolyphaseForm) -> onnx.ModelProto:
    """Return ``traced`` with a body for every node of the domain ``aps``, kept or inlined as ``form`` says.

    Pooling is inlined in every form: it is one small reduction, no kernel of ours would be faster.
    """
    proto = attach_bodies(_with_nodes_of(traced, form), form)
    opset = _opset_of(proto)
    if form in ("custom-op", "plugin"):
        others = [(f.domain, f.name) for f in proto.functions if not _keeps_body(f.name, form)]
        proto = onnx.inliner.inline_selected_functions(proto, others) if others else proto
    else:
        proto = onnx.inliner.inline_local_functions(proto)
    if form != "custom-op":
        _name_scores(proto)
    _declare_domains(proto, opset)
    share_constants(proto.graph)
    name_nodes(proto.graph, again=False)
    return proto


def _with_nodes_of(traced: onnx.ModelProto, form: PolyphaseForm) -> onnx.ModelProto:
    if form == "custom-op":
        return with_blurs(traced)
    return with_plugin_nodes(traced) if form == "plugin" else traced


def _keeps_body(op_type: str, form: PolyphaseForm) -> bool:
    """Return whether nodes of a type stay what they are in a file with nodes of the domain ``aps``."""
    if form == "custom-op":
        return not op_type.startswith(EXACT_MEAN_OP)
    return operator_of(op_type) is not None


def attach_bodies(traced: onnx.ModelProto, form: PolyphaseForm) -> onnx.ModelProto:
    """Return ``traced`` with a model-local function for every operator of the domain ``aps``, so that it can be run."""
    if form == "one-pass":
        return _with_bodies(traced, form, map_shapes(_with_bodies(traced, "where", {})))
    return _with_bodies(traced, "gather" if form == "gather" else "where", {})


def _with_bodies(
    traced: onnx.ModelProto, form: bodies.BodyForm, shapes: Mapping[str, tuple[int, int, int]]
) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    channels: dict[str, list[int]] = {}
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            channels.setdefault(node.op_type, []).append(shapes.get(node.input[0], (0, 0, 0))[0])
    for op_type, counts in sorted(channels.items()):
        proto.functions.append(_body_of(op_type, form, _opset_of(proto), groups_for(counts)))
    return proto


def _opset_of(proto: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in proto.opset_import if entry.domain == "")


def _body_of(op_type: str, form: bodies.BodyForm, opset: int, groups: int) -> onnx.FunctionProto:
    of_plugin = plugin_body(op_type, opset=opset)
    if of_plugin is not None:
        return of_plugin
    choice, stride, blurred = choice_of(op_type), take_stride_of(op_type), is_blurred(op_type)
    if choice is not None and is_choosing_only(op_type):
        return bodies.index_function(choice, form=form, opset=opset, blurred=blurred, groups=groups)
    if choice is not None:
        return bodies.select_function(choice, form=form, opset=opset, blurred=blurred, groups=groups)
    if stride is not None:
        return bodies.take_function(stride, form=form, opset=opset, blurred=blurred, narrow=is_narrow(op_type))
    return bodies.exact_mean_function(exact_mean_size(op_type), opset=opset, narrow=is_narrow(op_type))


def _declare_domains(proto: onnx.ModelProto, opset: int) -> None:
    """Declare the domains the graph uses and no other."""
    uses_custom = any(node.domain == DOMAIN for node in proto.graph.node)
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", opset))
    if uses_custom:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` without model-local functions; itself where it has none."""
    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


def selection_values(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """Return the names of each selection's index (N,) and scores (N, s*s), in the order of the index output.

    They are the names after ``onnx.inliner.inline_local_functions``, under which a runtime can be asked for them.
    """
    producers = {name: node for node in inlined(proto).graph.node for name in node.output}
    # The output stacks the indices: a Concat of one Unsqueeze each; a single Unsqueeze where there is one selection.
    stack = producers.get(INDICES_NAME)
    if stack is None:
        return []
    columns = [producers[name] for name in stack.input] if stack.op_type == "Concat" else [stack]
    indices = [column.input[0] for column in columns]
    return [(index, _scores_of(index, producers)) for index in indices]


def _scores_of(index: str, producers: dict[str, onnx.NodeProto]) -> str:
    pending = [index]
    while pending:
        name = pending.pop()
        if _SCORES_PATTERN.fullmatch(name):
            return name
        if name in producers:
            pending.extend(producers[name].input)
    raise ValueError(f"no selection makes the value {index!r}")


def _name_scores(proto: onnx.ModelProto) -> None:
    """Name the scores beside their index where no body hides them: ``layer2.0.pool/polyphase_scores``."""
    names = {scores: index.replace("polyphase_index", bodies.SCORES) for index, scores in selection_values(proto)}
    rename_values(proto.graph, names)
