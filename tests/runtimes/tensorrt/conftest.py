"""The real toolkit and one plan made with it; a stand-in for CUDA and for enterprise TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.export.engines import EngineSettings, export_engine
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit, load_toolkit
from tests.export.engines.toys import write_toy
from tests.runtimes.tensorrt.fake_cuda import install_fake_cuda


@pytest.fixture(scope="session")
def rtx() -> Toolkit:
    """TensorRT for RTX; its parser and builder need no GPU."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    return load_toolkit("trt-rtx")


@pytest.fixture(scope="session")
def rtx_plan(rtx: Toolkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy in fp32, compiled by the real toolkit, with its document and its ONNX file beside it."""
    folder = tmp_path_factory.mktemp("plan")
    return export_engine(write_toy(folder / "toy.onnx"), folder / "toy.plan", EngineSettings("trt-rtx")).path


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch with a CUDA device, as far as sessions of engines use one."""
    install_fake_cuda(monkeypatch)
