"""The part of enterprise TensorRT's interface that runs plans, for machines without it and without a GPU.

A "plan" is a header as TensorRT writes it and an ONNX file behind it, which ONNX Runtime computes from and to the very
addresses that the session bound. Like the real one it refuses shapes outside its profile, needs the profile of a
context chosen, hands out its tensors in an order of its own, and talks to its logger in every run.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from aps_deploy.runtimes.metadata import METADATA_KEY
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, Toolkit
from tests.runtimes.tensorrt.fake_cuda import FakeGraph

GPU = Gpu("a GPU", "9.0", "13.0")
VERSION = "10.9.0.34"
PROFILES = ((2, 3, 4), (6, 8, 8))

DataType = enum.IntEnum("DataType", "FLOAT HALF INT64 FP8")
TensorIOMode = enum.IntEnum("TensorIOMode", "NONE INPUT OUTPUT")
Severity = enum.IntEnum("Severity", "ERROR WARNING INFO VERBOSE")
_NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64}
_TENSORS = {"polyphase_indices": DataType.INT64, "images": DataType.FLOAT, "logits": DataType.FLOAT}


class ILogger:
    pass


class BuilderFlag(enum.IntEnum):
    TF32 = 0


class FakeContext:
    """An execution context that computes in ONNX Runtime."""

    captures = True

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.profile = 0
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.num_enqueued = 0
        engine.contexts.append(self)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream > 1000
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = PROFILES[self.profile]
        if not low <= shape[0] <= high or shape[1:] != self.engine.shapes["images"]:
            return False
        self.shape = shape
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        return (self.shape[0], *self.engine.shapes[name])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in _TENSORS

    def execute_async_v3(self, stream: int) -> bool:
        assert stream > 1000, "the default stream cannot be captured"
        if set(self.addresses) != set(_TENSORS) or self.engine.fails:
            return False
        self.num_enqueued += 1
        self.engine.say(Severity.VERBOSE, f"enqueued for the {self.num_enqueued}th time")
        if FakeGraph.capturing is None:
            self.compute()
        elif not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        else:
            FakeGraph.capturing.steps.append(self.compute)
        return True

    def compute(self) -> None:
        names = [name for name in _TENSORS if name != "images"]
        for name, value in zip(names, self.engine.session.run(names, {"images": self._at("images")}), strict=True):
            self._at(name)[...] = value

    def _at(self, name: str) -> npt.NDArray[Any]:
        shape, dtype = self.get_tensor_shape(name), np.dtype(_NUMPY[_TENSORS[name]])
        memory = (ctypes.c_byte * (int(np.prod(shape)) * dtype.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


class FakeEngine:
    """A loaded engine of two profiles."""

    num_io_tensors = len(_TENSORS)
    num_optimization_profiles = len(PROFILES)

    def __init__(self, content: bytes) -> None:
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {value.name: tuple(value.shape[1:]) for value in values}
        self.contexts: list[FakeContext] = []
        self.fails = False
        self.logger: Any = None

    def say(self, severity: Severity, text: str) -> None:
        if self.logger is not None:
            self.logger.log(severity, text)

    def get_tensor_name(self, index: int) -> str:
        return list(_TENSORS)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TENSORS[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(count, *self.shapes["images"]) for count in PROFILES[index]]

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class Runtime:
    engine_host_code_allowed = False
    last: Runtime | None = None

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        Runtime.last = self

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        if b"not for this GPU" in plan:
            self.logger.log(Severity.ERROR, "expecting compute capability 9.0 got compute capability 8.6")
            return None
        engine = FakeEngine(plan[28:])
        engine.logger = self.logger
        self.logger.log(Severity.VERBOSE, "deserialised")
        return engine


def fake_toolkit(gpu: Gpu | None = GPU, version: str = VERSION) -> Toolkit:
    """Enterprise TensorRT, as far as this module goes, on a machine with a GPU."""
    import sys

    return Toolkit(TOOLKITS["trt"], sys.modules[__name__], version, gpu)


def plan_bytes(model: onnx.ModelProto, version: str = VERSION) -> bytes:
    """A header as TensorRT writes it (serialisation version 0), and a model."""
    numbers = bytes(int(part) for part in version.split("."))
    return struct.pack("<4sI16s", b"ftrt", 0, b"") + numbers + model.SerializeToString()


def write_plan(path: Path, model: onnx.ModelProto, *, content: bytes | None = None, **engine: Any) -> Path:
    """A plan with its document; ``engine`` replaces what the document says of the engine."""
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    plan = plan_bytes(model) if content is None else content
    told = {
        "toolkit": "trt",
        "version": VERSION,
        "gpu": GPU.to_dict(),
        "compute_capabilities": [],
        "profiles": [
            {name: [count, 3, side, side] for name, count in zip(("min", "opt", "max"), batches, strict=True)}
            for batches in PROFILES
        ],
        "settings": {"version_compatible": False, "hardware_compatibility": "none"},
        "precision": {"precision": "fp32", "layers": {"fp32": 3}, "unread_layers": [], "read_from": "engine inspector"},
        "has_weights": True,
    }
    document = {
        "file": path.name,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": hashlib.sha256(model.SerializeToString()).hexdigest(),
        "engine": {**told, **engine},
        "metadata": json.loads(entry.value),
    }
    path.write_bytes(plan)
    path.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")
    return path
