"""The key-value properties of an ONNX file, read without the onnx package and without its weights."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

# Fields of ModelProto and StringStringEntryProto, and protobuf's wire types; from onnx.proto and protobuf's encoding.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MOST_BYTES = 1 << 26


def read_properties(model: str | os.PathLike[str] | bytes) -> dict[str, str]:
    """Return the properties of an ONNX file or a serialised model; empty where it is none or is damaged.

    Only the outermost fields are walked; graph and weights are skipped unread.
    """
    found: dict[str, str] = {}
    try:
        with io.BytesIO(model) if isinstance(model, bytes) else open(model, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            while stream.tell() < size:
                number, content = _next_field(stream, size, wanted=_METADATA_PROPS)
                if number == _METADATA_PROPS and content is not None:
                    entry = _entry(content)
                    found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    except (OSError, ValueError):
        return {}
    return found


def _entry(content: bytes) -> dict[int, str]:
    stream, fields = io.BytesIO(content), {}
    while stream.tell() < len(content):
        number, value = _next_field(stream, len(content), wanted=None)
        fields[number] = (value or b"").decode("utf-8")
    return fields


def _next_field(stream: BinaryIO, size: int, *, wanted: int | None) -> tuple[int, bytes | None]:
    """Read a field's tag and skip its content, or return it where its number is wanted (None: always)."""
    tag = _varint(stream)
    number, kind = tag >> 3, tag & 7
    if kind == _VARINT:
        _varint(stream)
        return number, None
    length = {_FIXED64: 8, _FIXED32: 4}[kind] if kind in (_FIXED64, _FIXED32) else _varint(stream)
    if kind not in (_FIXED64, _FIXED32, _LENGTH) or stream.tell() + length > size:
        raise ValueError("no protobuf message")
    if kind == _LENGTH and wanted in (None, number) and length <= _MOST_BYTES:
        return number, stream.read(length)
    stream.seek(length, os.SEEK_CUR)
    return number, None


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise ValueError("the message ends early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is too long")
