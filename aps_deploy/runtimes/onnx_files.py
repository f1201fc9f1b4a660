"""Reading ONNX files with the onnx package, imported when the first is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from aps_deploy.errors import InputError

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message


def load_onnx(path: str | os.PathLike[str], *, with_external_data: bool = True) -> onnx.ModelProto:
    """Return the model in an ONNX file.

    Args:
        path: the file.
        with_external_data: whether weights kept in files beside it are read as well.

    Raises:
        InputError: the file is missing or holds no ONNX model.
    """
    import onnx

    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path} does not exist; give the path of an ONNX file.")
    try:
        model = onnx.load(file, load_external_data=with_external_data)
    except Exception as error:  # protobuf's and onnx's own error classes share no base with the system's
        raise InputError(f"{path} is not a readable ONNX file ({one_line(error)}); export it again.") from error
    if not model.graph.output:
        # Protobuf reads an empty file, and much garbage, as a model without a graph.
        raise InputError(f"{path} is not an ONNX file: it holds no graph with outputs; export it again.")
    if (text := _no_text(model)) is not None:
        raise InputError(
            f"{path} is damaged: {text[:80]!r} in it is no UTF-8, as every text in an ONNX file is; export it again."
        )
    return model


def named_model(model: str | os.PathLike[str] | onnx.ModelProto, source: str | None) -> tuple[onnx.ModelProto, str]:
    """Return a model, read where it is a file, and the name that messages call it by.

    Args:
        model: path of the file, or a model in memory.
        source: the name; None takes the path where there is one.

    Raises:
        InputError: as `load_onnx`.
    """
    if isinstance(model, (str, os.PathLike)):
        return load_onnx(model), source or os.fspath(model)
    return model, source or "the model in memory"


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of an error's message, shortened."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _no_text(message: Message) -> bytes | None:
    """Return a text inside a message that is no UTF-8, if there is one.

    Protobuf hands such a text out as bytes where everybody expects a string, and ONNX Runtime runs the file.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in (value,) if isinstance(value, (str, bytes)) else value:
                if isinstance(text, bytes):
                    return text
        elif field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "ListFields") else value:
                if (found := _no_text(part)) is not None:
                    return found
    return None
