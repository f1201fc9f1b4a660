"""Answers of inference requests over HTTP: JSON with lists of numbers, or JSON followed by raw tensors."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from aps_deploy.serving.execution import Outputs
from aps_deploy.serving.http_inference import HEADER_LENGTH, Inference
from aps_deploy.serving.http_messages import Response
from aps_deploy.serving.tensors import OutputTensor


def inference_response(inference: Inference, outputs: Outputs) -> Response:
    """Return the HTTP response of an answered request, with what it asked for of the model's outputs.

    Raises:
        InvalidRequestError: an output cannot be classified, or was asked for as JSON, which cannot carry it.
    """
    model, request = inference.model, inference.request
    selected = model.select_outputs(outputs, request.outputs)
    binary = {output.name: output.binary for output in request.outputs}
    chunks = [output.to_bytes() if binary.get(output.name, request.all_binary) else None for output in selected]
    tensors = [chunk for chunk in chunks if chunk is not None]
    if request.request_id or len(tensors) < len(chunks):
        entries = [_entry(output, chunk) for output, chunk in zip(selected, chunks, strict=True)]
        header = _header(model.name, model.version, request.request_id, entries)
    else:
        described = [(output.name, output.datatype, output.shape) for output in selected]
        header = _usual_header(model.name, model.version, tuple(described), tuple(map(len, tensors)))
    if not tensors:
        return Response(header)
    length = (HEADER_LENGTH, b"%d" % len(header))
    return Response(b"".join([header, *tensors]), content_type=b"application/octet-stream", headers=[length])


@functools.lru_cache(maxsize=256)
def _usual_header(
    name: str, version: str, outputs: Sequence[tuple[str, str, tuple[int, ...]]], sizes: Sequence[int]
) -> bytes:
    """Return the JSON before raw tensors of so many bytes: the same for most answers of a model."""
    described = zip(outputs, sizes, strict=True)
    return _header(name, version, "", [_binary_entry(*output, size) for output, size in described])


def _header(name: str, version: str, request_id: str, outputs: list[dict[str, Any]]) -> bytes:
    document: dict[str, Any] = {"id": request_id} if request_id else {}
    document |= {"model_name": name, "model_version": version, "outputs": outputs}
    return json.dumps(document, separators=(",", ":")).encode()


def _entry(output: OutputTensor, chunk: bytes | None) -> dict[str, Any]:
    if chunk is not None:
        return _binary_entry(output.name, output.datatype, output.shape, len(chunk))
    shape = list(output.shape)
    return {"name": output.name, "datatype": output.datatype, "shape": shape, "data": output.to_list()}


def _binary_entry(name: str, datatype: str, shape: tuple[int, ...], size: int) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": parameters}
