from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.availability import RUNTIMES
from aps_deploy.verification import Certificate, Check, every_runtime
from aps_deploy.verification.every_runtime import (
    Place,
    RuntimeResult,
    exit_code_of,
    named_after,
    plan,
    remembering,
    verify_every_runtime,
    why_not,
)
from aps_deploy.verification.references.checkpoint import load_reference
from aps_deploy.verification.references.resolving import resolve_reference
from aps_deploy.verification.table import runtimes_table
from tests.verification.conftest import make_images
from tests.verification.samples import bare_certificate

CPU = Place("onnxruntime", "cpu", "net.onnx")
PASSED = Check("top1_consistency", "consistency", "passed", 100.0, 100.0, ">=", "% of pairs", "the promise")
FAILED = Check("top1_consistency", "consistency", "failed", 90.0, 100.0, ">=", "% of pairs", "the promise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(root / f"{number}.png")
    return root


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every_runtime, "num_cuda_devices", lambda: 0)


def _skipping(*labels: str) -> Any:
    return lambda info, device, file: "not here" if f"{info.name}-{device}" in labels else why_not(info, device, file)


@pytest.mark.usefixtures("no_gpu")
def test_every_runtime_is_planned_or_said_to_be_missing(exports: dict[str, Path]) -> None:
    judge = resolve_reference(exports["checkpoint"], load_reference(exports["checkpoint"]).promised)
    planned = {place.label: (place.file, reason) for place, reason in plan(str(exports["where"]), judge, None)}
    # Every runtime of the project's aims, written out: a runtime that falls out of the table must be missed here.
    assert set(planned) == {
        *("torch-cpu", "torch-cuda", "torch-compiled-cpu", "torch-compiled-cuda"),
        *("onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-kernels-cpu", "onnxruntime-tensorrt-cuda"),
        *("onnx-reference-cpu", "openvino-cpu"),
        *("tensorrt-cuda", "tensorrt-rtx-cuda"),
    }
    for label, (file, reason) in planned.items():
        assert file == str(exports["checkpoint" if label.startswith("torch") else "where"])
        runs_plans = label in ("tensorrt-cuda", "tensorrt-rtx-cuda")
        assert (reason == "the driver reports no CUDA device") == (label.endswith("cuda") and not runs_plans)
    for label, engine in (("tensorrt-cuda", "trt"), ("tensorrt-rtx-cuda", "trt-rtx")):
        assert planned[label][1] == (
            f"it runs plans, not ONNX files; compile one with `aps-deploy export FILE -o NAME.plan --engine {engine}`"
        )
    # Without a checkpoint there is nothing for PyTorch to run.
    for reference in (None, resolve_reference(exports["gather"], judge.promised)):
        assert not [place for place, _ in plan(str(exports["where"]), reference, None) if "torch" in place.label]
    alone = [place.label for place, _ in plan(str(exports["checkpoint"]), judge, "cpu")]
    assert alone == ["torch-cpu", "torch-compiled-cpu"]


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_is_tried_in_both_toolkits_and_its_checkpoint_in_pytorch(exports: dict[str, Path]) -> None:
    judge = resolve_reference(exports["checkpoint"], load_reference(exports["checkpoint"]).promised)
    planned = {place.label: place.file for place, _ in plan("net.plan", judge, None)}
    checkpoint = str(exports["checkpoint"])
    assert planned == {
        "torch-cpu": checkpoint,
        "torch-cuda": checkpoint,
        "torch-compiled-cpu": checkpoint,
        "torch-compiled-cuda": checkpoint,
        "tensorrt-cuda": "net.plan",
        "tensorrt-rtx-cuda": "net.plan",
    }
    alone = plan("net.plan", None, None)
    assert [place.label for place, _ in alone] == ["tensorrt-cuda", "tensorrt-rtx-cuda"]
    for place, reason in alone:
        # Without a toolkit, or else without a GPU.
        assert reason is not None and ("is not installed" in reason or "no CUDA device" in reason), place


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every_runtime.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    assert "C++ compiler" in str(why_not(RUNTIMES["torch-compiled"], "cpu", "net.onnx"))
    assert why_not(RUNTIMES["torch"], "cpu", "net.onnx") is None
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    assert 'pip install "aps-deploy[openvino]"' in str(why_not(RUNTIMES["openvino"], "cpu", "net.onnx"))


@pytest.mark.usefixtures("no_gpu")
def test_a_certificate_for_each(
    exports: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_runtime, "why_not", _skipping("torch-compiled-cpu"))
    monkeypatch.setattr(every_runtime, "EVALUATOR_IMAGES", 1)
    monkeypatch.setattr(every_runtime, "EVALUATOR_SHIFTS", 1)
    results = verify_every_runtime(
        exports["where"], exports["checkpoint"], folder, shifts=2, output=tmp_path / "net.certificate.json",
        report=tmp_path / "net.html", gates={"accuracy_drop": None},
    )  # fmt: skip
    by_label = {result.place.label: result for result in results}
    ran = {label for label, result in by_label.items() if result.certificate is not None}
    assert ran == {"torch-cpu", "onnxruntime-cpu", "onnx-reference-cpu"}
    assert exit_code_of(results) == 0
    assert by_label["torch-compiled-cpu"].skipped == "not here"
    assert "CUDA" in str(by_label["onnxruntime-cuda"].skipped)
    # This file pads by wrapping.
    assert "--circular-pad concat" in str(by_label["openvino-cpu"].skipped) or "not installed" in str(
        by_label["openvino-cpu"].skipped
    )
    for label in ran:
        certificate = Certificate.from_json(tmp_path / f"net.{label}.certificate.json")
        assert certificate == by_label[label].certificate
        assert f"{certificate.environment['runtime']}-{certificate.environment['device']}" == label
        assert (tmp_path / f"net.{label}.html").is_file()
        assert certificate.counts["images"] == (1 if label == "onnx-reference-cpu" else 4)
        assert certificate.counts["shifts"] == (1 if label == "onnx-reference-cpu" else 2)
    assert by_label["torch-cpu"].certificate.file["name"] == "net.safetensors"  # type: ignore[union-attr]
    runtimes_table(results)


def test_outputs_are_named_after_the_runtime() -> None:
    assert named_after(Path("a/net.certificate.json"), CPU) == Path("a/net.onnxruntime-cpu.certificate.json")
    assert named_after(Path("report.html"), CPU) == Path("report.onnxruntime-cpu.html")
    assert named_after(Path("worst"), CPU) == Path("worst.onnxruntime-cpu")


def test_one_failure_fails_all_and_skipping_everything_is_no_pass() -> None:
    passed = RuntimeResult(CPU, bare_certificate(PASSED), Path("c.json"))
    failed = RuntimeResult(CPU, bare_certificate(FAILED), Path("c.json"))
    skipped, broken = RuntimeResult(CPU, skipped="not here"), RuntimeResult(CPU, error="it broke")
    assert exit_code_of([passed, skipped]) == 0
    for results in ([passed, failed], [passed, broken], [skipped], []):
        assert exit_code_of(results) == 1
        runtimes_table(results)


@pytest.mark.usefixtures("no_gpu")
def test_what_breaks_is_told_and_the_others_still_run(
    exports: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def verify_path(file: str, reference: object, data: object, **arguments: Any) -> Certificate:
        asked.append(arguments)
        if arguments["runtime"] == "onnxruntime":
            raise ApsError("it broke")
        return bare_certificate(PASSED)

    monkeypatch.setattr(every_runtime, "verify_path", verify_path)
    results = verify_every_runtime(exports["where"], None, folder, shifts="all", num_images=100, save_to="a.npz")
    assert {result.error for result in results} == {"it broke", None}
    assert exit_code_of(results) == 1
    evaluator = next(each for each in asked if each["runtime"] == "onnx-reference")
    assert (evaluator["num_images"], evaluator["shifts"]) == (8, 16)
    # Eight images would not be the reference of the others, so nothing is saved from them.
    assert evaluator["save_to"] is None and asked[0]["save_to"] == "a.npz"


@pytest.mark.usefixtures("no_gpu")
def test_a_mistake_is_no_reason_to_skip(exports: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        verify_every_runtime(exports["where"], None, tmp_path / "none")
    with pytest.raises(InputError, match="no runtime of this machine runs"):
        verify_every_runtime(exports["where"], None, folder, device="cuda")


def test_the_reference_answers_once(exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load_reference(exports["checkpoint"])
    calls: list[int] = []
    trace = type(reference).trace

    def counted(self: Any, images: Any, forced: Any = None, **arguments: Any) -> Any:
        calls.append(len(images))
        return trace(self, images, forced, **arguments)

    monkeypatch.setattr(type(reference), "trace", counted)
    remembered, images = remembering(reference), make_images(3)
    first, second = remembered.trace(images), remembered.trace(images)
    assert first is second and calls == [3]
    remembered.trace(images[:2])
    remembered.trace(images, first.chosen)
    assert calls == [3, 2, 3]
    assert remembered.can_force and remembered.sha256 == reference.sha256
