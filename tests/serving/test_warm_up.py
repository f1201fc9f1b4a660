"""Which models run on the event loop itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.serving.engine import TensorSpec
from aps_deploy.serving.signature import signature_of
from aps_deploy.serving.warm_up import is_instant


class Echo:
    """An engine that takes as long as it is told to."""

    source, platform, backend = "echo", "", ""
    providers = ("CPUExecutionProvider",)
    metadata = ModelMetadata()

    def __init__(self, shape: tuple[int, ...], seconds: float, *, is_on_gpu: bool = False) -> None:
        self.inputs = self.outputs = (TensorSpec("x", "FP32", shape),)
        self.is_on_gpu = is_on_gpu
        self.rows: list[int] = []
        self._seconds = seconds

    def run(self, tensors: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        self.rows.append(len(tensors["x"]))
        time.sleep(self._seconds)
        return [np.asarray(tensors["x"])]

    def check_image_size(self, spec: TensorSpec, shape: tuple[int, ...]) -> None: ...


@pytest.mark.parametrize(
    ("shape", "seconds", "is_on_gpu", "expected"),
    [
        ((-1, 4), 0.0, False, True),
        ((-1, 4), 0.005, False, False),
        ((-1, -1), 0.0, False, False),  # a client could make it slow
        ((-1, 4), 0.0, True, False),
    ],
)
def test_a_run_on_the_loop_is_short_whatever_clients_send(
    shape: tuple[int, ...], seconds: float, is_on_gpu: bool, expected: bool
) -> None:
    engine = Echo(shape, seconds, is_on_gpu=is_on_gpu)
    assert is_instant(engine, signature_of(engine, "echo", 8)) is expected
    assert set(engine.rows) <= {8}  # the largest batch there is
