"""The engine of the demonstration: compiled by the real toolkit, run where something runs it, and never missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.demo import engine as module
from aps_deploy.demo.engine import compile_engine
from aps_deploy.demo.running import APS, ExportedFile
from aps_deploy.export import export_checkpoint
from aps_deploy.export.engines import EngineArtifact, EngineSettings
from aps_deploy.models import packaged_models
from aps_deploy.runtimes import check_sidecar, tensorrt_session
from aps_deploy.runtimes.tensorrt import toolkit as toolkits
from tests.export.engines.toys import toy, write_toy
from tests.runtimes.tensorrt.fake_cuda import install_fake_cuda
from tests.runtimes.tensorrt.fake_rtx import fake_rtx, write_rtx_plan


def test_the_trained_network_becomes_a_plan_where_tensorrt_for_rtx_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    source = export_checkpoint(
        packaged_models()[f"{APS}.cifar10"], tmp_path / f"{APS}.one-pass.onnx", polyphase="one-pass"
    ).path
    said: list[str] = []
    monkeypatch.setattr(toolkits, "first_gpu", lambda: None)
    found = compile_engine(source, tmp_path / f"{APS}.plan", said.append)
    assert found is not None and found.runtime is None
    document = check_sidecar(found.path)
    assert document is not None and document["metadata"]["architecture"] == APS
    # 19 convolutions, 2 of shortcuts, 4 blurs and the classifier.
    assert document["layer_precisions"] == {"fp32": 26}
    assert [words.partition(":")[0] for words in said] == [
        f"compiling {source.name} into an engine of TensorRT for RTX",
        f"{APS}.plan",
        "the engine is not run here",
    ]
    assert "kernels, fp32 as read from the" in said[1] and "no CUDA device is found" in said[2]


def test_without_a_toolkit_the_demonstration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkits, "_is_installed", lambda _: False)
    said: list[str] = []
    assert compile_engine(write_toy(tmp_path / "toy.onnx"), tmp_path / "toy.plan", said.append) is None
    (sentence,) = said
    assert sentence.startswith("no engine is compiled: --engine trt-rtx needs TensorRT for RTX")
    assert not (tmp_path / "toy.plan").exists()


def test_where_it_runs_it_is_measured_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"precision": "fp32", "read_from": "engine inspector"}

    def export(source: Path, target: Path, settings: EngineSettings) -> EngineArtifact:
        assert settings.kind == "trt-rtx"
        write_rtx_plan(target, toy())
        document = {"engine": {"num_kernels": 3, "precision": read}}
        return EngineArtifact(target, target.with_suffix(".json"), "a" * 64, document, False)

    install_fake_cuda(monkeypatch)
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda kind, **_: fake_rtx())
    monkeypatch.setattr(toolkits, "_is_installed", lambda _: True)
    monkeypatch.setattr(module, "export_engine", export)
    said: list[str] = []
    found = compile_engine(tmp_path / "toy.onnx", tmp_path / "toy.plan", said.append)
    assert found is not None and found.runtime == "tensorrt-rtx" and len(said) == 2
    assert ExportedFile(APS, "plan", found.path, found.runtime).runtimes() == ["tensorrt-rtx"]
    assert ExportedFile(APS, "plan", found.path).runtimes() == []
