"""The part of enterprise TensorRT's interface that engines use, for machines without it and without a GPU.

It compiles nothing: the "plan" says how the builder was configured, and the inspector answers in the JSON form of
TensorRT 10. What only the real package can show is not tested with it.
"""

from __future__ import annotations

import enum
import json
import sys
from typing import Any

import onnx

from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, Toolkit
from aps_deploy.verification.layer_precision import PRODUCTS

GPU = Gpu("a GPU", "9.0", "13.0")
STAMP = b"times of this GPU:"

BuilderFlag = enum.IntEnum(
    "BuilderFlag",
    "TF32 VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME STRIP_PLAN REFIT REFIT_IDENTICAL DISTRIBUTIVE_INDEPENDENCE",
)
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
ProfilingVerbosity = enum.IntEnum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED")
MemoryPoolType = enum.IntEnum("MemoryPoolType", "WORKSPACE")
HardwareCompatibilityLevel = enum.IntEnum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
LayerInformationFormat = enum.IntEnum("LayerInformationFormat", "ONELINE JSON")
Severity = enum.IntEnum("Severity", "ERROR WARNING INFO")
LayerType = enum.IntEnum("LayerType", "CONVOLUTION PLUGIN_V3")
float32, int64 = "float32", "int64"
DataType = enum.IntEnum("DataType", "FLOAT INT64")


class ILogger:
    pass


class IProgressMonitor:
    pass


class _Tensor:
    name, shape, dtype = "images", (-1, 3, 8, 8), DataType.FLOAT


class _Output:
    def __init__(self, entry: onnx.ValueInfoProto) -> None:
        self.name = entry.name
        is_index = entry.type.tensor_type.elem_type == onnx.TensorProto.INT64
        self.dtype = DataType.INT64 if is_index else DataType.FLOAT


class _Layer:
    def __init__(self, kind: LayerType) -> None:
        self.type = kind


class _Network:
    num_inputs = 1

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = onnx.ModelProto()
        self.layers: list[_Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> _Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return [_Tensor][index]

    @property
    def num_outputs(self) -> int:
        return len(self.model.graph.output)

    def get_output(self, index: int) -> _Output:
        return _Output(self.model.graph.output[index])


class OnnxParser:
    num_errors = 0

    def __init__(self, network: _Network, logger: Any) -> None:
        self._network = network

    def parse(self, content: bytes) -> bool:
        model = self._network.model
        model.ParseFromString(content)
        for node in model.graph.node:
            is_plugin = any(each.name == "plugin_namespace" for each in node.attribute) and _has_plugin(node.op_type)
            self._network.layers.append(_Layer(LayerType.PLUGIN_V3 if is_plugin else LayerType.CONVOLUTION))
        return True


def _has_plugin(op_type: str) -> bool:
    plugins = sys.modules.get(f"{__name__}.plugin")
    return plugins is not None and f"aps::{op_type}" in plugins.KERNELS


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return STAMP + b"new"


class _Profile:
    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes = (name, low, best, high)


class _Config:
    def __init__(self) -> None:
        self.flags_set = {BuilderFlag.TF32}
        self.profiles: list[_Profile] = []
        self.limits: dict[Any, int] = {}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: Any = None
        self.timing: _TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags_set.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags_set.discard(flag)

    def set_memory_pool_limit(self, pool: Any, limit: int) -> None:
        self.limits[pool] = limit

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        self.timing = cache
        return not cache.content or cache.content.startswith(STAMP)


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes:
        assert config.profiling_verbosity == ProfilingVerbosity.DETAILED
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("Building", None, 2)
            config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
        self._logger.log(Severity.WARNING, "a warning")
        document = {
            "flags": sorted(flag.name for flag in config.flags_set),
            "strongly_typed": bool(network.flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED),
            "hardware": config.hardware_compatibility_level.name,
            "times": None if config.timing is None else config.timing.content.decode(),
            "plugins": sum(layer.type == LayerType.PLUGIN_V3 for layer in network.layers),
            "products": [node.name for node in network.model.graph.node if node.op_type in PRODUCTS],
        }
        return json.dumps(document).encode()


class _Inspector:
    def __init__(self, plan: bytes) -> None:
        self._products = json.loads(plan)["products"]

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        assert form == LayerInformationFormat.JSON
        tensor = {"Name": "x", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "Row major linear FP32 format"}
        return json.dumps(
            {
                "Layers": [
                    {
                        "Name": name,
                        "LayerType": "CaskConvolution",
                        "Inputs": [tensor],
                        "Outputs": [tensor],
                        "Metadata": f"[ONNX Layer: {name}]\u001e[ONNX Layer: {name}_relu]",
                    }
                    for name in self._products
                ]
            }
        )


class _Engine:
    def __init__(self, plan: bytes) -> None:
        self._plan = plan

    def create_engine_inspector(self) -> _Inspector:
        return _Inspector(self._plan)


class Runtime:
    """Refuses code inside a plan unless it is told to allow it, as the real one, and to be told so without need."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        flags = json.loads(plan)["flags"]
        carries_code = "VERSION_COMPATIBLE" in flags and "EXCLUDE_LEAN_RUNTIME" not in flags
        if carries_code != self.engine_host_code_allowed:
            self._logger.log(Severity.ERROR, f"the plan {'carries' if carries_code else 'has no'} code")
            return None
        return _Engine(plan)


def fake_toolkit() -> Toolkit:
    """Enterprise TensorRT 10.9, as far as this module goes, on a machine with a GPU."""
    return Toolkit(TOOLKITS["trt"], sys.modules[__name__], "10.9.0.34", GPU)
