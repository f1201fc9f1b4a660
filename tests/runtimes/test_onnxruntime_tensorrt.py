"""ONNX Runtime's TensorRT provider: it starts or is said not to, and nothing takes its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes import onnxruntime_session as module
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.availability import num_cuda_devices
from aps_deploy.runtimes.onnxruntime_session import why_no_tensorrt
from tests.export.engines.toys import write_toy
from tests.gpus import needs_cuda

PROVIDER = "TensorrtExecutionProvider"
_CREATE = onnxruntime.InferenceSession


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy.onnx")


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "num_cuda_devices", lambda: 1)


def _pretended(monkeypatch: pytest.MonkeyPatch, used: list[str], asked: list[Any]) -> None:
    """Let sessions run on the CPU and report other providers; keep what they were asked for."""

    def pretended(content: Any, options: Any, *, providers: list[Any], **others: Any) -> Any:
        asked.append(providers)
        session = _CREATE(content, options, providers=["CPUExecutionProvider"], **others)
        if PROVIDER in providers:
            monkeypatch.setattr(session, "get_providers", lambda: used)
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", pretended)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])


@pytest.mark.parametrize("runtime", ["onnxruntime-tensorrt", "ort-tensorrt"])
def test_without_a_gpu_it_does_not_start(toy_file: Path, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "num_cuda_devices", lambda: 0)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER])
    with pytest.raises(InputError, match=rf"{PROVIDER} was asked for and does not start here \(the driver reports no"):
        open_session(toy_file, runtime=runtime)


@pytest.mark.usefixtures("a_gpu")
def test_a_build_without_it_is_named(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert why_no_tensorrt() == "this build of ONNX Runtime has no TensorRT support"
    with pytest.raises(InputError, match="has no TensorRT support"):
        open_session(toy_file, runtime="onnxruntime-tensorrt")


@pytest.mark.usefixtures("a_gpu")
def test_libraries_that_do_not_load_are_no_reason_to_run_elsewhere(toy_file: Path) -> None:
    # The real ONNX Runtime, which finds no TensorRT 10 here, or no GPU.
    if PROVIDER not in onnxruntime.get_available_providers() or num_cuda_devices() > 0:
        pytest.skip("this build of ONNX Runtime has no TensorRT provider, or there is a GPU on which it may start")
    with pytest.raises(
        InputError, match=r"TensorRT 10.* (do not load|missing or too old)\); use --runtime onnxruntime"
    ):
        open_session(toy_file, runtime="onnxruntime-tensorrt")


@pytest.mark.usefixtures("a_gpu")
def test_what_the_session_reports_decides(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    _pretended(monkeypatch, ["CUDAExecutionProvider", "CPUExecutionProvider"], asked)
    with pytest.raises(InputError, match="its TensorRT 10, CUDA or cuDNN libraries are missing or too old"):
        open_session(toy_file, runtime="onnxruntime-tensorrt")
    used = [PROVIDER, "CUDAExecutionProvider", "CPUExecutionProvider"]
    _pretended(monkeypatch, used, asked)
    with open_session(toy_file, runtime="onnxruntime-tensorrt") as session:
        assert (session.runtime, session.device) == ("onnxruntime-tensorrt", "cuda")
        assert session.providers == tuple(used)
        assert session.run(np.zeros((2, 3, 8, 8), np.float32))["logits"].shape == (2, 3)
    names = [each if isinstance(each, str) else each[0] for each in asked[-1]]
    assert names == used


@pytest.mark.usefixtures("a_gpu")
def test_a_damaged_file_is_the_files_fault(tmp_path: Path) -> None:
    broken = tmp_path / "net.onnx"
    broken.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is not an ONNX file that ONNX Runtime can load"):
        open_session(broken, runtime="onnxruntime-tensorrt")


def test_it_runs_on_cuda_only(toy_file: Path) -> None:
    with pytest.raises(InputError, match="cannot run on 'cpu'; accepted: cuda"):
        open_session(toy_file, runtime="onnxruntime-tensorrt", device="cpu")


@pytest.mark.gpu
@needs_cuda
def test_it_answers_as_the_cpu_does(toy_file: Path) -> None:
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    try:
        session = open_session(toy_file, runtime="onnxruntime-tensorrt")
    except InputError as error:
        pytest.skip(str(error))
    with session, open_session(toy_file, runtime="onnxruntime", device="cpu") as peer:
        assert session.providers[0] == PROVIDER
        outputs, expected = session.run(images), peer.run(images)
    np.testing.assert_array_equal(outputs["polyphase_indices"], expected["polyphase_indices"])
    # Its TensorRT may use TF32 for float32 products.
    np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-2, rtol=1e-2)
