"""Converted networks by name: files, the command, and fine-tuning."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from typer.testing import CliRunner

import aps_deploy
from aps_deploy.cli import app
from aps_deploy.conversion import convert_weights
from aps_deploy.errors import InputError
from aps_deploy.models import load_weights, network_spec, resolve_arch, save_checkpoint
from aps_deploy.preprocessing import IMAGENET
from tests.conversion.support import full_network, short_network

NAME = "torchvision:mobilenet_v3_small_aps1"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile.pth"
    torch.save(full_network("mobilenet_v3_small").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(weights: Path) -> Path:
    result = CliRunner().invoke(
        app, ["convert", "mobilenet_v3_small", str(weights), "-o", str(weights.with_suffix(".safetensors"))]
    )
    assert result.exit_code == 0, result.output
    assert f"{NAME}, 5 classes" in result.output
    assert "features.1.block.0.0: stride 2 became features.1.block.0.0_sampler" in result.output
    assert "note:" not in result.output
    return weights.with_suffix(".safetensors")


def test_a_checkpoint_is_loaded_as_it_was_converted(checkpoint: Path) -> None:
    model = aps_deploy.load_checkpoint(checkpoint)
    assert model.arguments["name"] == NAME == model.spec.name
    assert (model.preprocessing, model.class_names) == (IMAGENET, None)
    expected = aps_deploy.convert(full_network("mobilenet_v3_small"))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images), expected(images))
    with aps_deploy.open_session(checkpoint) as session:
        outputs = session.run(images.numpy())
        assert session.metadata.architecture == NAME
    assert outputs["polyphase_indices"].shape == (2, 5)
    with torch.inference_mode():
        np.testing.assert_allclose(outputs["logits"], expected(images), rtol=1e-4, atol=1e-4)


def test_training_finds_it_by_name(checkpoint: Path) -> None:
    """What `aps-deploy train --arch torchvision:... --weights FILE` builds; the README's test runs it whole."""
    assert resolve_arch(NAME) == NAME
    assert network_spec(NAME).family == "imagenet"
    assert network_spec(NAME).total_stride == 32
    model = aps_deploy.create_model(NAME, num_classes=5, criterion="l1")
    assert model.training
    load_weights(model, checkpoint)
    saved = aps_deploy.load_checkpoint(checkpoint).state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


def test_another_number_of_classes_starts_a_new_classifier(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "two.safetensors"
    result = convert_weights(
        "mobilenet_v3_small", weights, output, filter_size=3, num_classes=2, class_names=["cat", "dog"]
    )
    assert result.has_new_classifier
    assert result.architecture == "torchvision:mobilenet_v3_small_aps3"
    model = aps_deploy.load_checkpoint(output)
    assert model.class_names == ("cat", "dog")
    state, original = model.state_dict(), full_network("mobilenet_v3_small").state_dict()
    assert state["classifier.3.weight"].shape[0] == 2
    assert all(torch.equal(state[key], original[key]) for key in state if not key.startswith("classifier.3."))


def test_vgg_by_name() -> None:
    with torch.device("meta"):
        model = aps_deploy.create_model("torchvision:vgg11_bn_aps2", num_classes=3)
    assert model.state_dict()["gap_head.weight"].shape == (3, 512)


def test_a_network_in_memory_has_no_name_to_build_it_by(tmp_path: Path) -> None:
    model = aps_deploy.convert(short_network("resnet"))
    assert model.spec.name == "converted:ResNet_aps1"
    with pytest.raises(InputError, match="which a checkpoint cannot build again"):
        save_checkpoint(tmp_path / "x.safetensors", model, preprocessing=IMAGENET)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet18", "WEIGHTS"], "are not of resnet18: fc.weight is missing"),
        (["mobilenet_v3_large", "WEIGHTS"], "are not of mobilenet_v3_large: .* more differences"),
        (["resnet19", "WEIGHTS"], r"'resnet19' is no architecture of torchvision .*did you mean resnet18"),
        (["efficientnet_b0", "WEIGHTS"], "is no architecture of torchvision that is converted by name"),
        (["resnet18", "missing.pth"], "checkpoint missing.pth does not exist"),
        (["mobilenet_v3_small", "WEIGHTS", "--criterion", "l7"], "unknown selection criterion"),
        (["mobilenet_v3_small", "WEIGHTS", "-o", "x.onnx"], "a checkpoint's name ends in .safetensors"),
    ],
)
def test_bad_input_is_one_sentence(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(weights) if part == "WEIGHTS" else part for part in arguments]
    output = [] if "-o" in given else ["-o", "out.safetensors"]
    result = CliRunner().invoke(app, ["convert", *given, *output])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert message.startswith("Error: ")
    assert re.search(sentence, message), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("torchvision:resnet50", "the form is torchvision:NAME_apsJ"),
        ("torchvision:resnet51_aps1", "did you mean resnet50"),
        ("torchvision:resnet50_aps9", "a filter size J of 1 to 7"),
    ],
)
def test_names(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        aps_deploy.create_model(name)


def test_options_of_the_registry_do_not_apply() -> None:
    with pytest.raises(InputError, match="has circular padding"):
        aps_deploy.create_model(NAME, padding="zeros")
    with pytest.raises(InputError, match="names filter size 1, but filter size 3"):
        resolve_arch(NAME, filter_size=3)


def test_every_listed_architecture_is_torchvisions() -> None:
    from aps_deploy.conversion.torchvision_models import ARCHITECTURES

    assert set(ARCHITECTURES) <= set(torchvision.models.list_models(module=torchvision.models))
