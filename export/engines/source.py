"""What an engine is compiled from: an ONNX file's bytes, with what is known of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import InputError
from aps_deploy.runtimes.metadata import METADATA_KEY, ModelMetadata
from aps_deploy.runtimes.onnx_files import load_onnx
from aps_deploy.runtimes.sidecar import check_sidecar

if TYPE_CHECKING:
    import onnx


@dataclasses.dataclass(frozen=True)
class OnnxSource:
    """An ONNX file: what is compiled is what was hashed.

    Attributes:
        name: its name, for errors and documents.
        content: its bytes.
        model: the same, as a model.
        metadata: what it says of itself.
        document: that as plain JSON values, with keys `ModelMetadata` does not know; empty for another tool's file.
        tools: versions of what made it, where a document beside it says so.
    """

    name: str
    content: bytes
    model: onnx.ModelProto
    metadata: ModelMetadata
    document: Mapping[str, Any]
    tools: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of the bytes."""
        return hashlib.sha256(self.content).hexdigest()


def read_source(path: str | os.PathLike[str]) -> OnnxSource:
    """Return the ONNX file at ``path``.

    Raises:
        InputError: it is missing, is no ONNX file, keeps weights in other files, or changed since it was exported.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path} does not exist; give the path of an ONNX file or a checkpoint.")
    sidecar = check_sidecar(file)
    model = load_onnx(file, with_external_data=False)
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        raise InputError(f"{path} keeps its weights in other files; save it as one file, or export it again.")
    metadata = ModelMetadata.from_onnx(model, file.name)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    described = sidecar is not None and sidecar.get("file") == file.name
    return OnnxSource(
        name=file.name,
        content=file.read_bytes(),
        model=model,
        metadata=metadata,
        document=json.loads(texts.get(METADATA_KEY, "{}")),
        tools=dict(sidecar.get("tools") or {}) if sidecar is not None and described else {},
    )


def advice_on_form(source: OnnxSource) -> tuple[str, ...]:
    """Return how to get fewer kernels, in a sentence, where the file states exact selections in a form with more."""
    found = source.metadata
    # Files for older toolkits (sums in limbs) are in the one form that those read.
    if found.selection != "exact" or any(entry.limb_bits is not None for entry in found.selections):
        return ()
    if found.polyphase in ("where", "gather"):
        seen = f"as `{found.polyphase}`"
    elif found.polyphase == "custom-op":
        seen = "as operators for CPU kernels, whose standard operators are compiled here (plugins compute `plugin`)"
    else:
        return ()
    return (
        f"{source.name} states its selections {seen}, which takes more kernels in an engine than `one-pass`; for "
        "fewer, export the checkpoint with --polyphase one-pass and compile that file.",
    )


def check_input_types(source: OnnxSource) -> None:
    """Do nothing where an engine of this file takes images that its sessions give it.

    TensorRT would compile a file of float64 images as one of float32, and one of bytes to what no session runs.

    Raises:
        InputError: an input has another type.
    """
    from onnx import TensorProto

    constants = {tensor.name for tensor in source.model.graph.initializer}
    for entry in source.model.graph.input:
        kind = entry.type.tensor_type.elem_type
        if entry.name not in constants and kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            raise InputError(
                f"{source.name} takes {TensorProto.DataType.Name(kind).lower()} images ({entry.name}), and engines run "
                "here on float32 or float16 ones; export the ONNX file again with float32 images."
            )
