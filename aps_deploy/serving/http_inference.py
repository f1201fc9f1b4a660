"""Inference requests over HTTP: JSON with lists of numbers, or JSON followed by raw tensors.

Open Inference Protocol v2 with Triton's binary-tensor-data and classification extensions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from aps_deploy.serving.datatypes import BYTES, DTYPES
from aps_deploy.serving.errors import InvalidRequestError, TooLargeError, UnsupportedError
from aps_deploy.serving.http_messages import Response, json_object
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.openapi_schemas import MAX_TIMEOUT_US
from aps_deploy.serving.signature import itemsize
from aps_deploy.serving.tensors import (
    OutputTensor,
    RequestedOutput,
    check_shape,
    count_elements,
    tensor_from_bytes,
    tensor_from_list,
)

HEADER_LENGTH = b"inference-header-content-length"
"""Header that says how many bytes of the body are JSON; raw tensors follow them."""


@dataclasses.dataclass(frozen=True)
class InferenceRequest:
    """A parsed request.

    Attributes:
        request_id: the ID in the body, echoed in the response.
        tensors: one per input.
        outputs: what to return; empty for everything.
        all_binary: whether outputs nobody asked for by name come as raw bytes.
        timeout_ns: how long it may wait; None for the server's limit.
    """

    request_id: str
    tensors: dict[str, npt.NDArray[Any]]
    outputs: Sequence[RequestedOutput]
    all_binary: bool
    timeout_ns: int | None


def parse_inference(
    model: ServedModel, body: bytes, header_length: bytes | None, max_elements: int
) -> InferenceRequest:
    """Return the inference request in an HTTP body.

    Args:
        model: what it is for.
        body: JSON, and the raw tensors after it.
        header_length: value of the header `HEADER_LENGTH`; None for a body that is all JSON.
        max_elements: most elements of all inputs together.

    Raises:
        InvalidRequestError: it cannot be understood or does not fit the model.
        TooLargeError: it has too many elements.
        UnsupportedError: it refers to shared memory.
    """
    json_length = len(body)
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > len(body):
            raise InvalidRequestError(
                f"Inference-Header-Content-Length must be a number from 0 to the body's {len(body)} bytes."
            )
        json_length = int(header_length)
        if json_length == 0:
            return _parse_raw(model, body, max_elements)
    document = json_object(body[:json_length])
    tensors = _parse_inputs(model, document, memoryview(body)[json_length:], max_elements)
    parameters = _object(document, "parameters", "the request")
    outputs, all_binary = _parse_outputs(document, parameters)
    model.check_outputs(outputs)
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidRequestError("the request's 'id' must be a string.")
    return InferenceRequest(request_id, tensors, outputs, all_binary, timeout_ns_of(parameters.get("timeout")))


def timeout_ns_of(timeout_us: object) -> int | None:
    """Return the request parameter ``timeout``, in microseconds, as nanoseconds; None where it is missing or 0.

    Raises:
        InvalidRequestError: it is no number of microseconds.
    """
    if timeout_us is None:
        return None
    if type(timeout_us) is not int or not 0 <= timeout_us <= MAX_TIMEOUT_US:
        raise InvalidRequestError("the parameter 'timeout' must be a whole number of microseconds.")
    return timeout_us * 1000 or None


def inference_response(model: ServedModel, request: InferenceRequest, outputs: Sequence[OutputTensor]) -> Response:
    """Return the HTTP response of an answered request.

    Raises:
        InvalidRequestError: an output was asked for as JSON, which cannot carry it.
    """
    binary = {output.name: output.binary for output in request.outputs}
    described, chunks = [], []
    for output in outputs:
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if binary.get(output.name, request.all_binary):
            data = output.to_bytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            chunks.append(data)
        else:
            entry["data"] = output.to_list()
        described.append(entry)
    document: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": described}
    if request.request_id:
        document = {"id": request.request_id, **document}
    header = json.dumps(document, separators=(",", ":")).encode()
    if not chunks:
        return Response(header)
    length = (HEADER_LENGTH, b"%d" % len(header))
    return Response(b"".join([header, *chunks]), content_type=b"application/octet-stream", headers=[length])


def _parse_inputs(
    model: ServedModel, document: dict[str, Any], rest: memoryview, max_elements: int
) -> dict[str, npt.NDArray[Any]]:
    tensors: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for entry in _objects(document, "inputs"):
        name = _string(entry, "name", "an input")
        spec = model.signature.input(name)
        if name in tensors:
            raise InvalidRequestError(f"input '{name}' is given twice.")
        datatype = _string(entry, "datatype", f"input '{name}'")
        if datatype not in DTYPES and datatype != BYTES:
            raise InvalidRequestError(f"input '{name}' has the unknown datatype '{datatype}'.")
        shape = check_shape(name, entry.get("shape"), max_elements - count_elements(tensors.values()))
        model.signature.check_request(spec, datatype, shape)
        parameters = _object(entry, "parameters", f"input '{name}'")
        refuse_shared_memory(parameters)
        size = parameters.get("binary_data_size")
        if size is None:
            tensors[name] = tensor_from_list(name, datatype, shape, entry.get("data"))
            continue
        if type(size) is not int or size < 0 or "data" in entry:
            raise InvalidRequestError(f"input '{name}' must have either data or a binary_data_size of 0 or more bytes.")
        if size > len(rest) - start:
            raise InvalidRequestError(
                f"unexpected total byte size {len(rest) - start} for input '{name}', expecting {size}."
            )
        tensors[name] = tensor_from_bytes(name, datatype, shape, rest[start : start + size])
        start += size
    if start != len(rest):
        raise InvalidRequestError(f"the body has {len(rest) - start} bytes more than its inputs.")
    return tensors


def _parse_outputs(document: dict[str, Any], parameters: dict[str, Any]) -> tuple[list[RequestedOutput], bool]:
    all_binary = _flag(parameters, "binary_data_output", False)
    outputs = []
    for entry in _objects(document, "outputs") if "outputs" in document else []:
        name = _string(entry, "name", "an output")
        own = _object(entry, "parameters", f"output '{name}'")
        refuse_shared_memory(own)
        num_classes = own.get("classification", 0)
        if type(num_classes) is not int or num_classes < 0:
            raise InvalidRequestError(f"output '{name}': 'classification' must be a number of classes.")
        outputs.append(RequestedOutput(name, _flag(own, "binary_data", all_binary), num_classes))
    return outputs, all_binary


def _parse_raw(model: ServedModel, body: bytes, max_elements: int) -> InferenceRequest:
    """Return the request of a body that is one tensor and nothing else: one row, of the model's only input."""
    if len(model.signature.inputs) != 1:
        raise InvalidRequestError("a raw binary request is for models with one input; send the tensors with JSON.")
    (spec,) = model.signature.inputs.values()
    shape = list(spec.shape or ())
    if model.signature.batches:
        shape[0] = 1
    if min(shape) < 0:
        raise InvalidRequestError(f"the sizes of '{model.name}' are free, so a raw binary request must say its shape.")
    if len(body) // itemsize(spec) > max_elements:
        raise TooLargeError(f"the input has more than {max_elements} elements, the most this server takes.")
    tensor = tensor_from_bytes(spec.name, spec.datatype, tuple(shape), memoryview(body))
    return InferenceRequest("", {spec.name: tensor}, (), True, None)


def refuse_shared_memory(parameters: Any) -> None:
    """Do nothing where a tensor's parameters do not refer to shared memory.

    Raises:
        UnsupportedError: they do.
    """
    if "shared_memory_region" in parameters:
        raise UnsupportedError("shared memory is not supported; send the tensors in the request.")


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequestError(f"the request needs a list of objects '{key}'.")
    return entries


def _object(document: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequestError(f"'{key}' of {where} must be an object.")
    return value


def _string(document: dict[str, Any], key: str, where: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where} needs a string '{key}'.")
    return value


def _flag(document: dict[str, Any], key: str, default: bool) -> bool:
    value = document.get(key, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"'{key}' must be true or false.")
    return value
