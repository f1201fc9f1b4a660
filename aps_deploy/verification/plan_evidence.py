"""What can be said of an engine's graph and precision: an engine itself shows neither.

The ONNX file it was compiled from is taken where it stands beside the plan: it is the one with the hash that the plan's
document gives. Else the document tells how many layers compute in which precision, as export read them back
from the engine; and of its graph nothing is known.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
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

    No plan is written in which a layer that was read is not as the ONNX file has it; where the document counts
    otherwise nevertheless, its counts are what is said of the engine.
    """
    read = _read_back(plan)
    unread = read.get("unread_layers")
    names = set(unread) if isinstance(unread, list) else set()
    source = f"{read.get('read_from')}, at export" if read else "nothing was read back from the engine"
    layers = with_kept(layer_precisions(graph), plan.metadata.kept_fp32)
    counted = read.get("layers")
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
    """Return as many layers of each precision as the document counts; only those kept in float32 have names.

    Where one float32 layer more is counted than were kept, it is taken to be the classifier.
    """
    read = _read_back(plan)
    counts = read.get("layers")
    if not isinstance(counts, dict):
        return ()
    evidence = f"{read.get('read_from')} at export, as the document beside the engine says"
    found = []
    for precision, count in counts.items():
        kept = list(plan.metadata.kept_fp32) if precision == "fp32" else []
        for number in range(count if isinstance(count, int) else 0):
            name = kept[number] if number < len(kept) else f"an unnamed layer ({precision} {number + 1} of {count})"
            is_last = precision == "fp32" and number == count - 1 and number == len(kept) and len(counts) > 1
            found.append(LayerPrecision(name, "unknown", precision, is_last, evidence, is_kept=number < len(kept)))
    return tuple(layer for layer in found if layer.precision != "unread")


def _read_back(plan: PlanFile) -> Mapping[str, object]:
    read = plan.engine.get("precision")
    return read if isinstance(read, dict) else {}
