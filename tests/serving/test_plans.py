"""Engines behind the server: the session's logic against a stand-in for TensorRT and CUDA, refusals against none."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes import tensorrt_session
from aps_deploy.runtimes.availability import num_cuda_devices
from aps_deploy.serving.plan_engine import PlanEngine
from tests.export.engines.toys import CLASSES, toy, write_toy
from tests.runtimes.tensorrt.fake_cuda import install_fake_cuda
from tests.runtimes.tensorrt.fake_engine import PROFILES, FakeContext, fake_toolkit, write_plan
from tests.runtimes.tensorrt.fake_rtx import fake_rtx, write_stripped_plan
from tests.serving.support import CLIENTS, Running, running, tensor

SIZES = range(1, 10)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plan(tmp_path_factory.mktemp("plan") / "toy.plan", toy())


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and TensorRT, as far as the session asks."""
    install_fake_cuda(monkeypatch)
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda *arguments, **named: fake_toolkit())


@pytest.fixture
def repository(plan: Path, tmp_path: Path) -> Path:
    """The plan in Triton's layout, once with a configuration and once without."""
    for name in ("bare", "configured"):
        version = tmp_path / "models" / name / "1"
        version.mkdir(parents=True)
        write_plan(version / "model.plan", toy())
    (tmp_path / "models" / "configured" / "config.pbtxt").write_text(
        'platform: "tensorrt_plan" max_batch_size: 8 dynamic_batching {} instance_group [{ kind: KIND_GPU count: 2 }]'
    )
    return tmp_path / "models"


@pytest.fixture
def server(repository: Path, tensorrt: None) -> Iterator[Running]:
    with running(repository) as server:
        yield server


def images(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def expected(values: np.ndarray[Any, np.dtype[np.float32]]) -> list[np.ndarray[Any, np.dtype[Any]]]:
    peer = onnxruntime.InferenceSession(toy().SerializeToString(), providers=["CPUExecutionProvider"])
    return list(peer.run(["logits", "polyphase_indices"], {"images": values}))


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("model", ["bare", "configured"])
def test_what_it_says_of_itself(server: Running, transport: str, model: str) -> None:
    arguments = {"as_json": True} if transport == "grpc" else {}
    with server.client(transport) as client:
        metadata = client.get_model_metadata(model, **arguments)
        config = client.get_model_config(model, **arguments)
    config = config.get("config", config)
    assert metadata["platform"] == config["platform"] == "tensorrt_plan" and config["backend"] == "tensorrt"
    assert config["default_model_filename"] == "model.plan"
    assert config["instance_group"][0]["kind"] == "KIND_GPU"
    shapes = [(entry["name"], entry["datatype"], list(map(int, entry["shape"]))) for entry in metadata["outputs"]]
    assert shapes == [("logits", "FP32", [-1, len(CLASSES)]), ("polyphase_indices", "INT64", [-1, 1])]
    assert list(map(int, metadata["inputs"][0]["shape"])) == [-1, 3, 8, 8]


def test_batches_of_any_size_are_filled_up_or_cut_to_the_profiles(server: Running) -> None:
    runs = list[int]()
    compute = FakeContext.compute

    def noted(context: FakeContext) -> None:
        assert context.shape is not None
        runs.append(context.shape[0])
        compute(context)

    with pytest.MonkeyPatch.context() as patch, server.client("http") as client:
        patch.setattr(FakeContext, "compute", noted)
        for count in SIZES:
            values = images(count, seed=count)
            answer = client.infer("bare", [tensor(CLIENTS["http"], "images", values, "FP32")])
            for name, wanted in zip(("logits", "polyphase_indices"), expected(values), strict=True):
                assert np.array_equal(answer.as_numpy(name), wanted)
    sizes = {size for low, _, high in PROFILES for size in range(low, high + 1)}
    assert runs and set(runs) <= sizes  # not all: what a CUDA graph recorded before is replayed


def test_requests_share_runs_and_keep_their_bits(server: Running) -> None:
    values = images(8)
    wanted, wrong = expected(values)[0], list[int]()

    def ask(row: int) -> None:
        with server.client("http") as client:
            for _ in range(20):
                answer = client.infer("configured", [tensor(CLIENTS["http"], "images", values[row : row + 1], "FP32")])
                if answer.as_numpy("logits").tobytes() != wanted[row].tobytes():
                    wrong.append(row)

    clients = [threading.Thread(target=ask, args=(row,)) for row in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert wrong == []


def test_a_single_plan_takes_images_too(plan: Path, tensorrt: None) -> None:
    with running(plan) as server:
        status, answer = server.json("GET", "/v2/models/toy")
        assert status == 200 and answer["platform"] == "tensorrt_plan"
        status, answer = server.json("POST", "/v2/models/toy/infer", {"inputs": [{"name": "images"}]})
        assert status == 400


def test_a_plan_without_weights_is_served_with_those_beside_it(
    tmp_path: Path, tensorrt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda *arguments, **named: fake_rtx())
    version = tmp_path / "models" / "toy" / "1"
    version.mkdir(parents=True)
    source = write_toy(version / "weights.onnx")
    write_stripped_plan(version / "model.plan", source)
    values = images(5)
    with running(tmp_path / "models") as server, server.client("http") as client:
        answer = client.infer("toy", [tensor(CLIENTS["http"], "images", values, "FP32")])
        assert np.array_equal(answer.as_numpy("logits"), expected(values)[0])
    source.unlink()
    with pytest.raises(InputError, match=r"has the hash of weights\.onnx, which"):
        PlanEngine(version / "model.plan")


def test_a_plan_on_a_cpu(plan: Path, tensorrt: None) -> None:
    with pytest.raises(InputError, match="engine for a GPU; serve the ONNX file"):
        PlanEngine(plan, device="cpu")


@pytest.mark.skipif(num_cuda_devices() > 0, reason="there is a GPU")
def test_a_plan_without_tensorrt_or_gpu_is_one_sentence(plan: Path) -> None:
    with pytest.raises(InputError, match=r"toy\.plan"), running(plan):
        pass


def test_a_plan_that_changed_is_refused(plan: Path, tmp_path: Path, tensorrt: None) -> None:
    for suffix in (".plan", ".json"):
        shutil.copy(plan.with_suffix(suffix), tmp_path / f"toy{suffix}")
    (tmp_path / "toy.plan").write_bytes((tmp_path / "toy.plan").read_bytes() + b"x")
    with pytest.raises(InputError, match="changed since it was exported"), running(tmp_path / "toy.plan"):
        pass
