"""JSON for people and for tables of 50,000 shifts: what is only numbers, or short, takes one line."""

from __future__ import annotations

import json
from typing import Any

_LINE = 110  # characters of a container that is not broken, indentation not counted


def json_text(document: Any) -> str:
    """Return ``document`` as JSON text that ends in a line break.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    return _lines(document, "") + "\n"


def _lines(value: Any, indent: str) -> str:
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not value or not isinstance(value, (dict, list, tuple)) or len(plain) <= _LINE or _only_numbers(value):
        return plain
    deeper = indent + "  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(name), ensure_ascii=False)}: {_lines(each, deeper)}" for name, each in value.items()]
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _lines(each, deeper) for each in value) + f"\n{indent}]"


def _only_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_only_numbers(each) for each in value)
    return value is None or isinstance(value, (bool, int, float))
