"""The real toolkit, and one engine built with it for all tests that only look at one."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.export.engines.building import BuiltEngine, build_engine
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit, load_toolkit
from tests.export.engines.toys import toy, write_toy


@pytest.fixture(scope="session")
def rtx() -> Toolkit:
    """TensorRT for RTX; its parser and builder need no GPU."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    return load_toolkit("trt-rtx")


@pytest.fixture(scope="session")
def half_engine(rtx: Toolkit) -> BuiltEngine:
    """The toy in fp16, with the settings that commands take by themselves."""
    settings = check_settings(EngineSettings("trt-rtx"), rtx)
    return build_engine(toy("fp16").SerializeToString(), settings, rtx)


@pytest.fixture
def half_file(tmp_path: Path) -> Path:
    """The toy in fp16, on disk."""
    return write_toy(tmp_path / "toy.onnx", "fp16")
