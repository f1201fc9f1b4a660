"""The server on a GPU: the same client, ONNX Runtime's CUDA provider and an engine of TensorRT for RTX."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from aps_deploy.export import export_checkpoint
from aps_deploy.export.engines import EngineSettings, export_engine
from aps_deploy.images import load_folder
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import CIFAR10
from tests.gpus import needs_cuda, needs_torch_cuda, toolkit_here
from tests.runtimes.providers import needs_cuda_provider
from tests.serving.support import CLIENTS, running, tensor

pytestmark = [pytest.mark.gpu, needs_cuda]

NUM_IMAGES = 8


@pytest.mark.parametrize(
    "kind", [pytest.param("onnx", marks=needs_cuda_provider), pytest.param("plan", marks=needs_torch_cuda)]
)
@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_answers_are_those_of_the_cpu_whoever_shares_the_batch(tmp_path: Path, kind: str, transport: str) -> None:
    if kind == "plan":
        toolkit_here("trt-rtx")
    file = tmp_path / "net.onnx"
    export_checkpoint("resnet20_aps3.cifar10", file)
    images = load_folder(packaged_images()["cifar10"], CIFAR10, limit=NUM_IMAGES).images
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    wanted = session.run(["logits"], {"images": images})[0]
    if kind == "plan":
        folder = tmp_path / "engine"  # away from the ONNX file, whose document has the same name
        folder.mkdir()
        file = export_engine(file, folder / "net.plan", EngineSettings("trt-rtx")).path
    found: dict[int, list[bytes]] = {row: [] for row in range(NUM_IMAGES)}
    with running(file, device="cuda") as server:
        assert server.json("GET", "/v2/models/net/config")[1]["instance_group"][0]["kind"] == "KIND_GPU"

        def ask(row: int) -> None:
            with server.client(transport) as client:
                for _ in range(20):
                    inputs = [tensor(CLIENTS[transport], "images", images[row : row + 1], "FP32")]
                    found[row].append(client.infer("net", inputs).as_numpy("logits").tobytes())

        clients = [threading.Thread(target=ask, args=(row,)) for row in range(NUM_IMAGES)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
    for row, answers in found.items():
        assert len(answers) == 20 and len(set(answers)) == 1
        np.testing.assert_allclose(np.frombuffer(answers[0], np.float32), wanted[row], atol=1e-2, rtol=1e-3)
