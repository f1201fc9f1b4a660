"""The server's OpenAPI document: every route with what it takes, what it answers and how it refuses.

It is written beside the routes, not derived from them; the tests hold one to the other, and send what it promises.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from aps_deploy import __version__
from aps_deploy.serving.openapi_schemas import SCHEMAS, Schema, reference

_JSON, _OCTETS, _TEXT = "application/json", "application/octet-stream", "text/plain"
_BYTES: Schema = {}  # OpenAPI 3.1: bytes that are no JSON have no schema

_REFUSED = (401, 431, 503)
"""What any request but a probe may be answered: no token, headers too large, too many connections."""

_WITH_BODY = (400, 408, 413, 415)

_HEADER_LENGTH = "Inference-Header-Content-Length"


@functools.cache
def openapi_document() -> dict[str, Any]:
    """Return the document, version 3.1 of the specification (spec.openapis.org/oas/v3.1.1)."""
    ready = "Whether every model answers: 200, or 400 without a body."
    paths: dict[str, Any] = {
        "/v2/health/live": _item(get=_probe("live", "Whether the server runs.", 200)),
        "/v2/health/ready": _item(get=_probe("ready", ready, 200, 400)),
        "/metrics": _item(get=_operation("metrics", "Counters and gauges for Prometheus.", {200: {_TEXT: _BYTES}})),
        "/openapi.json": _item(get=_operation("openapi", "This document.", {200: {_JSON: {"type": "object"}}})),
        "/v2/models/stats": _item(get=_answers("statistics", "Statistics of every model.", "ModelStatistics")),
        "/v2/repository/index": _item(
            post=_operation(
                "index",
                "Every model, ready or not.",
                {200: {_JSON: reference("Index")}},
                (*_WITH_BODY, *_REFUSED),
                body={_JSON: reference("IndexRequest")},
            )
        ),
    }
    for path, name in (("/v2", "serverMetadata"), ("/v2/", "serverMetadataSlash")):
        paths[path] = _item(get=_answers(name, "The server's name, version and extensions.", "ServerMetadata"))
    for change, missing in (("load", (404,)), ("unload", ())):
        paths[f"/v2/repository/models/{{name}}/{change}"] = _item(
            "name",
            post=_operation(
                change,
                f"{change.capitalize()} a model; 403 unless the server was started with --allow-control.",
                {200: {}},
                (*_WITH_BODY, 403, *missing, *_REFUSED),
                body={_JSON: reference("ControlRequest")},
            ),
        )
    paths["/v1/classify"] = _item(post=_classify("classifyWithTheOnlyModel", "the only model there is"))
    paths["/v1/models/{name}/classify"] = _item("name", post=_classify("classify", "a model"))
    for suffix, parameters in (("", ("name",)), ("/versions/{version}", ("name", "version"))):
        paths |= _model_paths(f"/v2/models/{{name}}{suffix}", parameters, "OfVersion" if suffix else "")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aps-deploy",
            "version": __version__,
            "description": "Open Inference Protocol v2 with Triton's extensions, and classes for images.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "parameters": {
                "name": _parameter("name", "A model.", "^[^/]+$"),
                "version": _parameter("version", "One of its versions.", "^[0-9]+$"),
            },
        },
        # Either: a server without a token lets everybody in.
        "security": [{}, {"token": []}],
    }


def _probe(name: str, summary: str, *statuses: int) -> dict[str, Any]:
    """Return an operation that needs no token, and whose answer is its status alone."""
    return {**_operation(name, summary, {status: {} for status in statuses}, (431,)), "security": []}


def _model_paths(base: str, parameters: tuple[str, ...], suffix: str) -> dict[str, Any]:
    missing = (404, *_REFUSED)
    described = _operation(
        f"metadata{suffix}", "Inputs and outputs.", {200: {_JSON: reference("ModelMetadata")}}, missing
    )
    ready = _operation(f"modelReady{suffix}", "Whether it answers.", {200: {}}, (400, *missing))
    config = _operation(f"config{suffix}", "Configuration.", {200: {_JSON: reference("ModelConfiguration")}}, missing)
    statistics = _operation(
        f"stats{suffix}", "Statistics.", {200: {_JSON: reference("ModelStatistics")}}, (400, *missing)
    )
    return {
        base: _item(*parameters, get=described),
        f"{base}/ready": _item(*parameters, get=ready),
        f"{base}/config": _item(*parameters, get=config),
        f"{base}/stats": _item(*parameters, get=statistics),
        f"{base}/infer": _item(*parameters, post=_infer(f"infer{suffix}")),
    }


def _infer(name: str) -> dict[str, Any]:
    operation = _operation(
        name,
        "Compute outputs; tensors as JSON, or as raw bytes behind the JSON whose length the header says.",
        {200: {_JSON: reference("InferenceResponse"), _OCTETS: _BYTES}},
        (404, 501, *_WITH_BODY, *_REFUSED),
        body={_JSON: reference("InferenceRequest"), _OCTETS: _BYTES},
    )
    length = {"type": "integer", "minimum": 0}
    operation["parameters"] = [
        {"name": _HEADER_LENGTH, "in": "header", "schema": length, "description": "Bytes of JSON; 0 for a raw tensor."}
    ]
    operation["responses"]["200"]["headers"][_HEADER_LENGTH] = {"schema": length}
    return operation


def _classify(name: str, by: str) -> dict[str, Any]:
    operation = _operation(
        name,
        f"The classes of an image, by {by}.",
        {200: {_JSON: reference("Classification")}},
        (404, *_WITH_BODY, *_REFUSED),
        body={"image/jpeg": _BYTES, "image/png": _BYTES},
    )
    limits = {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5}
    operation["parameters"] = [{"name": "top_k", "in": "query", "schema": limits, "description": "How many classes."}]
    return operation


def _answers(name: str, summary: str, schema: str) -> dict[str, Any]:
    return _operation(name, summary, {200: {_JSON: reference(schema)}})


def _operation(
    name: str,
    summary: str,
    answers: dict[int, dict[str, Schema]],
    refused: Iterable[int] = _REFUSED,
    *,
    body: dict[str, Schema] | None = None,
) -> dict[str, Any]:
    """Return an operation; ``answers`` are content types with their schemas, ``refused`` statuses of errors."""
    responses = {str(status): _response(status, content) for status, content in answers.items()}
    for status in sorted(set(refused) - set(answers)):
        responses[str(status)] = _response(status, {_JSON: reference("Error")})
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"content": {kind: {"schema": schema} for kind, schema in body.items()}}
    return operation


def _response(status: int, content: dict[str, Schema]) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": {"schema": {"type": "string"}}}
    if status == 503:
        headers["Retry-After"] = {"schema": {"type": "integer"}}
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": headers}
    if content:
        response["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    return response


def _parameter(name: str, description: str, pattern: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _item(*parameters: str, **operations: dict[str, Any]) -> dict[str, Any]:
    shared = {"parameters": [{"$ref": f"#/components/parameters/{name}"} for name in parameters]} if parameters else {}
    return {**shared, **operations}
