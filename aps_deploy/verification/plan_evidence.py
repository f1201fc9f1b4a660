"""What can be said of an engine's graph and precision: an engine itself shows neither.

The ONNX file it was compiled from is taken where it stands beside the plan: it is the one with the hash that the plan's
document gives. Else the document tells which layer computes in which precision, as export read it back from the engine;
older documents only tell how many do. Of its graph nothing is known then.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aps_deploy.runtimes.tensorrt.plan_file import PlanFile, onnx_beside, read_plan_file
from aps_deploy.verification.instrument import load_inlined
from aps_deploy.verification.layer_precision import LayerPrecision, count_precisions, layer_precisions, with_kept

if TYPE_CHECKING:
    import onnx


@dataclasses.dataclass(frozen=True)
class PlanEvidence:
    """What stands beside a plan.

    Attributes:
        graph: the graph it was compiled from, inlined; None where its file is not there.
        layers: the layers with their precisions; empty where nothing tells them.
        lacks: why there is no graph, for people; empty where there is one.
    """

    graph: onnx.ModelProto | None
    layers: tuple[LayerPrecision, ...]
    lacks: str


def plan_evidence(path: str | os.PathLike[str]) -> PlanEvidence:
    """Return what stands beside a plan.

    Raises:
        InputError: plan or document is missing, damaged or changed.
    """
    plan = read_plan_file(path)
    source = onnx_beside(plan)
    if source is None:
        lacks = "an engine shows no graph, and no ONNX file beside it is the one it was compiled from"
        return PlanEvidence(None, _layers_of_document(plan), lacks)
    graph = load_inlined(source)
    return PlanEvidence(graph, _layers_of_graph(graph, source.name, plan), "")


def _layers_of_graph(graph: onnx.ModelProto, file: str, plan: PlanFile) -> tuple[LayerPrecision, ...]:
    """Return the layers of the ONNX file, each with where its precision in the engine was read.

    No plan is written in which a layer that was read is not as the ONNX file has it; where the document says otherwise
    nevertheless, that is what is said of the engine.
    """
    read = _read_back(plan)
    unread = read.get("unread_layers")
    names = set(unread) if isinstance(unread, list) else set()
    source = f"{read.get('read_from')}, at export" if read else "nothing was read back from the engine"
    layers = with_kept(layer_precisions(graph), plan.metadata.kept_fp32)
    named, counted = _named_layers(read), read.get("layers")
    if any(layer.precision != named.get(layer.layer, layer.precision) for layer in layers if layer.layer not in names):
        return _layers_of_document(plan)
    if isinstance(counted, dict):
        as_in_file = count_precisions(layer for layer in layers if layer.layer not in names)
        if as_in_file != {precision: count for precision, count in counted.items() if precision != "unread"}:
            return _layers_of_document(plan)
    return tuple(
        dataclasses.replace(
            layer,
            evidence=f"{layer.evidence} in {file}; "
            + ("not read back from the engine" if layer.layer in names else source),
        )
        for layer in layers
    )


def _layers_of_document(plan: PlanFile) -> tuple[LayerPrecision, ...]:
    """Return the layers that the document names, with their precisions; unnamed ones where it only counts them."""
    read = _read_back(plan)
    evidence = f"{read.get('read_from')} at export, as the document beside the engine says"
    named = _named_layers(read)
    if not named:
        return _counted_layers(read, plan.metadata.kept_fp32, evidence)
    layers = (
        LayerPrecision(name, "unknown", precision, name == read.get("classifier"), evidence)
        for name, precision in named.items()
        if precision != "unread"
    )
    return with_kept(layers, plan.metadata.kept_fp32)


def _named_layers(read: Mapping[str, object]) -> dict[str, str]:
    """Return the layers by name, as far as they are as many as are counted; older documents name none."""
    named, counts = read.get("by_layer"), read.get("layers")
    if not isinstance(named, dict) or not all(isinstance(each, str) for each in named.values()):
        return {}
    return named if collections.Counter(named.values()) == counts else {}


def _counted_layers(read: Mapping[str, object], kept_fp32: Sequence[str], evidence: str) -> tuple[LayerPrecision, ...]:
    """Return as many layers of each precision as the document counts; only those kept in float32 have names.

    Where one float32 layer more is counted than were kept, it is taken to be the classifier.
    """
    counts = read.get("layers")
    if not isinstance(counts, dict):
        return ()
    found = []
    for precision, count in counts.items():
        kept = list(kept_fp32) if precision == "fp32" else []
        for number in range(count if isinstance(count, int) else 0):
            name = kept[number] if number < len(kept) else f"an unnamed layer ({precision} {number + 1} of {count})"
            is_last = precision == "fp32" and number == count - 1 and number == len(kept) and len(counts) > 1
            found.append(LayerPrecision(name, "unknown", precision, is_last, evidence, is_kept=number < len(kept)))
    return tuple(layer for layer in found if layer.precision != "unread")


def _read_back(plan: PlanFile) -> Mapping[str, object]:
    read = plan.engine.get("precision")
    return read if isinstance(read, dict) else {}
