"""The route for pictures gives what `predict` gives for the same file."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aps_deploy.predict import predict
from aps_deploy.serving import http_app
from aps_deploy.serving.classify import image_tensors
from tests.runtimes import graphs
from tests.serving.support import Running, running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (11, 9, 3), dtype=np.uint8)
    paths = [folder / "x.png", folder / "x.jpg", folder / "grey.png"]
    Image.fromarray(pixels).save(paths[0])
    Image.fromarray(pixels).save(paths[1])
    Image.fromarray(pixels[:, :, 0]).save(paths[2])
    return paths


def test_as_predict_does(server: Running, repository: Path, pictures: list[Path]) -> None:
    for model in ("tiny", "half"):
        report = predict(repository / model / "1" / "model.onnx", pictures, top_k=3, device="cpu")
        for path, expected in zip(pictures, report.predictions, strict=True):
            status, _, body = server.request("POST", f"/v1/models/{model}/classify?top_k=3", path.read_bytes())
            assert status == 200
            answer = json.loads(body)
            assert (answer["model_name"], answer["model_version"]) == (model, "1")
            assert answer["scores"] == [
                {"index": score.index, "name": score.name, "probability": score.probability, "logit": score.logit}
                for score in expected.scores
            ]
            assert answer["polyphase_indices"] == list(expected.polyphase_indices or ())


@pytest.fixture(scope="module")
def alone(repository: Path) -> Iterator[Running]:
    with running(repository / "tiny" / "1" / "model.onnx", max_image_megapixels=0.001) as server:
        yield server


def test_the_only_model_needs_no_name(alone: Running, pictures: list[Path]) -> None:
    status, _, body = alone.request("POST", "/v1/classify", pictures[0].read_bytes())
    assert status == 200 and len(json.loads(body)["scores"]) == len(graphs.CLASS_NAMES)


def test_several_models_need_one(server: Running, pictures: list[Path]) -> None:
    status, _, body = server.request("POST", "/v1/classify", pictures[0].read_bytes())
    assert status == 400 and "fixed, grown, half, tiny" in json.loads(body)["error"]


def encoded(kind: str, width: int, height: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def bomb() -> bytes:
    """Return a PNG of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cannot be read"),
        (b"no picture", "cannot be read"),
        (encoded("PNG", 20, 20)[:500], "cannot be read"),
        (encoded("GIF", 8, 8), "JPEG or PNG"),
        (encoded("PNG", 40, 40), "has 40x40 pixels; at most 1000 are decoded"),
        (bomb(), "pixels"),
    ],
    ids=["nothing", "text", "truncated", "GIF", "large", "bomb"],
)
def test_what_is_no_picture(alone: Running, body: bytes, words: str) -> None:
    status, _, answer = alone.request("POST", "/v1/classify", body)
    assert status == 415 and words in json.loads(answer)["error"]


def test_no_more_pictures_are_decoded_at_once_than_there_are_cores(
    repository: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, both_began = threading.Lock(), threading.Event()
    counts = {"now": 0, "most": 0}

    def decode(*arguments: Any) -> Any:
        with lock:
            counts["now"] += 1
            counts["most"] = max(counts["most"], counts["now"])
            if counts["now"] == 2:
                both_began.set()
        assert both_began.wait(30)
        time.sleep(0.02)  # a third one would come now
        tensors = image_tensors(*arguments)
        with lock:
            counts["now"] -= 1
        return tensors

    monkeypatch.setattr(http_app, "image_tensors", decode)
    monkeypatch.setattr(http_app.os, "cpu_count", lambda: 2)
    with running(repository / "tiny" / "1" / "model.onnx") as server:
        picture = pictures[0].read_bytes()
        with ThreadPoolExecutor(6) as clients:
            statuses = list(clients.map(lambda _: server.request("POST", "/v1/classify", picture)[0], range(6)))
    assert statuses == [200] * 6 and counts["most"] == 2


def test_models_that_take_no_pictures(server: Running, pictures: list[Path]) -> None:
    status, _, answer = server.request("POST", "/v1/models/grown/classify", pictures[0].read_bytes())
    assert status == 400 and "takes no images" in json.loads(answer)["error"]
    for top_k in ("0", "x", "9" * 5000):
        status, _, answer = server.request("POST", f"/v1/models/tiny/classify?top_k={top_k}", pictures[0].read_bytes())
        assert status == 400 and "must be a positive number" in json.loads(answer)["error"]
