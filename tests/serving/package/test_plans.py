"""A compiled engine as a package for Triton's TensorRT backend: what its configuration says, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from google.protobuf import text_format

from aps_deploy.errors import InputError
from aps_deploy.export.engines.engine_export import plan_document
from aps_deploy.export.engines.source import read_source
from aps_deploy.files import sha256_of
from aps_deploy.runtimes import tensorrt_session
from aps_deploy.runtimes.availability import num_cuda_devices
from aps_deploy.runtimes.sidecar import sidecar_path
from aps_deploy.serving.model_config import new_config
from aps_deploy.serving.package.settings import PackageSettings
from aps_deploy.serving.package.writing import Package, package
from tests.export.engines.toys import toy
from tests.runtimes import graphs
from tests.runtimes.tensorrt import fake_engine
from tests.runtimes.tensorrt.fake_cuda import install_fake_cuda
from tests.serving.package.plans import profile, types_of, write_plan
from tests.serving.package.triton import MISSING, triton
from tests.serving.proof import certify
from tests.serving.support import CLIENTS, running, tensor


def packaged(file: Path, **changes: Any) -> tuple[Package, Any]:
    certify(file)
    written = package(PackageSettings(file, file.parent / "models", **changes))
    text = (written.repository / written.models[0] / "config.pbtxt").read_text()
    return written, text_format.Parse(text, new_config())


def test_the_configuration(tmp_path: Path) -> None:
    file = write_plan(tmp_path / "net.plan", profile(1, 4, 8), profile(8, 16, 32))
    written, config = packaged(file, instances=2)
    assert (config.platform, config.backend, config.default_model_filename) == (
        "tensorrt_plan",
        "tensorrt",
        "model.plan",
    )
    assert config.max_batch_size == 32 and list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    (group,) = config.instance_group
    assert (group.count, group.kind, list(group.profile)) == (2, group.KIND_GPU, ["0", "1"])
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [("images", [3, 8, 8])]
    assert [(entry.name, list(entry.dims)) for entry in config.output] == [
        ("logits", [5]),
        ("polyphase_indices", [1]),
    ]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 32]
    version = written.repository / "net" / "1"
    assert sorted(path.name for path in version.iterdir()) == ["model.certificate.json", "model.json", "model.plan"]
    assert sha256_of(version / "model.plan") == sha256_of(file)
    assert "TensorRT 10.13.3.9" in written.notes[0]


def test_sizes_that_are_free_and_a_single_profile(tmp_path: Path) -> None:
    _, config = packaged(write_plan(tmp_path / "net.plan", profile(1, 2, 4, sides=(8, 16, 24))))
    assert list(config.input[0].dims) == [3, -1, -1] and config.max_batch_size == 4
    assert not config.instance_group[0].profile


def test_a_fixed_batch(tmp_path: Path) -> None:
    written, config = packaged(write_plan(tmp_path / "net.plan", profile(4, 4, 4)))
    assert config.max_batch_size == 0 and list(config.input[0].dims) == [4, 3, 8, 8]
    assert not config.HasField("dynamic_batching")
    assert any("fixed batch" in note for note in written.notes)


def test_without_a_certificate_nothing_is_joined(tmp_path: Path) -> None:
    file = write_plan(tmp_path / "net.plan", profile(1, 2, 4))
    written = package(PackageSettings(file, tmp_path / "models", requires_certificate=False))
    text = (written.repository / "net" / "config.pbtxt").read_text()
    assert "dynamic_batching" not in text and any("nothing proves" in note for note in written.notes)


def test_the_documents_ask_for_a_gpu(tmp_path: Path) -> None:
    file = write_plan(tmp_path / "net.plan", profile(1, 2, 4))
    written, _ = packaged(file, compose=True, kserve=True, storage_uri="s3://bucket/models")
    compose, manifest = (yaml.safe_load(path.read_text()) for path in written.files)
    devices = compose["services"]["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert manifest["spec"]["predictor"]["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_new_version(tmp_path: Path) -> None:
    file = write_plan(tmp_path / "net.plan", profile(1, 2, 4))
    packaged(file)
    written, _ = packaged(file, version=2)
    assert (written.repository / "net" / "2" / "model.plan").is_file()
    onnx = graphs.save(graphs.classifier(), tmp_path / "net.onnx")
    certify(onnx)
    with pytest.raises(InputError, match="the backend is 'tensorrt'"):
        package(PackageSettings(onnx, tmp_path / "models", version=3))


def test_our_server_answers_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the runtimes' tests, which computes in ONNX Runtime, packaged and then loaded."""
    install_fake_cuda(monkeypatch)
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda *arguments, **named: fake_engine.fake_toolkit())
    monkeypatch.setattr(fake_engine, "PROFILES", ((1, 3, 4), (6, 8, 8)))
    file = fake_engine.write_plan(tmp_path / "net.plan", toy())
    document = json.loads(sidecar_path(file).read_text())
    source = read_source(graphs.save(toy(), tmp_path / "net.onnx"))
    document["tensors"] = plan_document(
        file, file.read_bytes(), {**document["engine"], "types": types_of(source)}, source
    )["tensors"]
    sidecar_path(file).write_text(json.dumps(document))
    written, config = packaged(file)
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    with running(written.repository) as server, server.client("http") as client:
        shown = client.get_model_config("net")
        assert (shown["max_batch_size"], shown["platform"]) == (config.max_batch_size, config.platform)
        answer = client.infer("net", [tensor(CLIENTS["http"], "images", images, "FP32")]).as_numpy("logits")
    peer = onnxruntime.InferenceSession(toy().SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(answer, peer.run(["logits"], {"images": images})[0])


@pytest.mark.skipif(num_cuda_devices() > 0, reason="there is a GPU")
def test_our_server_says_why_it_cannot_serve_it(tmp_path: Path) -> None:
    written, _ = packaged(write_plan(tmp_path / "net.plan", profile(1, 2, 4)))
    shutil.copytree(written.repository / "net", tmp_path / "both" / "net")
    (tmp_path / "both" / "tiny" / "1").mkdir(parents=True)
    graphs.save(graphs.classifier(), tmp_path / "both" / "tiny" / "1" / "model.onnx")
    with running(tmp_path / "both") as server:
        index = {entry["name"]: entry for entry in server.json("POST", "/v2/repository/index")[1]}
    assert index["tiny"]["state"] == "READY" and index["net"]["state"] == "UNAVAILABLE"
    assert "TensorRT" in index["net"]["reason"]


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"kind": "trt-rtx"}, {}, "which Triton does not run"),
        ({"tensors": False}, {}, "export the engine again"),
        ({"weights": False}, {}, "Triton puts no weights into a plan; export it without"),
        ({}, {"device": "cpu"}, "--device cpu is not for"),
    ],
)
def test_plans_that_are_refused(tmp_path: Path, options: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    file = write_plan(tmp_path / "net.plan", profile(1, 2, 4), **options)
    with pytest.raises(InputError) as caught:
        packaged(file, **changes)
    assert words in str(caught.value) and not (tmp_path / "models").exists()


def test_profiles_that_take_no_single_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="take 2 to 4 images"):
        packaged(write_plan(tmp_path / "net.plan", profile(2, 3, 4)))


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_triton_reads_the_configuration(tmp_path: Path) -> None:
    """The real core judges it, with its GPUs made CPUs, and runs its warm-ups through a stand-in for TensorRT."""
    written, _ = packaged(write_plan(tmp_path / "net.plan", profile(1, 4, 8)))
    copy = Path(shutil.copytree(written.repository, tmp_path / "copy"))
    config = copy / "net" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
    with triton(copy, tmp_path) as server:
        client: Any = server.client("http")
        assert client.is_model_ready("net")
        shown = client.get_model_config("net")
        assert (shown["platform"], shown["max_batch_size"]) == ("tensorrt_plan", 8)
        assert client.get_model_metadata("net")["platform"] == "tensorrt_plan"
        (statistics,) = client.get_inference_statistics("net")["model_stats"]
        assert {entry["batch_size"] for entry in statistics["batch_stats"]} == {1, 8}
