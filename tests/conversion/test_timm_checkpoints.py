"""timm's networks by name: files, the command, how images are prepared, and fine-tuning."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import aps_deploy
from aps_deploy.cli import app
from aps_deploy.conversion import convert_weights
from aps_deploy.conversion.named import parse_name
from aps_deploy.conversion.timm_models import ARCHITECTURES, preprocessing_of
from aps_deploy.errors import InputError
from aps_deploy.models import load_weights, network_spec, resolve_arch
from tests.conversion.timm_support import timm, whole_network

NAME = "timm:resnet10t_aps1"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "ten.pth"
    torch.save(whole_network("resnet10t").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(weights: Path) -> Path:
    output = weights.with_suffix(".safetensors")
    result = CliRunner().invoke(app, ["convert", "timm:resnet10t.c3_in1k", str(weights), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert f"{NAME}, 5 classes" in result.output
    assert "conv1.0: stride 2 became conv1.0_sampler" in result.output
    assert "layer2.0.conv1: stride 2 became layer2.0.conv1_sampler; layer2.0.downsample.0 follows" in result.output
    assert "note:" not in result.output
    return output


def test_a_checkpoint_is_loaded_as_it_was_converted(checkpoint: Path) -> None:
    model = aps_deploy.load_checkpoint(checkpoint)
    assert model.arguments["name"] == NAME == model.spec.name
    assert model.checkpoint.training == {"converted_from": "timm resnet10t.c3_in1k"}
    expected = aps_deploy.convert(whole_network("resnet10t"))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images), expected(images))


def test_a_size_that_it_does_not_take_becomes_the_next_that_it_does(checkpoint: Path) -> None:
    stated, kept = preprocessing_of("resnet10t.c3_in1k"), aps_deploy.load_checkpoint(checkpoint).preprocessing
    assert (stated.image_size, stated.resize) == (176, 201)
    assert (kept.image_size, kept.resize) == (192, 219)
    assert (kept.mean, kept.std, kept.interpolation) == (stated.mean, stated.std, "bicubic")


def test_training_finds_it_by_name(checkpoint: Path) -> None:
    """What `aps-deploy train --arch timm:... --weights FILE` builds; a slow test runs it whole.

    The names of timm's deep stems and averaging shortcuts are those of other layouts, which are translated.
    """
    assert resolve_arch(NAME) == NAME
    assert network_spec(NAME).total_stride == 32
    model = aps_deploy.create_model(NAME, num_classes=5)
    assert model.training
    saved = aps_deploy.load_checkpoint(checkpoint).state_dict()
    without_counters = {key: value for key, value in saved.items() if not key.endswith("num_batches_tracked")}
    for source in (checkpoint, without_counters):
        load_weights(model, source)
        loaded = model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in without_counters.items())


def test_another_number_of_classes_starts_a_new_classifier(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "two.safetensors"
    result = convert_weights("timm:resnet10t", weights, output, filter_size=2, num_classes=2)
    assert result.has_new_classifier
    assert result.architecture == "timm:resnet10t_aps2"
    state, original = aps_deploy.load_checkpoint(output).state_dict(), whole_network("resnet10t").state_dict()
    assert state["fc.weight"].shape[0] == 2
    assert all(torch.equal(state[key], original[key]) for key in state if not key.startswith("fc."))


def test_weights_from_before_batches_were_counted(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": old}, tmp_path / "old.pth")
    convert_weights("timm:resnet10t", tmp_path / "old.pth", tmp_path / "old.safetensors")
    loaded = aps_deploy.load_checkpoint(tmp_path / "old.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in old.items())


@pytest.mark.parametrize(
    "arch", ["resnet50.a1_in1k", "resnet18d.ra4_e3600_r224_in1k", "resnext101_32x4d", "resnetrs420"]
)
@pytest.mark.parametrize("size", [(500, 375), (300, 611)])
def test_images_are_prepared_as_timm_does(arch: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(arch).to_dict())
    expected = timm.data.create_transform(**config, is_training=False)(image)
    assert preprocessing_of(arch).apply(image).tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["timm:resnet18", "WEIGHTS"], "are not of resnet18: .* more differences"),
        (["timm:resnet19", "WEIGHTS"], r"'resnet19' is no architecture of timm .*did you mean resnet1"),
        (["timm:resnet50_gn", "WEIGHTS"], r"'resnet50_gn' is no architecture of timm .* its ResNet, ResNeXt"),
        (
            ["timm:resnet10t.a1_in1k", "WEIGHTS"],
            r"timm has no weights 'a1_in1k' of resnet10t; it has: resnet10t\.c3_in1k",
        ),
        (["resnet10t", "WEIGHTS"], "'resnet10t' is an architecture of timm; write timm:resnet10t"),
        (["timm:resnet10t", "missing.pth"], "checkpoint missing.pth does not exist"),
    ],
)
def test_bad_input_is_one_sentence(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(weights) if part == "WEIGHTS" else part for part in arguments]
    result = CliRunner().invoke(app, ["convert", *given, "-o", "out.safetensors"])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert message.startswith("Error: ")
    assert re.search(sentence, message), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "timm:resnet10t", "WEIGHTS", "-o", "out.safetensors"],
        ["export", "CHECKPOINT", "-o", "out.onnx"],
        ["evaluate", "CHECKPOINT", "--data", "photos"],
        ["train", "--arch", NAME, "--weights", "CHECKPOINT", "--data", "photos", "--out-dir", "run"],
    ],
)
def test_without_timm_one_sentence_says_how_to_install_it(
    weights: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    files = {"WEIGHTS": str(weights), "CHECKPOINT": str(checkpoint)}
    result = CliRunner().invoke(app, [files.get(part, part) for part in arguments])
    assert result.exit_code == 2
    assert " ".join(result.output.split()) == (
        'Error: timm:resnet10t is built with timm, which is not installed; install it with: pip install -e ".[timm]"'
    )


def test_names_need_no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    library, arch, filter_size = parse_name("timm:resnext50_32x4d_aps3")
    assert (library.title, arch, filter_size) == ("timm", "resnext50_32x4d", 3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:resnet50d", "the form is timm:NAME_apsJ with a filter size J of 1 to 7, such as timm:resnet50d_aps1"),
        ("timm:resnet50.a1_in1k_aps1", "the form is timm:NAME_apsJ"),
        ("timm:convnext_tiny_aps1", "'convnext_tiny' is no architecture of timm"),
    ],
)
def test_names(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        aps_deploy.create_model(name)


def test_every_resnet_of_timm_is_listed_but_one() -> None:
    assert set(timm.list_models(module="resnet")) - set(ARCHITECTURES) == {"resnet50_gn"}
    assert set(ARCHITECTURES) <= set(timm.list_models(module="resnet"))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_listed_architecture_converts(arch: str) -> None:
    with torch.device("meta"):
        model = aps_deploy.create_model(f"timm:{arch}_aps1", num_classes=3)
    assert (model.spec.total_stride, len(model.selection_layers)) == (32, 5)
    assert not model.report.position_dependent  # type: ignore[attr-defined]
    assert preprocessing_of(arch).image_size >= 160


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label in range(5):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(40 * label, 40 * label + 90, (9, 10, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((100, 90), Image.Resampling.BICUBIC)
                image.save(folder / split / f"class{label}" / f"{number}.jpg")
    return folder


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_file_goes_the_whole_way(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    file, data = tmp_path / "ten.onnx", photos / "val"
    _run("export", checkpoint, "-o", file, "--image-size", 64)
    _run("verify", file, "--reference", checkpoint, "--data", data, "--images", 4, "--shifts", 4, "--device", "cpu")
    assert str(data / "class0" / "0.jpg") in _run("predict", checkpoint, data / "class0", "--device", "cpu")
    assert str(data / "class0" / "0.jpg") in _run("predict", file, data / "class0", "--device", "cpu")


@pytest.mark.slow
def test_fine_tuning_and_evaluation(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    run, quiet = tmp_path / "run", ("--device", "cpu", "--no-progress")
    small = ("--epochs", 1, "--batch-size", 4, "--lr", 0.001, "--image-size", 64, "--resize", 72, "--workers", 0)
    _run("train", "--arch", NAME, "--weights", checkpoint, "--data", photos, "--out-dir", run, *small, *quiet)
    best = run / "best.safetensors"
    assert aps_deploy.load_checkpoint(best).spec.name == NAME
    shown = _run("evaluate", best, "--data", photos / "val", "--shifts", 2, "--shift-images", 4, *quiet)
    assert re.search(r"^accuracy +\d+\.\d\d %$", shown, flags=re.MULTILINE)
