"""The server with the CPU kernels: the bits of the session that `verify` proves, and nothing else in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.export import export_checkpoint
from aps_deploy.plugins.cpu import library
from aps_deploy.runtimes import open_session
from aps_deploy.serving.engine import open_engine
from tests.runtimes import graphs
from tests.serving.support import CLIENTS, running, tensor

KERNELS: Any = {"runtime": "onnxruntime-kernels"}
needs_kernels = pytest.mark.skipif(not library.is_used(), reason=f"the CPU kernels: {library.why_unavailable()}")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels") / "net.onnx"
    return export_checkpoint("resnet20_aps3.cifar10", path, polyphase="custom-op").path


@needs_kernels
def test_the_server_gives_the_bits_of_the_session(file: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    with open_session(file, num_threads=1, **KERNELS) as session:
        wanted = session.run(images)
    with running(file, **KERNELS) as server, server.client("http") as client:
        for moved in (images, np.roll(images, (3, 5), (2, 3))):
            answer = client.infer("net", [tensor(CLIENTS["http"], "images", moved, "FP32")])
            assert answer.as_numpy("logits").tobytes() == wanted["logits"].tobytes()
    assert open_engine(file, num_threads=1, **KERNELS).providers == session.providers
    assert library.KERNELS not in open_engine(file, num_threads=1).providers


@needs_kernels
def test_a_file_without_work_for_them_and_a_gpu_are_refused(file: Path, tmp_path: Path) -> None:
    other = graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match=r"the file holds where in fp32; .* or use --runtime onnxruntime\.$"):
        open_engine(other, **KERNELS)
    with pytest.raises(InputError, match=r"cannot run on .cuda.; accepted: cpu"):
        open_engine(file, device="cuda", **KERNELS)


def test_kernels_that_are_not_there_are_said_to_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", lambda: (None, "this machine has none"))
    with pytest.raises(InputError, match="the CPU kernels were asked for, and this machine has none"):
        open_engine(file, **KERNELS)
