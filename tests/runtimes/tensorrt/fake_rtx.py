"""TensorRT for RTX as far as sessions use it, for machines without a GPU: `fake_engine`, with what only it has.

Contexts are made from a runtime configuration and compile for every shape they meet, unless the runtime cache knows the
shape already; plans may come without weights, and a refitter puts them in. The names are those of the real bindings,
which `test_stand_ins` compares.
"""

from __future__ import annotations

import enum
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import onnx

from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, Toolkit
from tests.runtimes.tensorrt import fake_engine
from tests.runtimes.tensorrt.fake_engine import (
    BuilderFlag,
    DataType,
    FakeContext,
    FakeEngine,
    ILogger,
    Severity,
    TensorIOMode,
)

__all__ = ["BuilderFlag", "DataType", "ILogger", "TensorIOMode"]

GPU = Gpu("an RTX GPU", "8.6", "13.0")
VERSION = "1.7.1.116"
STAMP = b"kernels of 1.7.1.116: "

DynamicShapesKernelSpecializationStrategy = enum.IntEnum(
    "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE", start=0
)
ComputeCapability = enum.IntEnum("ComputeCapability", {"NONE": 0, "CURRENT": 1, "SM86": 86, "SM120": 120})
EngineValidity = enum.IntEnum("EngineValidity", "VALID SUBOPTIMAL INVALID", start=0)
EngineInvalidityDiagnostics = enum.IntFlag("EngineInvalidityDiagnostics", "VERSION_MISMATCH UNSUPPORTED_CC")


class IRuntimeCache:
    """Shapes that were compiled for."""

    def __init__(self) -> None:
        self.shapes: set[str] = set()
        self.num_compiled = 0

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(STAMP):
            return False
        self.shapes = set(json.loads(blob[len(STAMP) :]))
        return True

    def serialize(self) -> bytes:
        return STAMP + json.dumps(sorted(self.shapes)).encode()

    def compile(self, shape: tuple[int, ...]) -> None:
        self.num_compiled += str(shape) not in self.shapes
        self.shapes.add(str(shape))


class IRuntimeConfig:
    """What a context is made from."""

    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self._cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self._cache


class RtxContext(FakeContext):
    """A context that compiles for a shape before its first run."""

    def __init__(self, engine: RtxEngine, config: IRuntimeConfig) -> None:
        super().__init__(engine)
        self.config = config

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not super().set_input_shape(name, shape):
            return False
        cache = self.config.get_runtime_cache()
        if cache is not None:
            cache.compile(shape)
        return True


class RtxEngine(FakeEngine):
    """A loaded engine; one without weights computes from zeros until it is refitted."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.is_refittable = not any(
            any(tensor.float_data) or any(tensor.raw_data) for tensor in _weights(onnx.load_from_string(content))
        )

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, config: IRuntimeConfig | None = None) -> RtxContext:
        assert config is not None, "without a configuration kernels are compiled in the background"
        assert config.dynamic_shapes_kernel_specialization_strategy == DynamicShapesKernelSpecializationStrategy.EAGER
        return RtxContext(self, config)


class Refitter:
    """Takes the weights of an engine that was built for it."""

    def __init__(self, engine: RtxEngine, logger: Any) -> None:
        if not engine.is_refittable:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.engine = engine
        self.content: bytes | None = None

    def get_missing_weights(self) -> list[str]:
        return [] if self.content is not None else ["first.weight", "second.weight"]

    def refit_cuda_engine(self) -> bool:
        assert self.content is not None
        self.engine.session = FakeEngine(self.content).session
        return True


class ParserError:
    def desc(self) -> str:
        return "no such\n weights"


class OnnxParserRefitter:
    """Reads the weights of an ONNX file into a refitter."""

    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self._refitter = refitter
        self.num_errors = 0

    def refit_from_bytes(self, model: bytes) -> bool:
        if b"other weights" in model:
            self.num_errors = 1
            return False
        self._refitter.content = model
        return True

    def get_error(self, index: int) -> ParserError:
        return [ParserError()][index]


class Runtime:
    last: Runtime | None = None

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.engine: RtxEngine | None = None
        Runtime.last = self

    def get_engine_validity(self, plan: bytes) -> tuple[EngineValidity, int]:
        if b"not for this GPU" in plan:
            return EngineValidity.INVALID, int(EngineInvalidityDiagnostics.UNSUPPORTED_CC)
        return EngineValidity.VALID, 0

    def deserialize_cuda_engine(self, plan: bytes) -> RtxEngine | None:
        if len(plan) <= 28:
            self.logger.log(Severity.ERROR, "header.size == blobSize")
            return None
        self.engine = RtxEngine(plan[28:])
        return self.engine


def fake_rtx(gpu: Gpu | None = GPU, version: str = VERSION) -> Toolkit:
    """TensorRT for RTX, as far as this module goes, on a machine with a GPU."""
    return Toolkit(TOOLKITS["trt-rtx"], sys.modules[__name__], version, gpu)


def rtx_plan_bytes(model: onnx.ModelProto, version: str = VERSION) -> bytes:
    """A header as TensorRT for RTX writes it, and a model."""
    content = model.SerializeToString()
    numbers = bytes(int(part) for part in version.split("."))
    return struct.pack("<4s12sQ", b"vtrt", b"", 28 + len(content)) + numbers + content


def write_rtx_plan(path: Path, model: onnx.ModelProto, *, content: bytes | None = None, **engine: Any) -> Path:
    """A plan with its document, of this version and for this GPU."""
    plan = rtx_plan_bytes(model) if content is None else content
    told = {"toolkit": "trt-rtx", "version": VERSION, "gpu": GPU.to_dict(), **engine}
    return fake_engine.write_plan(path, model, content=plan, **told)


def write_stripped_plan(path: Path, source: Path) -> Path:
    """A plan of the ONNX file ``source`` that lacks its weights, with its document."""
    model = onnx.load(source)
    for tensor in _weights(model):
        tensor.raw_data = bytes(len(tensor.raw_data))
    write_rtx_plan(path, model, has_weights=False)
    beside = path.with_suffix(".json")
    document = json.loads(beside.read_text(encoding="utf-8"))
    document |= {"onnx_sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "onnx_file": source.name}
    beside.write_text(json.dumps(document), encoding="utf-8")
    return path


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
