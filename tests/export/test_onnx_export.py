"""The file, the document beside it, and everything that can be wrong with a request."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import aps_deploy
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import Artifact, export_checkpoint, export_onnx
from aps_deploy.export import onnx_export as module
from aps_deploy.export.precisions import OPSETS
from aps_deploy.models import ResNet, create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10, IMAGENET
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata, check_sidecar
from tests.export.support import full_model, ort_session, short_model, traced

CLASSES = [f"class {i}" for i in range(10)]
OPTIONS: dict[str, Any] = {"image_size": 8}


@pytest.fixture(scope="module")
def model() -> ResNet:
    return short_model("resnet20_aps3")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graph of an equal network instead of tracing again: for tests of what happens around it."""
    monkeypatch.setattr(module, "trace_onnx", lambda *_, **__: traced("resnet20_aps3", 8, 8, short=True)[1])


@pytest.fixture(scope="module")
def from_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    folder = tmp_path_factory.mktemp("export")
    network = full_model("resnet20_aps3")
    checkpoint = save_checkpoint(folder / "net.safetensors", network, preprocessing=CIFAR10, class_names=CLASSES)
    return checkpoint, export_checkpoint(checkpoint, folder / "net.onnx")


def test_signature_of_the_file(from_checkpoint: tuple[Path, Artifact]) -> None:
    _, artifact = from_checkpoint
    session = onnxruntime.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    inputs = [(value.name, value.shape, value.type) for value in session.get_inputs()]
    outputs = [(value.name, value.shape, value.type) for value in session.get_outputs()]
    assert inputs == [("images", ["batch", 3, 32, 32], "tensor(float)")]
    assert outputs == [
        ("logits", ["batch", 10], "tensor(float)"),
        ("polyphase_indices", ["batch", 2], "tensor(int64)"),
    ]
    onnx.checker.check_model(str(artifact.path), full_check=True)


def test_metadata_travels_in_the_file(from_checkpoint: tuple[Path, Artifact]) -> None:
    checkpoint, artifact = from_checkpoint
    metadata = ModelMetadata.from_onnx(artifact.path)
    assert metadata == artifact.metadata
    assert metadata.architecture == "resnet20_aps3"
    assert metadata.class_names == tuple(CLASSES)
    assert metadata.preprocessing == CIFAR10
    assert (metadata.size_divisor, metadata.selection, metadata.criterion) == (4, "exact", "l2")
    assert (metadata.polyphase, metadata.precision) == ("where", "fp32")
    assert metadata.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert metadata.aps_deploy_version == aps_deploy.__version__
    assert [entry.layer for entry in metadata.selections] == ["layer2.0.pool", "layer3.0.pool"]
    rebuilt = create_model(str(metadata.architecture), **metadata.arguments)
    assert rebuilt.state_dict().keys() == full_model("resnet20_aps3").state_dict().keys()


def test_sidecar_describes_the_bytes(from_checkpoint: tuple[Path, Artifact]) -> None:
    checkpoint, artifact = from_checkpoint
    document = json.loads(artifact.sidecar_path.read_text(encoding="utf-8"))
    digest = hashlib.sha256(artifact.path.read_bytes()).hexdigest()
    assert artifact.sidecar_path == artifact.path.with_suffix(".json")
    assert document["file"] == artifact.path.name
    assert document["sha256"] == document["onnx_sha256"] == artifact.sha256 == digest
    assert document["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert document["tools"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    proto = onnx.load(artifact.path)
    (inside,) = [json.loads(entry.value) for entry in proto.metadata_props if entry.key == METADATA_KEY]
    assert document["metadata"] == inside
    assert inside["image_size"] == [32, 32]
    assert inside["opset"] == proto.opset_import[0].version == 20
    assert check_sidecar(artifact.path) == document


def test_nothing_of_this_machine_is_in_the_file(from_checkpoint: tuple[Path, Artifact]) -> None:
    content = from_checkpoint[1].path.read_bytes()
    for path in (Path.cwd(), Path(sys.prefix), Path.home(), Path(torch.__file__).parent):
        assert str(path).encode() not in content


def test_exporting_changes_nothing_and_gives_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = short_model("resnet20_aps3")
    network.layer1.train()
    modes = [part.training for part in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    first = export_onnx(network, tmp_path / "first.onnx", **OPTIONS)
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())

    graph = traced("resnet20_aps3", 8, 8, short=True)[1]  # of an equal network, traced another time
    monkeypatch.setattr(module, "trace_onnx", lambda *_, **__: graph)
    second = export_onnx(network, tmp_path / "second.onnx", **OPTIONS)
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("opset", [OPSETS["fp32"][-1]])
def test_newer_operator_sets(opset: int, model: ResNet, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    artifact = export_onnx(model, tmp_path / "net.onnx", opset=opset, polyphase="custom-op", **OPTIONS)
    proto = onnx.load(artifact.path)
    imports = {entry.domain: entry.version for entry in proto.opset_import}
    assert imports == {"": opset, "aps": 1}
    with torch.inference_mode():
        logits, indices = model.forward_with_selection(torch.from_numpy(images))
    outputs = ort_session(proto).run(None, {"images": images})
    np.testing.assert_allclose(outputs[0], logits.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(outputs[1], indices.numpy())


@pytest.mark.usefixtures("fast")
def test_another_size_than_the_checkpoints_changes_its_crop(model: ResNet, tmp_path: Path) -> None:
    model.preprocessing = IMAGENET
    try:
        artifact = export_onnx(model, tmp_path / "net.onnx", **OPTIONS)
    finally:
        del model.preprocessing
    preprocessing = artifact.metadata.preprocessing
    assert preprocessing is not None
    assert (preprocessing.image_size, preprocessing.resize) == (8, 9)
    assert preprocessing.mean == IMAGENET.mean


@pytest.mark.usefixtures("fast")
def test_an_older_file_is_replaced(model: ResNet, tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")
    artifact = export_onnx(model, target, **OPTIONS)
    assert artifact.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.onnx"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"polyphase": "slices"}, "unknown polyphase form 'slices'; choose one of where, gather, one-pass, custom-op"),
        ({"precision": "fp61"}, "unknown precision 'fp61' .did you mean fp16.*; choose one of fp32, fp16, bf16, int8"),
        ({"opset": 19}, "opset 19 is not available for fp32.*from 20 on"),
        ({"opset": 99}, "opset 99 is not available"),
        ({"opset": 20, "precision": "bf16"}, "opset 20 is not available for bf16.*use 22"),
        ({"opset": 22, "precision": "int8", "calibration": "cifar10"}, "opset 22 is not available for int8.*use 20"),
        ({"precision": "int8"}, "none are given; name a folder of them with --calibration DIR"),
        ({"precision": "int8", "calibration": "nowhere"}, "nowhere is not a folder"),
        ({"precision": "int8", "calibration": "cifar10"}, "cannot be prepared"),
        ({"calibration": "cifar10"}, "--calibration is for int8 files only, and the precision is fp32"),
        ({"image_size": 30}, "does not take 30x30 images.*next valid size is 32x32"),
        ({"image_size": (32, 33)}, "does not take 32x33 images.*next valid size is 32x36"),
        ({"image_size": 0}, "image size 0x0 is not positive"),
    ],
)
def test_a_wrong_request_is_one_sentence(changed: dict[str, Any], sentence: str, model: ResNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        export_onnx(model, tmp_path / "net.onnx", **{**OPTIONS, **changed})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast")
def test_the_precision_travels_in_the_file_and_beside_it(model: ResNet, tmp_path: Path) -> None:
    for precision, layers in (("fp32", {"fp32": 14}), ("fp16", {"fp16": 13, "fp32": 1})):
        artifact = export_onnx(model, tmp_path / f"{precision}.onnx", precision=precision, **OPTIONS)
        document = json.loads(artifact.sidecar_path.read_text(encoding="utf-8"))
        assert artifact.metadata.precision == document["metadata"]["precision"] == precision
        assert ModelMetadata.from_onnx(artifact.path).precision == precision
        assert document["layer_precisions"] == layers
        assert document["metadata"]["calibration"] is None
        assert artifact.warnings == ()


@pytest.mark.usefixtures("fast")
def test_an_int8_file_says_what_its_ranges_come_from(model: ResNet, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    artifact = export_onnx(
        model, tmp_path / "a.onnx", precision="int8", calibration=images, calibration_method="percentile", **OPTIONS
    )
    document = json.loads(artifact.sidecar_path.read_text(encoding="utf-8"))
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert document["metadata"]["calibration"] == {"method": "percentile", "images": 40, "sha256": digest}
    assert document["layer_precisions"] == {"fp32": 1, "int8": 13}
    assert document["tools"]["onnxruntime"] == onnxruntime.__version__
    assert ["40 images, fewer than the 256 advised" in warning for warning in artifact.warnings] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.onnx"]
    properties = {entry.key for entry in onnx.load(artifact.path).metadata_props}
    assert properties == {METADATA_KEY}


def test_half_precision_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="parameters are float16"):
        export_onnx(create_model("resnet20").half(), tmp_path / "net.onnx", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_impossible_paths_are_one_sentence(model: ResNet, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for path, sentence in [
        (tmp_path / "folder.onnx", "it is a folder"),
        (tmp_path / "missing" / "net.onnx", "the folder .* does not exist"),
        (tmp_path / "net.pt", "ends in .onnx"),
    ]:
        with pytest.raises(InputError, match=sentence):
            export_onnx(model, path, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        export_checkpoint(tmp_path / "none.safetensors", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_leaves_the_older_file(
    code: int, model: ResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ApsError, match=r"cannot write .*net\.onnx"):
        export_onnx(model, target, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert target.read_bytes() == b"old"


@pytest.mark.usefixtures("fast")
def test_a_network_too_large_for_one_file_is_refused(
    model: ResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_FILE_BYTES", 1000)
    with pytest.raises(ApsError, match=r"would have .* bytes"):
        export_onnx(model, tmp_path / "net.onnx", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_folder_imports_no_framework() -> None:
    code = "import sys, aps_deploy.export; print([m for m in ('torch', 'onnx', 'onnxscript') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_foreign_document_beside_the_file_is_left_alone(tmp_path: Path) -> None:
    beside = tmp_path / "m.json"
    for content in ('{"mine": 1}', "not JSON"):
        beside.write_text(content)
        with pytest.raises(InputError, match=r"m\.json is in the way"):
            export_onnx(create_model("resnet20_aps1"), tmp_path / "m.onnx", image_size=8)
        assert beside.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
