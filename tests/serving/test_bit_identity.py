"""Through the live endpoint, under load, batched with strangers: every answer has the bits it has alone."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from aps_deploy.export import export_checkpoint
from aps_deploy.models import save_checkpoint
from tests.serving.support import CLIENTS, Running, running, tensor
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)
from tests.verification.conftest import IMAGE_SIZE, PREPROCESSING, make_images, make_network

NUM_CLIENTS = 8
NUM_REQUESTS = 40


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-20 with APS, exported."""
    folder = tmp_path_factory.mktemp("network")
    checkpoint = save_checkpoint(folder / "net.safetensors", make_network(), preprocessing=PREPROCESSING)
    return export_checkpoint(checkpoint, folder / "net.onnx", image_size=IMAGE_SIZE).path


@pytest.fixture(scope="module")
def loaded(network_file: Path) -> Iterator[Running]:
    with running(network_file) as server:
        yield server


def alone(file: Path, images: npt.NDArray[np.float32]) -> list[tuple[bytes, bytes]]:
    """Return the bits of every image's logits and indices, each computed alone, by ONNX Runtime itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    outputs = [session.run(["logits", "polyphase_indices"], {"images": image[None]}) for image in images]
    return [(logits.tobytes(), indices.tobytes()) for logits, indices in outputs]


def test_answers_do_not_depend_on_who_shares_the_batch(loaded: Running, network_file: Path) -> None:
    images = make_images(12)
    expected = alone(network_file, images)
    assert len(set(expected)) > 6  # images that are told apart
    wrong, failures = [], []

    def ask(number: int) -> None:
        generator = np.random.default_rng(number)
        transport = ("http", "grpc")[number % 2]
        try:
            with loaded.client(transport) as client:
                for _ in range(NUM_REQUESTS):
                    rows = generator.integers(0, len(images), generator.integers(1, 4)).tolist()
                    result = client.infer("net", [tensor(CLIENTS[transport], "images", images[rows], "FP32")])
                    logits, indices = result.as_numpy("logits"), result.as_numpy("polyphase_indices")
                    found = [(a.tobytes(), b.tobytes()) for a, b in zip(logits, indices, strict=True)]
                    wrong.extend(row for row, bits in zip(rows, found, strict=True) if bits != expected[row])
        except Exception as error:  # shown by the assertion below, in the test's own thread
            failures.append(error)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(120)
    assert failures == [] and wrong == []
    statistics = model_statistics(loaded)
    assert statistics["inference_stats"]["success"]["count"] == NUM_CLIENTS * NUM_REQUESTS
    # They did share: no request has more than 3 images.
    assert max(entry["batch_size"] for entry in statistics["batch_stats"]) > 3
    assert statistics["execution_count"] < NUM_CLIENTS * NUM_REQUESTS


def test_the_canary_sees_the_same_bits_while_strangers_share_its_batches(network_file: Path) -> None:
    images, failures, done = make_images(3), list[Exception](), threading.Event()

    def ask(server: Running) -> None:
        try:
            with server.client("http") as client:
                while not done.is_set():
                    client.infer("net", [tensor(CLIENTS["http"], "images", images, "FP32")])
        except Exception as error:  # shown by the assertion below, in the test's own thread
            failures.append(error)

    with running(network_file, canary_s=0.001, canary_unready=True) as server:
        clients = [threading.Thread(target=ask, args=(server,)) for _ in range(2)]
        for client in clients:
            client.start()
        page, deadline = "", time.monotonic() + 60
        while not re.search(r"aps_canary_runs_total\{.*\} ([5-9]|\d\d)", page) and time.monotonic() < deadline:
            time.sleep(0.005)
            page = server.request("GET", "/metrics")[2].decode()
        done.set()
        for client in clients:
            client.join(60)
        statistics = model_statistics(server)
    labels = '{model="net",version="1"}'
    for line in ("aps_shift_consistency", "aps_shift_bit_identity", "aps_canary_held"):
        assert f"{line}{labels} 1" in page
    assert f"aps_canary_failures_total{labels} 0" in page and failures == []
    # Three images of a request and copies of the canary, or more of both.
    assert {size for entry in statistics["batch_stats"] if (size := entry["batch_size"]) % 3}
    assert max(entry["batch_size"] for entry in statistics["batch_stats"]) > 3


def test_shifted_images_get_the_same_bits(loaded: Running) -> None:
    (image,) = make_images(1, seed=1)
    shifted = np.stack([np.roll(image, (dy, dx), axis=(1, 2)) for dy in range(4) for dx in range(4)])
    with loaded.client("http") as client:
        logits = client.infer("net", [tensor(CLIENTS["http"], "images", shifted, "FP32")]).as_numpy("logits")
    assert len({row.tobytes() for row in logits}) == 1


def model_statistics(server: Running) -> dict[str, Any]:
    (statistics,) = server.json("GET", "/v2/models/net/stats")[1]["model_stats"]
    return dict(statistics)
