"""Inference requests over gRPC: tensors as raw bytes or as the typed lists of the protocol's messages."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.serving.datatypes import DTYPES
from aps_deploy.serving.errors import InvalidRequestError
from aps_deploy.serving.http_inference import refuse_shared_memory, timeout_ns_of
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.tensors import (
    OutputTensor,
    RequestedOutput,
    check_shape,
    count_elements,
    tensor_from_bytes,
    tensor_from_list,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

Message = Any
"""A message of the protocol; protobuf's classes carry no types."""


def request_tensors(model: ServedModel, request: Message, max_elements: int) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a ``ModelInferRequest``.

    Raises:
        InvalidRequestError: they do not fit the model.
        TooLargeError: they have too many elements.
        UnsupportedError: they are in shared memory.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"the request has {len(request.inputs)} inputs, but {len(raw)} raw input contents; give one for each."
        )
    tensors: dict[str, npt.NDArray[Any]] = {}
    for position, entry in enumerate(request.inputs):
        spec = model.signature.input(entry.name)
        if entry.name in tensors:
            raise InvalidRequestError(f"input '{entry.name}' is given twice.")
        refuse_shared_memory(entry.parameters)
        shape = check_shape(entry.name, list(entry.shape), max_elements - count_elements(tensors.values()))
        model.signature.check_request(spec, entry.datatype, shape)
        if raw:
            tensors[entry.name] = tensor_from_bytes(entry.name, entry.datatype, shape, memoryview(raw[position]))
        else:
            tensors[entry.name] = _typed(entry, shape)
    return tensors


def _typed(entry: Message, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    field = _CONTENTS.get(entry.datatype)
    if field is None:
        raise InvalidRequestError(f"{entry.datatype} data must be sent as raw input contents (input '{entry.name}').")
    values = getattr(entry.contents, field)
    if DTYPES[entry.datatype].kind == "f":
        # Straight to an array: these may be any float, and there may be many.
        array = np.asarray(values, DTYPES[entry.datatype].newbyteorder("="))
        return tensor_from_bytes(entry.name, entry.datatype, shape, memoryview(array.tobytes()))
    return tensor_from_list(entry.name, entry.datatype, shape, list(values))


def requested_outputs(request: Message) -> list[RequestedOutput]:
    """Return the outputs a ``ModelInferRequest`` asks for; none means all.

    Raises:
        InvalidRequestError: a number of classes is negative.
        UnsupportedError: an output should go to shared memory.
    """
    outputs = []
    for entry in request.outputs:
        refuse_shared_memory(entry.parameters)
        num_classes = entry.parameters["classification"].int64_param if "classification" in entry.parameters else 0
        if num_classes < 0:
            raise InvalidRequestError(f"output '{entry.name}': 'classification' must be a number of classes.")
        outputs.append(RequestedOutput(entry.name, True, num_classes))
    return outputs


def request_deadline_ns(request: Message, arrived_ns: int, remaining_s: float | None) -> int | None:
    """Return when a request expires, by the monotonic clock: its parameter ``timeout``, or the call's own deadline.

    Raises:
        InvalidRequestError: the parameter is no number of microseconds.
    """
    limits = []
    if "timeout" in request.parameters:
        timeout_ns = timeout_ns_of(request.parameters["timeout"].int64_param)
        limits += [] if timeout_ns is None else [arrived_ns + timeout_ns]
    if remaining_s is not None:
        limits.append(time.monotonic_ns() + int(remaining_s * 1e9))
    return min(limits, default=None)


def fill_response(response: Message, model: ServedModel, request_id: str, outputs: list[OutputTensor]) -> Message:
    """Fill an empty ``ModelInferResponse`` and return it."""
    response.model_name, response.model_version, response.id = model.name, model.version, request_id
    for output in outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(output.to_bytes())
    return response
