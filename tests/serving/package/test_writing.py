"""What a package holds, that our own server serves it, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import load_image
from aps_deploy.serving.model_config import CERTIFICATE_PARAMETER, new_config
from aps_deploy.serving.package.settings import TRITON_IMAGE, PackageSettings
from aps_deploy.serving.package.writing import package
from tests.runtimes import graphs
from tests.serving.proof import certify
from tests.serving.support import CLIENTS, running, tensor


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = graphs.save(graphs.classifier(shape=("N", 3, 8, 8)), tmp_path / "net.onnx")
    certify(path)
    return path


def settings(file: Path, **changes: Any) -> PackageSettings:
    return PackageSettings(file, file.parent / "models", **changes)


def read_config(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), new_config())


def test_the_model(file: Path) -> None:
    written = package(settings(file, max_batch=4, instances=2, device="cpu", batch_delay_ms=1.5, max_queue=9))
    folder = written.repository / "net"
    assert written.models == ("net",) and not written.notes
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "1/model.certificate.json",
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
        "warmup/image",
    ]
    assert sha256_of(folder / "1" / "model.onnx") == sha256_of(file)
    config = read_config(folder)
    assert (config.name, config.platform, config.max_batch_size) == ("net", "onnxruntime_onnx", 4)
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, config.instance_group[0].KIND_CPU)]
    queue = config.dynamic_batching.default_queue_policy
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert (queue.max_queue_size, queue.default_timeout_microseconds) == (9, 10_000_000)
    assert [(entry.name, list(entry.dims), entry.label_filename) for entry in config.output] == [
        ("logits", [5], "labels.txt"),
        ("polyphase_indices", [1], ""),
    ]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4]
    assert config.parameters[CERTIFICATE_PARAMETER].string_value == "true"
    assert not [path for path in written.repository.iterdir() if path.name.startswith(".")]


def test_the_warm_up_is_a_real_image(file: Path) -> None:
    image = min(packaged_images()["cifar10"].rglob("*.jpg"))
    written = package(settings(file))
    data = np.frombuffer((written.repository / "net" / "warmup" / "image").read_bytes(), "<f4").reshape(3, 8, 8)
    assert np.array_equal(data, graphs.SMALL.apply(load_image(image)))


def test_our_server_serves_it(file: Path) -> None:
    repository = package(settings(file)).repository
    images = graphs.images(3)
    with running(repository) as server:
        client = server.client("http")
        answer = client.infer("net", [tensor(CLIENTS["http"], "images", images, "FP32")])
    assert np.allclose(answer.as_numpy("logits"), graphs.expected(images)[0], atol=1e-5)


def test_our_server_refuses_what_was_changed_since(file: Path) -> None:
    repository = package(settings(file)).repository
    graphs.save(graphs.classifier(shape=("N", 3, 8, 8), with_indices=False), repository / "net" / "1" / "model.onnx")
    with pytest.raises(InputError, match="is of another file"), running(repository):
        pass


def test_a_new_version_leaves_the_configuration(file: Path) -> None:
    repository = package(settings(file, max_batch=4)).repository
    before = (repository / "net" / "config.pbtxt").read_text()
    written = package(settings(file, max_batch=8, version=2))
    assert (repository / "net" / "2" / "model.onnx").is_file()
    assert (repository / "net" / "config.pbtxt").read_text() == before
    assert "stays as it is" in written.notes[0]
    with pytest.raises(InputError, match="--model-version 3"):
        package(settings(file, version=2))


def test_a_file_of_a_fixed_batch(tmp_path: Path) -> None:
    path = graphs.save(graphs.classifier(shape=(2, 3, 8, 8)), tmp_path / "net.onnx")
    certify(path)
    written = package(settings(path))
    config = read_config(written.repository / "net")
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [2, 3, 8, 8]
    assert any("fixed batch" in note for note in written.notes)
    with pytest.raises(InputError, match="--with-preprocessing needs a file with a free batch"):
        package(settings(path, name="other", prepares_images=True))
    assert not (written.repository / "other").exists()


def test_the_ensemble(file: Path) -> None:
    written = package(settings(file, prepares_images=True, max_batch=4))
    assert written.models == ("net", "net_prepare", "net_image")
    ensemble = read_config(written.repository / "net_image")
    assert ensemble.platform == "ensemble" and ensemble.max_batch_size == 4
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["net_prepare", "net"]
    version = written.repository / "net_prepare" / "1"
    assert {path.name for path in (version / "aps_deploy").iterdir()} == {
        "__init__.py",
        "errors.py",
        "preprocessing.py",
    }
    assert "class TritonPythonModel" in (version / "model.py").read_text()


def test_the_documents(file: Path) -> None:
    chosen = settings(file, device="cuda", compose=True, kserve=True, storage_uri="s3://bucket/models", name="My_net")
    written = package(chosen)
    compose, manifest = (yaml.safe_load(path.read_text()) for path in written.files)
    service = compose["services"]["triton"]
    assert service["image"] == TRITON_IMAGE and service["volumes"] == [".:/models:ro"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert manifest["metadata"]["name"] == "my-net"
    assert manifest["metadata"]["annotations"] == {"aps-deploy/file-sha256": sha256_of(file)}
    model = manifest["spec"]["predictor"]["model"]
    assert (model["runtime"], model["protocolVersion"]) == ("kserve-tritonserver", "v2")
    assert model["storageUri"] == "s3://bucket/models" and model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert service["environment"] == {"NVIDIA_TF32_OVERRIDE": "0"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../net"}, "cannot be a model's name"),
        ({"name": ""}, "cannot be a model's name"),
        ({"version": 0}, "--model-version is 0"),
        ({"instances": 0}, "--instances is 0"),
        ({"deadline_ms": 0}, "--deadline-ms is 0"),
        ({"batch_delay_ms": -1}, "--batch-delay-ms is -1"),
        ({"device": "tpu"}, "--device tpu is not known"),
        ({"kserve": True}, "--kserve needs --storage-uri"),
        ({"storage_uri": "s3://b"}, "for the manifest of --kserve"),
    ],
)
def test_settings_that_are_refused(file: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        package(settings(file, **changes))
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (file.parent / "models").exists()


def test_a_file_that_was_not_proven(tmp_path: Path) -> None:
    path = graphs.save(graphs.classifier(), tmp_path / "net.onnx")
    result = CliRunner().invoke(app, ["package", str(path), "--triton", str(tmp_path / "models")])
    assert result.exit_code == 2 and not (tmp_path / "models").exists()
    result = CliRunner().invoke(
        app, ["package", str(path), "--triton", str(tmp_path / "models"), "--without-certificate"]
    )
    assert result.exit_code == 0, result.output
    config = read_config(tmp_path / "models" / "net")
    assert CERTIFICATE_PARAMETER not in config.parameters


def test_a_new_version_that_clients_could_not_use(file: Path, tmp_path: Path) -> None:
    repository = package(settings(file)).repository
    other = graphs.save(graphs.classifier(shape=("N", 3, 8, 8), input_name="pixels"), tmp_path / "other.onnx")
    certify(other)
    with pytest.raises(InputError, match="no input 'images'"):
        package(PackageSettings(other, repository, name="net", version=2))
    assert not (repository / "net" / "2").exists()
