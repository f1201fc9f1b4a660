"""What a model file says about itself survives every way in and out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from onnx import helper

from aps_deploy import create_model
from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.models import save_checkpoint
from aps_deploy.preprocessing import CIFAR10, IMAGENET
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata, SelectionTensors, open_session
from tests.runtimes import graphs

FULL = ModelMetadata(
    architecture="resnet20_aps3",
    arguments={"num_classes": 10, "criterion": "l2", "pool_only": False},
    filter_size=3,
    num_classes=10,
    class_names=("Zürich", 'quoted "name"', "猫"),
    preprocessing=IMAGENET,
    size_divisor=4,
    min_size=4,
    total_stride=4,
    shift_step=2,
    selection="exact",
    criterion="l2",
    selection_layers=("layer2.0.pool", "layer3.0.pool"),
    selections=(SelectionTensors("layer2.0.pool", "i0", "s0"), SelectionTensors("layer3.0.pool", "i1", "s1", 15)),
    polyphase="where",
    precision="fp32",
    kept_fp32=("layer2.0.bn1/Conv",),
    checkpoint_sha256="ab" * 32,
    aps_deploy_version="0.1.0",
    calibration={"method": "entropy", "images": 256, "sha256": "cd" * 32},
    git_revision="ef" * 20,
)


def test_example_fills_every_field() -> None:
    default = ModelMetadata()
    for field in dataclasses.fields(ModelMetadata):
        assert getattr(FULL, field.name) != getattr(default, field.name), field.name


@pytest.mark.parametrize("metadata", [FULL, ModelMetadata(), graphs.METADATA], ids=["full", "empty", "tiny"])
def test_round_trip_through_json(metadata: ModelMetadata) -> None:
    assert ModelMetadata.from_json(metadata.to_json()) == metadata
    assert ModelMetadata.from_dict(json.loads(json.dumps(metadata.to_dict()))) == metadata


def test_round_trip_through_an_onnx_file(tmp_path: Path) -> None:
    model = graphs.classifier(metadata=FULL)
    path = graphs.save(model, tmp_path / "tiny.onnx")
    assert ModelMetadata.from_onnx(model) == FULL
    assert ModelMetadata.from_onnx(path) == FULL
    properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert ModelMetadata.from_properties(properties, "tiny.onnx") == FULL


def test_keys_of_newer_versions_are_ignored() -> None:
    assert ModelMetadata.from_dict({**FULL.to_dict(), "metadata_version": 9, "colour": "red"}) == FULL


def test_file_of_another_tool_is_empty_and_unknown() -> None:
    model = graphs.classifier(metadata=None)
    helper.set_model_props(model, {"author": "somebody"})
    assert ModelMetadata.from_onnx(model) == ModelMetadata()
    assert not ModelMetadata().is_known
    assert ModelMetadata().num_selections == 0


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"size_divisor": 0}',
        '{"size_divisor": "4"}',
        '{"min_size": true}',
        '{"class_names": "cat"}',
        '{"selections": [{"layer": "a"}]}',
        '{"preprocessing": {"image_size": -1}}',
        '{"preprocessing": 3}',
        '{"arguments": 3}',
    ],
)
def test_damaged_metadata_is_refused(text: str, tmp_path: Path) -> None:
    model = graphs.classifier(metadata=None)
    helper.set_model_props(model, {METADATA_KEY: text})
    with pytest.raises(InputError) as caught:
        ModelMetadata.from_onnx(model)
    path = graphs.save(model, tmp_path / "damaged.onnx")
    for runtime in ("onnxruntime", "onnx-reference"):
        with pytest.raises(InputError, match=r"damaged\.onnx: .*metadata|damaged\.onnx: preprocessing"):
            open_session(path, runtime=runtime)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet20_aps3", "resnet20", "resnet20_lpf2"])
def test_model_and_checkpoint_say_the_same(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(7)]
    model = create_model(name, num_classes=7, criterion="l1")
    path = save_checkpoint(tmp_path / "a.safetensors", model, preprocessing=CIFAR10, class_names=names)
    metadata = ModelMetadata.from_checkpoint(path)
    assert metadata.architecture == name
    assert metadata.num_classes == 7
    assert metadata.class_names == tuple(names)
    assert metadata.preprocessing == CIFAR10
    assert metadata.size_divisor == model.size_divisor
    assert metadata.selection_layers == tuple(model.selection_layers)
    assert metadata.checkpoint_sha256 == sha256_of(path)
    aps = name == "resnet20_aps3"
    assert (metadata.selection, metadata.criterion) == (("exact", "l1") if aps else (None, None))
    rebuilt = create_model(metadata.architecture, **metadata.arguments)
    assert rebuilt.arguments == model.arguments
    unsaved = ModelMetadata.from_model(model)
    assert unsaved == dataclasses.replace(metadata, preprocessing=None, class_names=None, checkpoint_sha256=None)
    assert ModelMetadata.from_json(metadata.to_json()) == metadata


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ModelMetadata.from_onnx(tmp_path / "none.onnx")
