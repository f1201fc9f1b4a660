"""Ways to damage an exported file, and what `verify` may make of one: a sentence or a failed gate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from aps_deploy.errors import ApsError
from aps_deploy.runtimes import METADATA_KEY
from aps_deploy.verification import verify

Images = npt.NDArray[np.float32]
Outcome = Literal["refused", "failed", "passed"]


def outcome(file: str | os.PathLike[str], reference: torch.nn.Module, images: Any, **options: Any) -> Outcome:
    """Return what became of a file; any other exception than a refusal in one sentence is the test's failure."""
    try:
        certificate = verify(file, reference, images, **{"shifts": 1, **options})
    except ApsError as error:
        assert_one_sentence(str(error))
        return "refused"
    return "passed" if certificate.passed else "failed"


def assert_one_sentence(text: str) -> None:
    """Assert that a message is one line for people."""
    assert text.endswith(".")
    assert "\n" not in text and "Traceback" not in text
    assert len(text) < 1200


def structure_of(content: bytes) -> npt.NDArray[np.int64]:
    """Return the positions of the bytes of an ONNX file that are no weights: damage there is the most telling."""
    inside = np.zeros(len(content), bool)
    for tensor in onnx.load_from_string(content).graph.initializer:
        if len(tensor.raw_data) >= 256:
            start = content.find(tensor.raw_data)
            inside[start : start + len(tensor.raw_data)] = True
    return np.flatnonzero(~inside)


class DamagedFiles:
    """Writes damaged copies of one exported file in the same place, with or without its document beside it.

    Args:
        source: the good file.
        folder: where the copies are written.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.content = source.read_bytes()
        self.structure = structure_of(self.content)
        self.path = folder / source.name
        self._beside = source.with_suffix(".json").read_bytes()

    def write(self, content: bytes, *, with_document: bool) -> Path:
        """Write ``content`` as the file and return its path."""
        self.path.write_bytes(content)
        beside = self.path.with_suffix(".json")
        if with_document:
            beside.write_bytes(self._beside)
        else:
            beside.unlink(missing_ok=True)
        return self.path

    def write_model(self, model: onnx.ModelProto) -> Path:
        """Write a model as the file, without a document, and return its path."""
        return self.write(model.SerializeToString(), with_document=False)

    def flipped(self, flips: list[tuple[bool, float, int]]) -> bytes:
        """Return the content with bytes changed.

        Args:
            flips: per byte whether it is one of the structure, how far through it (0 to 1), and what it is XORed with.
        """
        content = bytearray(self.content)
        for in_structure, share, mask in flips:
            places = self.structure if in_structure else np.arange(len(content))
            content[places[min(int(share * len(places)), len(places) - 1)]] ^= mask
        return bytes(content)


def float_initializers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the float weights, biases and blur kernels."""
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.name.rsplit(".")[-1] in ("weight", "bias", "kernel")
    ]


def with_value(model: onnx.ModelProto, name: str, place: float, value: float) -> onnx.ModelProto:
    """Return a copy with one number of an initializer replaced, ``place`` (0 to 1) of the way through it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[min(int(place * values.size), values.size - 1)] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def metadata_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Return what a model says of itself."""
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    document: dict[str, Any] = json.loads(entry.value)
    return document


def with_metadata(model: onnx.ModelProto, text: str) -> onnx.ModelProto:
    """Return a copy that says ``text`` of itself."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    next(entry for entry in copy.metadata_props if entry.key == METADATA_KEY).value = text
    return copy


_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64
_IMAGES: list[int | str] = ["n", 3, 16, 16]


def foreign_graphs() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield valid ONNX files, by name, that are no faithful export of anything: odd inputs, odd outputs."""
    pooled = [
        helper.make_node("ReduceMean", ["x", "map"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "matrix"], ["row"]),
    ]
    for kind in (TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8, TensorProto.STRING):
        node = helper.make_node("Identity", ["x"], ["logits"])
        yield f"input of type {kind}", _graph([node], {"logits": kind}, inputs={"x": (kind, _IMAGES)})
    for shape in ([3, 16, 16], [0, 3, 16, 16], ["n", 0, 16, 16], ["n", 3, 0, 0], [], ["n", 1, 16, 16], ["n", 3, 8, 8]):
        inputs = {"x": (_FLOAT, shape)}
        yield f"input of shape {shape}", _graph([_identity("x", "logits")], {"logits": _FLOAT}, inputs=inputs)
    two = {"x": (_FLOAT, _IMAGES), "y": (_FLOAT, _IMAGES)}
    yield "two inputs", _graph([helper.make_node("Add", ["x", "y"], ["logits"])], {"logits": _FLOAT}, inputs=two)
    yield "no inputs", _graph([_identity("map", "logits")], {"logits": _INT64}, inputs={})
    yield "the image as logits", _graph([_identity("x", "logits")], {"logits": _FLOAT})
    largest = helper.make_node("ReduceMax", ["x"], ["logits"], keepdims=0)
    yield "a scalar as logits", _graph([largest], {"logits": _FLOAT})
    yield "other logits", _graph([*pooled, _identity("row", "logits")], {"logits": _FLOAT})
    for kind in (TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.STRING):
        cast = helper.make_node("Cast", ["row"], ["logits"], to=kind)
        yield f"logits of type {kind}", _graph([*pooled, cast], {"logits": kind})
    no_rows = helper.make_node("Slice", ["row", "zero", "zero"], ["logits"])
    yield "logits without rows", _graph([*pooled, no_rows], {"logits": _FLOAT})
    one_row = helper.make_node("ReduceMax", ["row", "zero"], ["logits"], keepdims=1)
    yield "one row for all images", _graph([*pooled, one_row], {"logits": _FLOAT})
    indices = {"logits": _FLOAT, "polyphase_indices": _FLOAT}
    both = [*pooled, _identity("row", "logits"), helper.make_node("Slice", ["row", "zero", "two", "one"],
                                                                  ["polyphase_indices"])]  # fmt: skip
    yield "indices that are floats", _graph(both, indices)
    flat = [*pooled, _identity("row", "logits"), helper.make_node("Shape", ["row"], ["polyphase_indices"])]
    yield "indices of the batch", _graph(flat, {"logits": _FLOAT, "polyphase_indices": _INT64})
    sequence = helper.make_tensor_sequence_value_info("logits", _FLOAT, None)
    model = _graph([*pooled, helper.make_node("SequenceConstruct", ["row"], ["logits"])], {})
    model.graph.output.append(sequence)
    yield "a sequence as logits", model


def _identity(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [target])


def _graph(
    nodes: list[onnx.NodeProto],
    outputs: dict[str, int],
    *,
    inputs: dict[str, tuple[int, list[Any]]] | None = None,
) -> onnx.ModelProto:
    taken = {"x": (_FLOAT, _IMAGES)} if inputs is None else inputs
    constants = {
        "map": np.array([2, 3], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "matrix": np.arange(21, dtype=np.float32).reshape(3, 7),
    }
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in taken.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
