"""The JSON schemas of the server's OpenAPI document: what requests carry and what is answered.

The names and their meaning are those of the Open Inference Protocol v2 and of Triton's extensions
(github.com/triton-inference-server/server, docs/protocol).
"""

from __future__ import annotations

from typing import Any

from aps_deploy.serving.datatypes import BYTES, DTYPES
from aps_deploy.serving.tensors import MAX_RANK

Schema = dict[str, Any]

MAX_TIMEOUT_US = (1 << 62) - 1
"""Longest ``timeout`` of a request, in microseconds: what is more is no time that anybody waits."""

_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}


def reference(name: str) -> Schema:
    """Return a reference to a schema of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, *, required: tuple[str, ...] | None = None, **more: Any) -> Schema:
    needed = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, **({"required": needed} if needed else {}), **more}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


_DATATYPE: Schema = {"type": "string", "enum": [*DTYPES, BYTES]}
_TOTAL = _object({"count": _COUNT, "ns": _COUNT})
_PARTS = {part: _TOTAL for part in ("compute_input", "compute_infer", "compute_output")}
_SCORE = _object(
    {
        "index": _COUNT,
        "name": {"type": ["string", "null"]},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "logit": {"type": "number"},
    }
)

_INPUT = _object(
    {
        "name": _STRING,
        "datatype": _DATATYPE,
        "shape": _array(_COUNT, maxItems=MAX_RANK),
        "parameters": _object({"binary_data_size": _COUNT}, required=()),
        "data": {"type": "array", "description": "The elements row by row, flat or nested."},
    },
    required=("name", "datatype", "shape"),
)
_REQUESTED = _object(
    {"name": _STRING, "parameters": _object({"binary_data": _FLAG, "classification": _COUNT}, required=())},
    required=("name",),
)
_OUTPUT = _object(
    {
        "name": _STRING,
        "datatype": _DATATYPE,
        "shape": _array(_COUNT),
        "parameters": _object({"binary_data_size": _COUNT}),
        "data": {"type": "array"},
    },
    required=("name", "datatype", "shape"),
)
_TENSOR_METADATA = _object(
    {"name": _STRING, "datatype": _DATATYPE, "shape": _array({"type": "integer", "minimum": -1})}
)

SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": _STRING}, additionalProperties=False),
    "ServerMetadata": _object({"name": _STRING, "version": _STRING, "extensions": _array(_STRING)}),
    "ModelMetadata": _object(
        {
            "name": _STRING,
            "versions": _array(_STRING),
            "platform": _STRING,
            "inputs": _array(_TENSOR_METADATA),
            "outputs": _array(_TENSOR_METADATA),
        }
    ),
    "ModelConfiguration": _object(
        {
            "name": _STRING,
            "platform": _STRING,
            "backend": _STRING,
            "max_batch_size": _COUNT,
            "input": _array({"type": "object"}),
            "output": _array({"type": "object"}),
        },
        description="The fields of Triton's model_config.proto.",
    ),
    "ModelStatistics": _object(
        {
            "model_stats": _array(
                _object(
                    {
                        "name": _STRING,
                        "version": _STRING,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": _object(
                            {
                                **{kind: _TOTAL for kind in ("success", "fail", "queue", "cache_hit", "cache_miss")},
                                **_PARTS,
                            }
                        ),
                        "batch_stats": _array(_object({"batch_size": {"type": "integer", "minimum": 1}, **_PARTS})),
                    }
                )
            )
        }
    ),
    "InferenceRequest": _object(
        {
            "id": _STRING,
            "parameters": _object(
                {"timeout": {**_COUNT, "maximum": MAX_TIMEOUT_US}, "binary_data_output": _FLAG}, required=()
            ),
            "inputs": _array(_INPUT, minItems=1),
            "outputs": _array(_REQUESTED),
        },
        required=("inputs",),
    ),
    "InferenceResponse": _object(
        {"id": _STRING, "model_name": _STRING, "model_version": _STRING, "outputs": _array(_OUTPUT)},
        required=("model_name", "model_version", "outputs"),
    ),
    "Classification": _object(
        {
            "model_name": _STRING,
            "model_version": _STRING,
            "scores": _array(_SCORE, minItems=1),
            "polyphase_indices": {"type": ["array", "null"], "items": _COUNT},
        }
    ),
    "IndexRequest": _object({"ready": _FLAG}, required=()),
    "Index": _array(
        _object(
            {
                "name": _STRING,
                "version": _STRING,
                "state": {"type": "string", "enum": ["LOADING", "READY", "UNAVAILABLE"]},
                "reason": _STRING,
            },
            required=("name", "state"),
        )
    ),
    "ControlRequest": _object({"parameters": {"type": "object"}}, required=()),
}
