"""The stand-ins have the names of the real thing: what sessions call exists in the bindings, under that name."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.runtimes.tensorrt import fake_rtx

# What sessions call, by the class of the bindings; the stand-in's class where it has another name.
CALLED = {
    "ICudaEngine": (
        fake_rtx.RtxEngine,
        {"num_io_tensors", "num_optimization_profiles", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
         "get_tensor_profile_shape", "create_runtime_config", "create_execution_context"},
    ),
    "IExecutionContext": (
        fake_rtx.RtxContext,
        {"set_optimization_profile_async", "set_input_shape", "infer_shapes", "get_tensor_shape", "set_tensor_address",
         "execute_async_v3"},
    ),
    "IRuntimeConfig": (
        fake_rtx.IRuntimeConfig, {"create_runtime_cache", "set_runtime_cache", "get_runtime_cache"},
    ),
    "IRuntimeCache": (fake_rtx.IRuntimeCache, {"serialize", "deserialize"}),
    "Refitter": (fake_rtx.Refitter, {"get_missing_weights", "refit_cuda_engine"}),
    "OnnxParserRefitter": (fake_rtx.OnnxParserRefitter, {"refit_from_bytes", "get_error"}),
    "ParserError": (fake_rtx.ParserError, {"desc"}),
    "Runtime": (fake_rtx.Runtime, {"get_engine_validity", "deserialize_cuda_engine"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLED)
def test_what_sessions_call_is_in_the_bindings(name: str, rtx: Toolkit) -> None:
    stand_in, called = CALLED[name]
    real = getattr(rtx.module, name)
    for method in sorted(called):
        assert hasattr(stand_in, method), f"the stand-in has no {name}.{method}"
        assert hasattr(real, method), f"TensorRT for RTX has no {name}.{method}"
        ours = getattr(stand_in, method)
        if inspect.isfunction(ours):
            _takes_as_many(ours, getattr(real, method))


def _takes_as_many(ours: Any, real: Any) -> None:
    """Compare the stand-in's parameters with the signature in the docstring that pybind writes."""
    signature = re.search(r"^(?:\d+\. )?\w+\((?P<arguments>.*)\) -> ", str(real.__doc__), re.MULTILINE)
    assert signature is not None, real.__doc__
    # Each argument is "name: type[= default]"; commas inside brackets belong to a type.
    words = re.sub(r"\[[^\[\]]*\]", "", signature["arguments"]).split(", ")
    required = [word for word in words if "=" not in word]
    parameters = list(inspect.signature(ours).parameters.values())
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    assert len(needed) <= len(words) and len(required) <= len(parameters), real.__doc__


def test_a_refitter_takes_an_engine_and_a_logger(rtx: Toolkit) -> None:
    for name in ("Refitter", "OnnxParserRefitter"):
        assert re.search(
            r"__init__\(self: [^,]+, \w+: [^,]+, logger: [^,]+\) -> None", getattr(rtx.module, name).__init__.__doc__
        )


def test_the_names_of_strategies_and_diagnostics(rtx: Toolkit) -> None:
    for name in ("DynamicShapesKernelSpecializationStrategy", "EngineValidity", "EngineInvalidityDiagnostics",
                 "ComputeCapability"):  # fmt: skip
        real, ours = getattr(rtx.module, name), getattr(fake_rtx, name)
        assert set(ours.__members__) <= set(real.__members__), name
