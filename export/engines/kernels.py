"""The list of compiled kernels: which ones an engine runs, for which ONNX nodes, on which types.

Two sources say the same: the engine inspector, which needs a GPU (it starts from a loaded engine), and the builder's
own verbose log, which needs none. Both appear only where the engine is built with detailed profiling verbosity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aps_deploy.runtimes.tensorrt.log import ToolkitLog

# What only moves the work along: shapes, and the order of streams.
BOOKKEEPING = frozenset({"shape_call", "signal", "wait", "NoOp"})

_SECTIONS = re.compile(r", (Inputs|Constants|Outputs|TacticName|StreamId|EventId|Metadata): ")
_NAME = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+)")
_TYPE = re.compile(r"(?:Format/)?Datatype: ([^,}\]]+)")
# One bracket after the other, with a unit or record separator between them, or nothing.
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[,\s]|$)")
# TensorRT's spellings, in versions 8 to 11: "Half", "FP16", "Row major linear FP16 format".
_TYPES = (
    (re.compile(r"bfloat16|bf16", re.IGNORECASE), "bf16"),
    (re.compile(r"half|fp16|float16", re.IGNORECASE), "fp16"),
    (re.compile(r"int64", re.IGNORECASE), "int64"),
    (re.compile(r"int32", re.IGNORECASE), "int32"),
    (re.compile(r"fp8|e4m3|float8", re.IGNORECASE), "fp8"),
    (re.compile(r"int8", re.IGNORECASE), "int8"),
    (re.compile(r"bool", re.IGNORECASE), "bool"),
    (re.compile(r"float|fp32", re.IGNORECASE), "fp32"),
)


@dataclass(frozen=True)
class Kernel:
    """One entry of the list.

    Attributes:
        name: the compiler's name for it.
        kind: what the compiler calls its sort: ``correlation`` is a convolution, ``kgen`` a generated kernel.
        inputs: types of the values it reads, ``fp32``, ``fp16``, ``bf16``, ``int8``, ``int64`` ..., in order.
        constants: types of its constants (weights first), in order.
        outputs: types of what it writes, in order.
        nodes: names of the ONNX nodes it computes, or takes part in.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def computes(self) -> bool:
        """Whether it is a kernel, and not bookkeeping."""
        return self.kind not in BOOKKEEPING


def kernels_from_log(log: ToolkitLog) -> tuple[Kernel, ...]:
    """Return the compiled kernels from a builder's verbose log; empty where it lists none.

    An engine of several profiles is listed once for each; the kernels of all of them are returned.
    """
    # Not splitlines: it also splits at the separators between the nodes of a kernel.
    lines = [line for _, text in log.messages if text.startswith("Layers:") for line in text.split("\n")]
    return tuple(kernel for line in lines if (kernel := _kernel_of_line(line)) is not None)


def kernels_from_inspector(text: str) -> tuple[Kernel, ...]:
    """Return the compiled kernels from an engine inspector's JSON; empty where it holds names only."""
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return ()
    return tuple(_kernel_of_object(layer) for layer in layers if isinstance(layer, dict))


def num_kernels(kernels: Iterable[Kernel]) -> int:
    """Return how many kernels an engine launches, bookkeeping apart."""
    return sum(kernel.computes for kernel in kernels)


def _kernel_of_line(line: str) -> Kernel | None:
    head = _NAME.match(line.strip())
    if head is None:
        return None
    parts = _SECTIONS.split(line)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    inputs, constants, outputs = (
        tuple(_type(found) for found in _TYPE.findall(sections.get(name, "")))
        for name in ("Inputs", "Constants", "Outputs")
    )
    return Kernel(head["name"], head["kind"], inputs, constants, outputs, _nodes(sections.get("Metadata", "")))


def _kernel_of_object(layer: dict[str, Any]) -> Kernel:
    inputs, constants, outputs = (_types(layer.get(name)) for name in ("Inputs", "Constants", "Outputs"))
    name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", ""))
    return Kernel(name, kind, inputs, constants, outputs, _nodes(str(layer.get("Metadata", ""))))


def _types(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        return ()
    found = [value.get("Datatype", value.get("Format/Datatype", "")) for value in values if isinstance(value, dict)]
    return tuple(_type(str(word)) for word in found)


def _type(words: str) -> str:
    for pattern, name in _TYPES:
        if pattern.search(words):
            return name
    return words.strip() or "unknown"


def _nodes(metadata: str) -> tuple[str, ...]:
    # A node inlined from a function is "node | caller (function)".
    return tuple(name.split(" | ")[0] for name in _NODE.findall(metadata))
