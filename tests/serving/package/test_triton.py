"""NVIDIA's own server judges the package, and answers as ours does: same status, same shapes, same values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from aps_deploy.bench.load import LoadSettings, measure_load
from aps_deploy.export import export_checkpoint
from aps_deploy.images import load_folder
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.serving.package.settings import PackageSettings
from aps_deploy.serving.package.writing import package
from tests.serving.package.triton import MISSING, Triton, triton
from tests.serving.proof import certify
from tests.serving.support import CLIENTS, Running, running, tensor

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

MODEL, PIXELS = "cifar", 32
Servers = tuple[Triton, Running]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    file = folder / "cifar.onnx"
    export_checkpoint("resnet20_aps3.cifar10", file)
    certify(file)
    return package(PackageSettings(file, folder / "models", device="cpu", prepares_images=True, max_batch=8)).repository


@pytest.fixture(scope="module")
def servers(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with triton(repository, tmp_path_factory.mktemp("triton")) as theirs, running(repository) as ours:
        yield theirs, ours


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, np.dtype[np.float32]]:
    return load_folder(packaged_images()["cifar10"], CIFAR10, limit=4).images


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_metadata_and_configuration(servers: Servers, transport: str) -> None:
    documents = []
    for server in servers:
        client: Any = server.client(transport)
        arguments = {"as_json": True} if transport == "grpc" else {}
        metadata = client.get_model_metadata(MODEL, **arguments)
        config = client.get_model_config(MODEL, **arguments)
        config = config.get("config", config)
        documents.append([metadata["inputs"], metadata["outputs"], metadata["platform"], config["name"]])
        documents[-1] += [int(config["max_batch_size"]), config["input"], config["output"]]
    assert documents[0] == documents[1]


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("count", [1, 3])
def test_answers(servers: Servers, images: Any, transport: str, count: int) -> None:
    answers = []
    for server in servers:
        client: Any = server.client(transport)
        answer = client.infer(MODEL, [tensor(CLIENTS[transport], "images", images[:count], "FP32")])
        answers.append({name: answer.as_numpy(name) for name in ("logits", "polyphase_indices")})
    theirs, ours = answers
    for name, values in theirs.items():
        # Both run ONNX Runtime on this CPU: the same bits.
        assert values.dtype == ours[name].dtype and values.shape == ours[name].shape
        assert values.tobytes() == ours[name].tobytes()


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_classification(servers: Servers, images: Any, transport: str) -> None:
    answers = []
    for server in servers:
        client: Any = server.client(transport)
        inputs = [tensor(CLIENTS[transport], "images", images, "FP32")]
        outputs = [CLIENTS[transport].InferRequestedOutput("logits", class_count=2)]
        answers.append(client.infer(MODEL, inputs, outputs=outputs).as_numpy("logits"))
    assert answers[0].shape == (len(images), 2) and answers[0].tolist() == answers[1].tolist()


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("case", ["shape", "datatype", "batch", "model", "output"])
def test_what_is_refused(servers: Servers, images: Any, transport: str, case: str) -> None:
    """The words are each server's own; the kind of refusal is the same."""
    name = "nothing" if case == "model" else MODEL
    values = {"shape": images[:, :, :8], "batch": np.concatenate([images] * 3)}.get(case, images)
    datatype = "FP64" if case == "datatype" else "FP32"
    values = values.astype(np.float64) if case == "datatype" else values
    codes = []
    for server in servers:
        client: Any = server.client(transport)
        outputs = [CLIENTS[transport].InferRequestedOutput("nothing" if case == "output" else "logits")]
        with pytest.raises(InferenceServerException) as caught:
            client.infer(name, [tensor(CLIENTS[transport], "images", values, datatype)], outputs=outputs)
        codes.append(str(caught.value.status()))
    assert codes[0] == codes[1]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_load_tool_asks_both(servers: Servers, transport: str) -> None:
    """Requests of several clients share runs, and no answer differs in a bit from the one that an image gets alone."""
    for server in servers:
        port = server.where.port if transport == "http" else server.where.grpc_port
        url = f"{transport}://127.0.0.1:{port}/v2/models/{MODEL}"
        result = measure_load(LoadSettings(url, concurrencies=(4,), warm_up_s=0.0, window_s=0.3, max_windows=3))
        result.check()
        assert result.levels[0].answered > 0 == result.levels[0].refused


def test_the_ensemble_takes_encoded_images(servers: Servers) -> None:
    """Triton decodes and prepares with the package's own code: the logits are those of the prepared images."""
    theirs, ours = servers
    path = min(packaged_images()["cifar10"].rglob("*.jpg"))
    encoded = np.array([[path.read_bytes()]] * 2, dtype=np.object_)
    answer = theirs.client("http").infer(  # type: ignore[attr-defined]
        f"{MODEL}_image", [tensor(CLIENTS["http"], "IMAGE", encoded, "BYTES")]
    )
    status, _, body = ours.request("POST", f"/v1/models/{MODEL}/classify?top_k=10", path.read_bytes())
    assert status == 200
    logits = {score["index"]: score["logit"] for score in json.loads(body)["scores"]}
    expected = np.array([logits[index] for index in range(10)], np.float32)
    assert np.array_equal(answer.as_numpy("logits"), np.stack([expected] * 2))


def test_an_image_that_cannot_be_read(servers: Servers) -> None:
    broken = np.array([[b"no image"]], dtype=np.object_)
    with pytest.raises(InferenceServerException, match="image 0 of the request"):
        servers[0].client("http").infer(  # type: ignore[attr-defined]
            f"{MODEL}_image", [tensor(CLIENTS["http"], "IMAGE", broken, "BYTES")]
        )


def test_what_triton_says_of_a_configuration_it_cannot_read(repository: Path, tmp_path: Path) -> None:
    """The judge judges: a repository with a fault does not become ready."""
    import shutil

    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    config = copy / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size", "max_batch"))
    with pytest.raises(AssertionError, match="max_batch"), triton(copy, tmp_path):
        pass
