"""Building with the real toolkit: what comes out, and what its refusals say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.engines.build_progress import Phases
from aps_deploy.export.engines.building import BUILDER_LOG, INSPECTOR, BuiltEngine, build_engine, failure_sentence
from aps_deploy.export.engines.precision_readback import check_precisions, read_precisions
from aps_deploy.export.engines.profiles import Profile, parse_profile
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.export.forms import PolyphaseForm, inlined
from aps_deploy.runtimes.tensorrt.log import ToolkitLog, new_logger
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines.fake_tensorrt import STAMP, fake_toolkit
from tests.export.engines.toys import Precision, dynamic_toy, toy

RTX = EngineSettings("trt-rtx")


def _build(model: onnx.ModelProto, toolkit: Toolkit, **changes: Any) -> BuiltEngine:
    settings = check_settings(dataclasses.replace(RTX, **changes), toolkit)
    return build_engine(model.SerializeToString(), settings, toolkit, name="toy.onnx", size_divisor=2)


def test_a_plan_and_what_is_known_of_it(half_engine: BuiltEngine) -> None:
    assert len(half_engine.plan) > 10_000
    assert half_engine.source == BUILDER_LOG
    assert half_engine.input_shapes == (((1, 3, 8, 8), (8, 3, 8, 8), (16, 3, 8, 8)),)
    assert half_engine.settings.distributive_independence is True
    assert half_engine.log.errors == []


@pytest.mark.parametrize(
    ("precision", "form"),
    [
        ("fp32", "custom-op"),
        ("fp16", "plugin"),
        pytest.param("fp32", "where", marks=pytest.mark.slow),
        pytest.param("fp32", "gather", marks=pytest.mark.slow),
        pytest.param("fp16", "gather", marks=pytest.mark.slow),
        pytest.param("fp16", "custom-op", marks=pytest.mark.slow),
        pytest.param("bf16", "where", marks=pytest.mark.slow),
        pytest.param("bf16", "custom-op", marks=pytest.mark.slow),
        pytest.param("int8", "where", marks=pytest.mark.slow),
        pytest.param("int8", "custom-op", marks=pytest.mark.slow),
        pytest.param("fp32", "plugin", marks=pytest.mark.slow),
        pytest.param("bf16", "plugin", marks=pytest.mark.slow),
        pytest.param("int8", "plugin", marks=pytest.mark.slow),
    ],
)
def test_every_form_and_precision_builds_and_is_read_back(
    rtx: Toolkit, precision: Precision, form: PolyphaseForm
) -> None:
    model = toy(precision, form)
    built = _build(model, rtx, profiles=(Profile((2, 2, 2)),))
    read = read_precisions(inlined(model), built.kernels, built.source)
    check_precisions(read)
    assert read.precision == precision and read.unread == ()


def test_an_open_height_and_width_take_their_range_from_the_profile(rtx: Toolkit) -> None:
    model = dynamic_toy("fp16")
    built = _build(model, rtx, profiles=(parse_profile("1:2:4@8:12x16:32"),))
    assert built.input_shapes == (((1, 3, 8, 8), (2, 3, 12, 16), (4, 3, 32, 32)),)
    read = read_precisions(model, built.kernels, built.source)
    check_precisions(read)
    assert read.precision == "fp16" and read.unread == ()
    for text, words in (("1:2:4", "gives no range"), ("1@9", "multiples of 2; use 8 or 10")):
        with pytest.raises(InputError, match=words):
            _build(model, rtx, profiles=(parse_profile(text),))


def test_progress_is_told_while_it_builds_with_several_options_at_once(rtx: Toolkit) -> None:
    """Profiles, targets, version compatibility, no independence: the builder takes them together."""
    seen: list[tuple[str, int, int]] = []
    changes: dict[str, Any] = {
        "profiles": (Profile((1, 1, 1)), Profile((4, 8, 8))),
        "compute_capabilities": ("8.6",),
        "version_compatible": True,
        "distributive_independence": False,
        "optimization_level": 0,
    }
    settings = check_settings(dataclasses.replace(RTX, **changes), rtx)
    model = toy("fp16")
    built = build_engine(
        model.SerializeToString(), settings, rtx, report=lambda *words: seen.append(words), size_divisor=2
    )
    assert built.input_shapes[1] == ((4, 3, 8, 8), (8, 3, 8, 8), (8, 3, 8, 8))
    assert read_precisions(model, built.kernels, built.source).unread == ()
    phases = {what for what, _, _ in seen}
    assert "Building engine" in phases and len(phases) > 3
    assert all(0 <= done <= total for _, done, total in seen)


def test_steps_never_go_back_and_only_the_end_ends_a_phase() -> None:
    seen: list[tuple[str, int, int]] = []
    phases = Phases(lambda *words: seen.append(words))
    phases.start("build", 3)
    for index in (0, 2, 1):  # from several threads
        phases.step("build", index)
    phases.step("another", 5)
    phases.finish("build")
    phases.finish("build")
    assert seen == [("build", 0, 3), ("build", 1, 3), ("build", 2, 3), ("build", 2, 3), ("build", 3, 3)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workspace_mib": 1}, "a layer needs more scratch memory than allowed; raise --workspace-mib"),
        (
            {"compute_capabilities": ("7.5",)},
            r"float32 matrix product, which it does not have for compute capability 7\.5 \(Turing\); leave 7\.5 out",
        ),
        pytest.param({"refit": "any"}, "leave --refit and --strip-weights out", marks=pytest.mark.slow),
        pytest.param({"strip_weights": True}, "leave --refit and --strip-weights out", marks=pytest.mark.slow),
    ],
)
def test_why_the_real_builder_failed(rtx: Toolkit, changes: dict[str, Any], words: str) -> None:
    if rtx.gpu is not None:
        pytest.skip("with a GPU the builder can do some of these")
    with pytest.raises(ApsError, match=words) as raised:
        _build(toy("fp32"), rtx, **changes)
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)


def _unknown_operator() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Sharpen", ["images"], ["logits"], name="a/Sharpen", domain="mine")],
        "unknown",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, 8, 8])],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _without_bodies() -> onnx.ModelProto:
    model = toy("fp32", "custom-op")
    del model.functions[:]
    return model


def _of_vectors() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["vector"], ["logits"])],
        "vectors",
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _of_one_image() -> onnx.ModelProto:
    model = toy()
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_unknown_operator, "holds the operator Sharpen, unknown to TensorRT for RTX"),
        (_without_bodies, "holds the operator PolyphaseSelect_L2, unknown to TensorRT for RTX"),
        (_of_vectors, r"does not take one tensor of images \(N, C, H, W\); its inputs: vector"),
        (_of_one_image, "takes batches of 1 only"),
    ],
)
def test_files_that_cannot_be_compiled(rtx: Toolkit, model: Callable[[], onnx.ModelProto], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        _build(model(), rtx)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_onnx_file(rtx: Toolkit) -> None:
    with pytest.raises(InputError, match="cannot parse the ONNX file"):
        build_engine(b"no ONNX at all", check_settings(RTX, rtx), rtx)


def test_a_failure_without_a_known_sign_shows_the_builders_last_words(rtx: Toolkit) -> None:
    log = ToolkitLog([("ERROR", "first"), ("ERROR", "Error Code 9: something new.\nmore"), ("INFO", "later")])
    assert "(Error Code 9: something new); run the command again with -vv" in failure_sentence(rtx, log)
    assert "it gave no reason" in failure_sentence(rtx, ToolkitLog())
    no_driver = ToolkitLog(
        [("ERROR", "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")]
    )
    assert "found no GPU it can use" in failure_sentence(rtx, no_driver)


def test_the_log_keeps_everything_and_passes_on_what_people_may_want(
    rtx: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    log = ToolkitLog()
    logger = new_logger(rtx, log)
    severity = rtx.module.ILogger.Severity
    with caplog.at_level("INFO", logger="aps_deploy"):
        logger.log(severity.WARNING, "a warning")
        logger.log(severity.VERBOSE, "much detail")
    assert log.messages == [("WARNING", "a warning"), ("VERBOSE", "much detail")]
    assert log.warnings == ["a warning"]
    assert caplog.messages == ["a warning"]


def test_enterprise_tensorrt_is_asked_for_what_only_it_has(tmp_path: Path) -> None:
    toolkit, times = fake_toolkit(), tmp_path / "times.cache"
    settings = EngineSettings("trt", hardware_compatibility="ampere-plus", version_compatible=True, timing_cache=times)
    seen: list[tuple[str, int, int]] = []
    built = build_engine(
        toy().SerializeToString(), check_settings(settings, toolkit), toolkit, report=lambda *w: seen.append(w)
    )
    plan = json.loads(built.plan)
    assert plan["flags"] == ["DISTRIBUTIVE_INDEPENDENCE", "VERSION_COMPATIBLE"]
    assert plan["strongly_typed"] and plan["hardware"] == "AMPERE_PLUS" and plan["times"] == ""
    assert built.source == "engine inspector"
    assert read_precisions(toy(), built.kernels, built.source).precision == "fp32"
    assert seen == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]
    assert times.read_bytes() == STAMP + b"new"


@pytest.mark.parametrize("compatible", [False, True])
def test_only_a_version_compatible_plan_may_bring_code_when_its_kernels_are_read(compatible: bool) -> None:
    toolkit = fake_toolkit()
    settings = check_settings(EngineSettings("trt", version_compatible=compatible), toolkit)
    built = build_engine(toy().SerializeToString(), settings, toolkit)
    assert built.source == INSPECTOR and built.kernels
    assert built.log.errors == []


def test_times_of_another_gpu_are_replaced_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toolkit, times = fake_toolkit(), tmp_path / "times.cache"
    for content, used in ((b"another GPU", ""), (STAMP + b"old", STAMP.decode() + "old")):
        times.write_bytes(content)
        settings = check_settings(EngineSettings("trt", timing_cache=times), toolkit)
        plan = build_engine(toy().SerializeToString(), settings, toolkit).plan
        assert json.loads(plan)["times"] == used
        assert times.read_bytes() == STAMP + b"new"
    assert [message for message in caplog.messages if "was not used" in message] == [
        f"{times} is of another GPU or version and was not used; it is replaced."
    ]


def test_options_this_version_of_tensorrt_lacks(tmp_path: Path) -> None:
    toolkit = fake_toolkit()
    content = toy().SerializeToString()
    same = EngineSettings("trt", hardware_compatibility="same-compute-capability")
    with pytest.raises(InputError, match="no --hardware-compatibility same-compute-capability; choose ampere-plus"):
        build_engine(content, check_settings(same, toolkit), toolkit)
    lost = EngineSettings("trt", timing_cache=tmp_path / "no" / "times")
    with pytest.raises(InputError, match="cannot be written"):
        build_engine(content, check_settings(lost, toolkit), toolkit)
