"""The command `aps-deploy export`: which options fit what, and what it says of an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aps_deploy.cli import app
from aps_deploy.export.engines import engine_export
from aps_deploy.export.engines.engine_export import EngineArtifact
from aps_deploy.export.engines.profiles import Profile, parse_profile
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.runtimes.tensorrt import toolkit
from tests.export.engines.toys import write_toy


def _invoke(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _one_sentence(result: Result, *words: str, exit_code: int = 2) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Take the place of the export of engines; each call leaves its arguments in the list."""
    seen: list[dict[str, Any]] = []

    def export_engine(source: str, path: Path, settings: EngineSettings, **others: Any) -> EngineArtifact:
        seen.append({"source": source, "path": path, "settings": settings, **others})
        found = {"num_kernels": 12, "precision": {"precision": "fp16", "read_from": "builder log"}}
        return EngineArtifact(path, path.with_suffix(".json"), "a" * 64, {"engine": found}, True, ("mind this.",))

    monkeypatch.setattr(engine_export, "export_engine", export_engine)
    return seen


def test_every_option_reaches_the_settings(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    result = _invoke(
        *("net.safetensors", "-o", "x.plan", "--engine", "trt-rtx", "--precision", "fp16", "--polyphase", "gather"),
        *("--image-size", "64", "--profile", "1", "--profile", "8:16:32@32:64:96", "--tf32", "--workspace-mib", "99"),
        *("--optimization-level", "2", "--no-distributive-independence", "--version-compatible", "--strip-weights"),
        *("--refit", "any", "--compute-capability", "8.6", "--compute-capability", "12.0"),
        *("--engine-cache", tmp_path),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "x.plan (sha256 aaaaaaaaaaaaaaaa), described by x.json",
        "12 kernels, fp16 as read from the builder log; from the engine cache",
    ]
    assert result.stderr == "Warning: mind this.\n"
    (call,) = calls
    assert call["settings"] == EngineSettings(
        kind="trt-rtx",
        profiles=(Profile((1, 1, 1)), parse_profile("8:16:32@32:64:96")),
        tf32=True,
        version_compatible=True,
        compute_capabilities=("8.6", "12.0"),
        strip_weights=True,
        refit="any",
        workspace_mib=99,
        optimization_level=2,
        distributive_independence=False,
    )
    assert (call["precision"], call["polyphase"], call["image_size"]) == ("fp16", "gather", 64)
    assert (call["source"], call["path"], call["cache"]) == ("net.safetensors", Path("x.plan"), tmp_path)


def test_the_form_is_chosen_where_nobody_says(calls: list[dict[str, Any]]) -> None:
    assert _invoke("net.safetensors", "-o", "x.plan", "--engine", "trt-rtx").exit_code == 0
    assert "polyphase" not in calls[0]  # `export_engine` knows the best


def test_options_of_enterprise_tensorrt(calls: list[dict[str, Any]]) -> None:
    result = _invoke(
        *("net.onnx", "-o", "x.plan", "--engine", "trt", "--min-batch", "2", "--opt-batch", "4", "--max-batch", "8"),
        *("--hardware-compatibility", "ampere-plus", "--timing-cache", "times"),
    )
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert call["settings"] == EngineSettings(
        "trt", (Profile((2, 4, 8)),), hardware_compatibility="ampere-plus", timing_cache=Path("times")
    )
    # An ONNX file is compiled as it is.
    assert not {"precision", "polyphase", "image_size"} & set(call)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net.safetensors", "--max-batch", "4"), ("--engine onnx compiles nothing", "--max-batch")),
        (("net.safetensors", "--tf32"), ("--engine onnx compiles nothing", "--tf32")),
        (("net.onnx", "--engine", "trt", "--precision", "fp16"), ("computes as the file says", "--precision")),
        (("net.onnx", "--engine", "trt-rtx", "--opset", "20"), ("computes as the file says", "--opset")),
        (("net.safetensors", "--target", "tensorrt-8", "--opset", "20"), ("--target tensorrt-8 decides", "--opset")),
        (("net.safetensors", "--target", "tensorrt-8", "--dynamic-size"), ("decides how", "--dynamic-size")),
        (("net.safetensors", "--target", "tensorrt-8", "--circular-pad", "wrap"), ("decides how", "--circular-pad")),
        (("net.safetensors", "--target", "tensorrt-8", "--engine", "trt"), ("8.5 to 9", "--engine trt", "leave one")),
        (("net.onnx", "--engine", "trt-rtx", "--target", "current"), ("computes as the file says", "--target")),
        (("net.onnx", "--engine", "trt", "--compute-capability", "8.6"), ("--compute-capability does not fit",)),
        (("net.onnx", "--engine", "trt", "--profile", "1:2"), ("--profile 1:2 is no profile",)),
        (("net.onnx", "--engine", "trt", "--max-batch", "4", "--min-batch", "8"), ("8 to 4 images",)),
    ],
)
def test_options_that_do_not_fit(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    _one_sentence(_invoke(*arguments, "-o", "x.plan"), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--polyphase", "gather"), ("--polyphase gather", "GatherND", "--polyphase where")),
        (("--precision", "bf16"), ("--precision bf16", "fp32, fp16, int8")),
    ],
)
def test_what_tensorrt_8_does_not_have(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    command = ("net.safetensors", "-o", tmp_path / "x.onnx", "--target", "tensorrt-8", "--engine", "onnx")
    _one_sentence(_invoke(*command, *arguments), *words)


def test_enterprise_tensorrt_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_toy(tmp_path / "toy.onnx")
    command = (source, "-o", tmp_path / "toy.plan", "--engine", "trt")
    monkeypatch.setattr(toolkit, "_is_installed", lambda _: False)
    _one_sentence(_invoke(*command), "tensorrt is not installed", "pip install 'aps-deploy[tensorrt]'")
    monkeypatch.setattr(toolkit, "_is_installed", lambda _: True)
    monkeypatch.setattr(toolkit, "first_gpu", lambda: None)
    _one_sentence(_invoke(*command), "no CUDA device is found", "--engine trt-rtx")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_a_target_the_toolkit_does_not_have(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    source = write_toy(tmp_path / "toy.onnx")
    result = _invoke(source, "-o", tmp_path / "toy.plan", "--engine", "trt-rtx", "--compute-capability", "9.0")
    _one_sentence(result, "no compute capability '9.0'", "8.6", "12.0")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


@pytest.mark.slow
def test_a_packaged_network_becomes_an_engine(tmp_path: Path) -> None:
    """The whole road with the real compiler, at the size people use."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    output = tmp_path / "cifar.plan"
    result = _invoke("resnet20_aps3.cifar10", "-o", output, "--engine", "trt-rtx", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    document = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    # 19 convolutions, 2 of shortcuts and 4 blurs, in half precision; the classifier is not.
    assert document["layer_precisions"] == {"fp16": 25, "fp32": 1}
    assert document["engine"]["precision"]["unread_layers"] == []
    assert document["metadata"]["architecture"] == "resnet20_aps3"
    assert document["metadata"]["preprocessing"]["image_size"] == 32
    assert len(document["metadata"]["class_names"]) == 10
    assert {"torch", "onnx", "aps_deploy", "tensorrt_rtx"} <= set(document["tools"])
    assert output.stat().st_size > 500_000
