"""Where the selections' scores are after another tool has renamed them.

The metadata names each selection's values. A tool that inlines functions chooses the names inside them itself, so that
the scores of a ``custom-op`` file get other names than onnx's own inliner gives them; the index keeps its name, as an
output of its node. From there the scores are found by their place: they are what the chain of comparisons splits, and
where they are sums of limbs, what is split first.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aps_deploy.verification.graph import GraphView
from aps_deploy.verification.static_check import is_network

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes.metadata import ModelMetadata, SelectionTensors


def located_selections(model: onnx.ModelProto, metadata: ModelMetadata) -> ModelMetadata:
    """Return the metadata with the names that scores have in the graph; what cannot be found keeps its name.

    Args:
        model: without model-local functions, see `instrument.load_inlined`.
        metadata: the file's own.
    """
    made = {name for node in model.graph.node for name in node.output}
    if all(entry.scores in made for entry in metadata.selections):
        return metadata
    graph = GraphView(model)
    return dataclasses.replace(metadata, selections=tuple(_located(graph, entry) for entry in metadata.selections))


def _located(graph: GraphView, entry: SelectionTensors) -> SelectionTensors:
    if graph.has_value(entry.scores):
        return entry
    split = _split_above(graph, entry.index)
    first = {name for name in split if not _split_above(graph, name)}
    return dataclasses.replace(entry, scores=first.pop()) if len(first) == 1 else entry


def _split_above(graph: GraphView, name: str) -> set[str]:
    return {node.input[0] for node in graph.upstream(name, is_network) if node.op_type == "Split"}
