"""A plan as `aps-deploy export --engine trt` leaves it, with a body that no TensorRT wrote: none is loaded here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnx.helper import tensor_dtype_to_np_dtype

from aps_deploy.export.engines.engine_export import plan_document
from aps_deploy.export.engines.source import OnnxSource, read_source
from aps_deploy.runtimes.sidecar import sidecar_path
from tests.runtimes import graphs

HEADER = {"trt": b"ftrt" + bytes(20) + bytes([10, 13, 3, 9]), "trt-rtx": b"vtrt" + bytes(12) + bytes([40]) + bytes(7)}


def profile(*batches: int, sides: tuple[int, int, int] = (8, 8, 8)) -> dict[str, list[int]]:
    """Return a profile of these smallest, best and largest batches and sides."""
    return {
        name: [batch, 3, side, side] for name, batch, side in zip(("min", "opt", "max"), batches, sides, strict=True)
    }


def types_of(source: OnnxSource) -> dict[str, str]:
    """Return the types of inputs and outputs of an ONNX file, by their names; an engine of it has the same."""
    entries = (*source.model.graph.input, *source.model.graph.output)
    return {each.name: tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type).name for each in entries}


def write_plan(path: Path, *profiles: dict[str, list[int]], kind: str = "trt", **has: bool) -> Path:
    """Write a plan with its document beside it, compiled from a small classifier.

    ``tensors=False`` and ``weights=False`` leave these out of what the document says of it.
    """
    source = read_source(graphs.save(graphs.classifier(), path.parent / "source.onnx"))
    plan = HEADER[kind].ljust(40, b"\1") if kind == "trt" else HEADER[kind] + bytes([1, 7, 1, 116]) + bytes(12)
    version = "10.13.3.9" if kind == "trt" else "1.7.1.116"
    engine = {"toolkit": kind, "version": version, "precision": {"layers": {}}, "profiles": list(profiles)}
    engine["has_weights"] = has.get("weights", True)
    engine["types"] = types_of(source)
    document: dict[str, Any] = plan_document(path, plan, engine, source)
    if not has.get("tensors", True):
        del document["tensors"]
    path.write_bytes(plan)
    sidecar_path(path).write_text(json.dumps(document))
    return path
