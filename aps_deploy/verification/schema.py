"""The certificate's JSON Schema, and a check of documents against the part of JSON Schema that it uses.

A certificate comes from a file: a report or a new judgement of a damaged one must be refused in a sentence.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

SCHEMA_PATH = Path(__file__).with_name("certificate.schema.json")
"""The schema in the package, of JSON Schema draft 2020-12."""

_IS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, (list, tuple)),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and _is_number(value) and abs(value) < 2**53,
    "number": lambda value: _is_number(value),
}


def _is_number(value: Any) -> bool:
    # Python's booleans are integers, and its JSON knows NaN and integers of any size; other readers' have neither.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**1023


KEYWORDS = frozenset({
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minimum", "enum",
    "const", "anyOf", "$ref", "$defs", "$schema", "$id", "title", "description",
})  # fmt: skip
"""The keywords that `first_fault` understands, those without meaning for it among them."""


@functools.cache
def certificate_schema() -> Schema:
    """Return the schema of certificates."""
    schema: Schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return schema


def resolved(schema: Schema, root: Schema) -> Schema:
    """Return the schema that a local ``$ref`` (``#/$defs/NAME``) of ``root`` stands for; any other as it is."""
    if "$ref" not in schema:
        return schema
    return dict(root["$defs"][schema["$ref"].removeprefix("#/$defs/")])


def first_fault(value: Any, schema: Schema, *, root: Schema | None = None, where: str = "") -> str | None:
    """Return in words where a JSON value first differs from ``schema``, or None where it does not.

    Args:
        value: plain JSON values.
        schema: uses none but `KEYWORDS`.
        root: schema that holds the ``$defs``; None takes ``schema``.
        where: path of ``value`` in the document, for the words.
    """
    root = schema if root is None else root
    schema = resolved(schema, root)
    name = where or "the document"
    if "anyOf" in schema:
        faults = [first_fault(value, each, root=root, where=where) for each in schema["anyOf"]]
        # The last alternative is the richest; null comes first.
        return None if None in faults else faults[-1]
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_IS[each](value) for each in types):
        return f"{name} is {_shown(value)}; it must be {' or '.join(types)}"
    if "const" in schema and value != schema["const"]:
        return f"{name} is {_shown(value)}; it must be {_shown(schema['const'])}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{name} is {_shown(value)}; it must be one of {', '.join(map(_shown, schema['enum']))}"
    if "minimum" in schema and _IS["number"](value) and not value >= schema["minimum"]:
        return f"{name} is {_shown(value)}; it must be at least {schema['minimum']}"
    if isinstance(value, dict):
        return _fault_in_object(value, schema, root, where)
    if isinstance(value, (list, tuple)):
        return _fault_in_array(value, schema, root, where)
    return None


def _fault_in_object(value: dict[str, Any], schema: Schema, root: Schema, where: str) -> str | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}.{name} is missing".lstrip(".")
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, each in value.items():
        inner = known.get(name, others)
        if isinstance(inner, dict):
            fault = first_fault(each, inner, root=root, where=f"{where}.{name}".lstrip("."))
            if fault is not None:
                return fault
    return None


def _fault_in_array(value: Any, schema: Schema, root: Schema, where: str) -> str | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where} has {len(value)} items"
    if "items" not in schema:
        return None
    faults = (
        first_fault(each, schema["items"], root=root, where=f"{where}[{position}]")
        for position, each in enumerate(value)
    )
    return next((fault for fault in faults if fault is not None), None)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "an array"
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
