"""The file for TensorRT 8 through a real parser and compiler of TensorRT, though of a newer one than it is made for."""

from __future__ import annotations

from typing import Literal

import pytest

from aps_deploy.export.engines.building import build_engine
from aps_deploy.export.engines.precision_readback import check_precisions, read_precisions
from aps_deploy.export.engines.profiles import Profile
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines.toys import legacy_toy


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow), pytest.param("int8", marks=pytest.mark.slow)]
)
def test_it_builds_with_an_open_batch_and_is_read_back(
    precision: Literal["fp32", "fp16", "int8"], rtx: Toolkit
) -> None:
    model = legacy_toy(precision)
    settings = check_settings(EngineSettings("trt-rtx", (Profile((1, 2, 4)),)), rtx)
    built = build_engine(model.SerializeToString(), settings, rtx, name="toy.onnx", size_divisor=2)
    assert built.log.errors == []
    assert built.input_shapes == (((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)),)
    read = read_precisions(model, built.kernels, built.source)
    check_precisions(read)
    assert read.precision == precision and read.unread == ()
