"""The stand-ins have the names of the real thing: what engines call exists in the bindings, under that name.

The bindings of both toolkits are the real ones. TensorRT's are loaded without TensorRT, which shows names and
signatures and no more.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.export.engines import building
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.runtimes.tensorrt.toolkit import EngineKind, Toolkit
from tests.export.engines import fake_tensorrt
from tests.plugins.tensorrt.bindings import make_importable
from tests.runtimes.tensorrt import fake_engine, fake_rtx, interface
from tests.runtimes.tensorrt.interface import Interface, interface_of

ROOT = Path(__file__).parents[3]
KINDS: tuple[EngineKind, ...] = ("trt", "trt-rtx")

# What is called, by the class of the bindings: the stand-in's class, and the names. First what both toolkits have.
BUILT_WITH = {
    "Builder": (
        fake_tensorrt.Builder,
        {"create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"},
    ),
    "INetworkDefinition": (fake_tensorrt._Network, {"num_inputs", "get_input", "num_layers", "get_layer"}),
    "ITensor": (fake_tensorrt._Tensor, {"name", "shape"}),
    "ILayer": (fake_tensorrt._Layer, {"type"}),
    "OnnxParser": (fake_tensorrt.OnnxParser, {"parse", "num_errors"}),
    "IOptimizationProfile": (fake_tensorrt._Profile, {"set_shape"}),
    "ITimingCache": (fake_tensorrt._TimingCache, {"serialize"}),
    "IBuilderConfig": (
        fake_tensorrt._Config,
        {"set_flag", "clear_flag", "profiling_verbosity", "set_memory_pool_limit", "hardware_compatibility_level",
         "add_optimization_profile", "progress_monitor", "create_timing_cache", "set_timing_cache"},
    ),
    "EngineInspector": (fake_tensorrt._Inspector, {"get_engine_information"}),
    "ICudaEngine": (fake_tensorrt._Engine, {"create_engine_inspector"}),
    "Runtime": (fake_tensorrt.Runtime, {"deserialize_cuda_engine", "engine_host_code_allowed"}),
}  # fmt: skip
ENGINE = {
    "num_io_tensors", "num_optimization_profiles", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
    "get_tensor_profile_shape", "create_execution_context",
}  # fmt: skip
CONTEXT = {
    "set_optimization_profile_async", "set_input_shape", "infer_shapes", "get_tensor_shape", "set_tensor_address",
    "execute_async_v3",
}  # fmt: skip
REFITTING = {
    "Refitter": (fake_rtx.Refitter, {"get_missing_weights", "refit_cuda_engine"}),
    "OnnxParserRefitter": (fake_rtx.OnnxParserRefitter, {"refit_from_bytes", "num_errors", "get_error"}),
    "ParserError": (fake_rtx.ParserError, {"desc"}),
}
RUN_WITH: dict[EngineKind, dict[str, tuple[type, set[str]]]] = {
    "trt": {
        "ICudaEngine": (fake_engine.FakeEngine, ENGINE),
        "IExecutionContext": (fake_engine.FakeContext, CONTEXT),
        "Runtime": (fake_engine.Runtime, {"deserialize_cuda_engine", "engine_host_code_allowed"}),
        **REFITTING,
    },
    "trt-rtx": {
        "ICudaEngine": (fake_rtx.RtxEngine, {*ENGINE, "create_runtime_config"}),
        "IExecutionContext": (fake_rtx.RtxContext, CONTEXT),
        "IRuntimeConfig": (fake_rtx.IRuntimeConfig, {"create_runtime_cache", "set_runtime_cache", "get_runtime_cache"}),
        "IRuntimeCache": (fake_rtx.IRuntimeCache, {"serialize", "deserialize"}),
        "Runtime": (fake_rtx.Runtime, {"get_engine_validity", "deserialize_cuda_engine"}),
        **REFITTING,
    },
}
CALLED = [
    (kind, name, stand_in, names)
    for kind in KINDS
    for table in (BUILT_WITH, RUN_WITH[kind])
    for name, (stand_in, names) in table.items()
]
# What no stand-in needs: set, or asked for, by code that the real toolkit for RTX runs in tests.
NOT_STOOD_IN: dict[EngineKind, dict[str, set[str]]] = {
    "trt": {
        "IBuilderConfig": {"builder_optimization_level"},
        "IProgressMonitor": {"phase_start", "step_complete", "phase_finish"},
        "OnnxParser": {"get_error"},
        "ParserError": {"node_name", "node_operator"},
    },
    "trt-rtx": {"IBuilderConfig": {"set_compute_capability", "num_compute_capabilities"}},
}
NOT_STOOD_IN["trt-rtx"] |= {name: names for name, names in NOT_STOOD_IN["trt"].items() if name != "IBuilderConfig"}
# Asked for only where the toolkit is the one for RTX.
ONLY_RTX = {
    "ComputeCapability", "DynamicShapesKernelSpecializationStrategy", "EngineValidity", "EngineInvalidityDiagnostics",
}  # fmt: skip
SOURCES = [
    *sorted((ROOT / "export/engines").glob("*.py")),
    *sorted((ROOT / "aps_deploy/runtimes/tensorrt").glob("*.py")),
    ROOT / "aps_deploy/runtimes/tensorrt_session.py",
]


@pytest.fixture(scope="module")
def interfaces() -> dict[EngineKind, Interface]:
    return {}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> EngineKind:
    found: EngineKind = request.param
    return found


@pytest.fixture
def real(
    kind: EngineKind,
    interfaces: dict[EngineKind, Interface],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Interface:
    """The interface of a toolkit's real bindings, read once."""
    if kind not in interfaces and kind == "trt-rtx":
        toolkit: Toolkit = request.getfixturevalue("rtx")
        interfaces[kind] = interface_of(toolkit.module)
    elif kind not in interfaces:
        environment = make_importable(tmp_path_factory.mktemp("tensorrt"))
        command = [sys.executable, str(interface.__file__)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        interfaces[kind] = json.loads(result.stdout.splitlines()[-1])
    return interfaces[kind]


@pytest.mark.parametrize(
    ("kind", "name", "stand_in", "called"),
    CALLED,
    ids=[f"{kind}-{name}-{stand_in.__module__.rpartition('.')[2]}" for kind, name, stand_in, _ in CALLED],
)
def test_what_is_called_is_in_the_bindings(
    kind: EngineKind, name: str, stand_in: type, called: set[str], real: Interface
) -> None:
    for method in sorted(called):
        assert hasattr(stand_in, method) or method in _set_in(stand_in), f"the stand-in has no {name}.{method}"
        assert method in real[name], f"{kind} has no {name}.{method}"
        ours = getattr(stand_in, method, None)
        if inspect.isfunction(ours):
            _takes_as_many(ours, real[name][method])


def _set_in(stand_in: type) -> set[str]:
    """Return the attributes that the constructors of a class and its bases set."""
    sources = [inspect.getsource(each.__init__) for each in stand_in.__mro__ if inspect.isfunction(each.__init__)]
    return set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", "\n".join(sources)))


def _takes_as_many(ours: Any, documentation: str) -> None:
    """Compare the stand-in's parameters with the signatures in the docstring that pybind writes: one must fit."""
    signatures = list(_signatures(documentation))
    assert signatures, documentation
    parameters = list(inspect.signature(ours).parameters.values())
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    fits = [
        len(needed) <= len(words) and len([word for word in words if "=" not in word]) <= len(parameters)
        for words in signatures
    ]
    assert any(fits), documentation


def _signatures(documentation: str) -> Iterator[list[str]]:
    """Yield the arguments of every overload, each "name: type[= default]"; commas inside brackets are a type's."""
    for match in re.finditer(r"^(?:\d+\. )?\w+\((?P<arguments>.*)\) -> ", documentation, re.MULTILINE):
        yield re.sub(r"\[[^\[\]]*\]", "", match["arguments"]).split(", ")


def test_what_has_no_stand_in_is_in_the_bindings(kind: EngineKind, real: Interface) -> None:
    for name, called in NOT_STOOD_IN[kind].items():
        assert called <= set(real[name]), name


def test_constructors_take_what_they_are_given(real: Interface) -> None:
    given = {"Builder": 1, "Runtime": 1, "OnnxParser": 2, "Refitter": 2, "OnnxParserRefitter": 2}
    for name, count in given.items():
        (words,) = _signatures(real[name]["__init__"])
        assert len(words) == 1 + count and words[-1].startswith("logger: "), words


def test_members_of_enumerations(kind: EngineKind, real: Interface) -> None:
    stand_ins = [fake_tensorrt, fake_engine if kind == "trt" else fake_rtx]
    found = [
        (name, value)
        for stand_in in stand_ins
        for name, value in vars(stand_in).items()
        if hasattr(value, "__members__")
    ]
    assert len(found) > 8
    for name, value in found:
        assert set(value.__members__) <= set(real[name]), name
    toolkit = fake_tensorrt.fake_toolkit() if kind == "trt" else fake_rtx.fake_rtx()
    assert set(building.builder_flags(toolkit, EngineSettings(kind))) <= set(real["BuilderFlag"])
    assert set(building._HARDWARE_LEVELS.values()) <= set(real["HardwareCompatibilityLevel"])


def test_everything_taken_from_the_module_is_in_the_bindings(kind: EngineKind, real: Interface) -> None:
    taken = {names for source in SOURCES for names in _taken(ast.parse(source.read_text(encoding="utf-8")))}
    assert {("Builder",), ("LayerType", "PLUGIN_V3"), ("LayerInformationFormat", "JSON")} <= taken
    for name, *members in taken:
        if kind == "trt-rtx" or name not in ONLY_RTX:
            assert name in real, name
            assert set(members) - {"__members__"} <= set(real[name]), (name, members)


def _taken(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield ("Class",) or ("Class", "MEMBER") for every `toolkit.module.Class.MEMBER`."""
    for node in ast.walk(tree):
        names = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            words = [node.id, *names]
            if "module" in words and words[words.index("module") + 1 :][:1] not in ([], ["__version__"]):
                yield tuple(words[words.index("module") + 1 :][:2])


def test_arguments_given_by_name_have_that_name(real: Interface) -> None:
    tables = (BUILT_WITH, RUN_WITH["trt-rtx"])
    called = {method: name for table in tables for name, (_, methods) in table.items() for method in methods}
    seen = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if isinstance(node, ast.Call) and method in called:
                for keyword in node.keywords:
                    seen.add((method, keyword.arg))
                    assert re.search(rf"\b{keyword.arg}: ", real[called[method]][method]), (method, keyword.arg)
    assert ("set_timing_cache", "ignore_mismatch") in seen
