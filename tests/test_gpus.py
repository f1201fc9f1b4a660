"""Where tests marked `gpu` are skipped: on a GPU that a toolkit does not name, as without any."""

from __future__ import annotations

import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes.tensorrt import toolkit as toolkits
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from tests.gpus import skip_unless_engines_run, toolkit_here
from tests.runtimes.tensorrt.fake_engine import fake_toolkit
from tests.runtimes.tensorrt.fake_rtx import fake_rtx


def test_a_gpu_that_tensorrt_for_rtx_does_not_name_is_a_reason_to_skip() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"TensorRT for RTX runs on 8\.6, 12\.0, and the GPU is .*H100"):
        skip_unless_engines_run(fake_rtx(Gpu("an H100", "9.0", "13.0")))
    with pytest.raises(pytest.skip.Exception, match="and the GPU is None"):
        skip_unless_engines_run(fake_rtx(None))
    skip_unless_engines_run(fake_rtx(Gpu("an RTX GPU", "12.0", "13.0")))
    skip_unless_engines_run(fake_toolkit(Gpu("an H100", "9.0", "13.0")))  # TensorRT names none


def test_a_toolkit_that_is_not_there_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: toolkits.EngineKind) -> toolkits.Toolkit:
        raise InputError("it is not installed")

    monkeypatch.setattr(toolkits, "load_toolkit", missing)
    with pytest.raises(pytest.skip.Exception, match="it is not installed"):
        toolkit_here("trt")
    monkeypatch.setattr(toolkits, "load_toolkit", lambda kind: fake_rtx())
    assert toolkit_here("trt-rtx").is_rtx
