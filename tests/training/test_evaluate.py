"""Evaluation of checkpoints and ONNX files against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aps_deploy.errors import InputError
from aps_deploy.export import export_onnx
from aps_deploy.images import load_folder
from aps_deploy.models import create_model, load_checkpoint, save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.training.cifar import CIFAR_FOLDER, CifarPart
from aps_deploy.training.evaluate import EvaluateSettings, Evaluation, evaluate, evaluate_run
from aps_deploy.training.evaluation_images import EvaluationImages, find_evaluation_images
from aps_deploy.training.settings import TrainSettings
from tests.training.conftest import CLASSES, write_class_folders


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A strided and an APS network as checkpoints, and the second as an ONNX file."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}
    for name in ("resnet20", "resnet20_aps3"):
        torch.manual_seed(4)
        model = create_model(name, num_classes=3)
        for _ in range(4):
            model(torch.randn(8, 3, 32, 32))
        made[name] = save_checkpoint(
            folder / f"{name}.safetensors", model.eval(), preprocessing=CIFAR10, class_names=CLASSES
        )
    made["resnet20_aps3.onnx"] = folder / "resnet20_aps3.onnx"
    export_onnx(load_checkpoint(made["resnet20_aps3"]), made["resnet20_aps3.onnx"], image_size=32)
    return made


def run(model: Path, data: Path, **changes: object) -> Evaluation:
    return evaluate(EvaluateSettings(**{"model": model, "data": data, "device": "cpu", "progress": False, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet20", "resnet20_aps3", "resnet20_aps3.onnx"])
def test_evaluation_counts_by_hand(name: str, checkpoints: dict[str, Path], data_folder: Path) -> None:
    found = run(checkpoints[name], data_folder, shifts=3, shift_images=5, batch_size=4)
    images = load_folder(data_folder / "test", CIFAR10)
    assert images.labels is not None and found.num_images == 12 and found.split == "test"
    model = load_checkpoint(checkpoints[name.removesuffix(".onnx")])
    inputs = torch.from_numpy(images.images)
    shifts = np.random.RandomState(0)
    with torch.no_grad():
        classes = model(inputs).argmax(1)
        pair = [model(inputs.roll(tuple(shifts.randint(-3, 3, 2).tolist()), (2, 3))).argmax(1) for _ in range(2)]
    assert found.accuracy_percent == pytest.approx(100 * float((classes.numpy() == images.labels).mean()))
    assert found.authors.consistency_percent == pytest.approx(100 * float((pair[0] == pair[1]).double().mean()))
    assert found.authors.pairs == (((1, 2), (-3, 0)),), "the authors' first draw of seed 0"
    assert found.consistency is not None and found.consistency.num_pairs == 15
    assert found.runtime == ("onnxruntime" if name.endswith(".onnx") else "torch")
    if "aps" in name:
        assert found.authors.consistency_percent == found.consistency.top1_percent == 100
        assert found.consistency.identical_pairs_percent == 100 and found.consistency.max_logit_change == 0
    else:
        assert found.consistency.identical_pairs_percent < 100 and found.consistency.max_logit_change > 0
    json.dumps(found.to_dict(), allow_nan=False)
    assert dict(found.rows())["accuracy"] == f"{found.accuracy_percent:.2f} %"


def test_shifts_by_cropping_are_measured_but_not_promised(checkpoints: dict[str, Path], data_folder: Path) -> None:
    found = run(checkpoints["resnet20_aps3.onnx"], data_folder, protocol="cifar-crop", shifts="none")
    assert found.authors.protocol.shift == "crop" and found.authors.to_dict()["protocol"]["name"] == "cifar-crop"
    assert any("cifar-crop" in name for name, _ in found.rows())


def test_group_of_shifts_and_none(checkpoints: dict[str, Path], data_folder: Path) -> None:
    group = run(checkpoints["resnet20_aps3"], data_folder, images=6, shift_images=2)
    assert group.num_images == 6 and group.shifts is not None and len(group.shifts) == 15
    none = run(checkpoints["resnet20_aps3"], data_folder, images=3, shifts="none")
    assert none.shifts is None and none.consistency is None and len(none.rows()) == 4


def test_a_strided_network_is_tried_on_the_group_of_its_strides_too(
    checkpoints: dict[str, Path], data_folder: Path
) -> None:
    strided = run(checkpoints["resnet20"], data_folder, images=3, shift_images=1).shifts
    aps = run(checkpoints["resnet20_aps3.onnx"], data_folder, images=3, shift_images=1).shifts
    assert strided == aps is not None


def test_labels_that_cannot_be_told_are_not_guessed(
    data_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without names, the first of a thousand classes is not the first of three folders."""
    for num_classes in (3, 1000):
        model = create_model("resnet20", num_classes=num_classes)
        path = save_checkpoint(tmp_path / f"{num_classes}.safetensors", model, preprocessing=CIFAR10)
        found = run(path, data_folder, images=3, shifts="none")
        assert (found.accuracy_percent is None) == (num_classes == 1000)
    assert "the model has 1000 classes and no names for them" in caplog.text and "has 3 classes" in caplog.text


def test_splits(tmp_path: Path) -> None:
    def found(split: str, **changes: object) -> tuple[str, int]:
        images = find_evaluation_images(
            tmp_path, split, CIFAR10, class_names=None, num_classes=None, limit=None, seed=0
        )
        return images.split, len(images)

    write_class_folders(tmp_path / "train", per_class=2)
    with pytest.raises(InputError, match="holds only train/; say --split train"):
        found("auto")
    with pytest.raises(InputError, match=r"--split is val, but .* holds train"):
        found("val")
    assert found("train") == ("train", 6)
    write_class_folders(tmp_path / "val", per_class=1)
    assert found("auto") == ("val", 3)
    inner = find_evaluation_images(
        tmp_path / "val", "auto", CIFAR10, class_names=None, num_classes=None, limit=2, seed=0
    )
    assert inner.split == "all" and len(inner) == 2
    with pytest.raises(InputError, match="does not exist"):
        find_evaluation_images(
            tmp_path / "none", "auto", CIFAR10, class_names=None, num_classes=None, limit=None, seed=0
        )


def test_the_archive_of_cifar_is_labelled_by_the_names_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CIFAR_FOLDER).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    archive = CifarPart(pixels, np.array([0, 1, 0, 1, 0, 1, 0, 0]), ["airplane", "car"])
    monkeypatch.setattr("aps_deploy.training.evaluation_images.read_cifar", lambda folder, part: archive)

    def found(split: str = "auto", limit: int | None = None, **network: Any) -> EvaluationImages:
        network = {"class_names": None, "num_classes": 2, **network}
        return find_evaluation_images(tmp_path, split, CIFAR10, limit=limit, seed=0, **network)

    assert found().labels.tolist() == archive.labels.tolist() and found().split == "test"
    reversed_names = found(class_names=["car", "tree", "airplane"], num_classes=3).labels
    assert reversed_names.tolist() == [2, 0, 2, 0, 2, 0, 2, 2]
    assert found(num_classes=1000).labels is None
    with pytest.raises(InputError, match="not classes of the model"):
        found(class_names=["tree", "airplane"])
    some = found(limit=4)
    assert sorted(some.labels.tolist()) == [0, 0, 1, 1], "spread over the classes"
    assert some.read([1]).tobytes() == CIFAR10.apply(Image.fromarray(some.pixels[1]))[None].tobytes()
    with pytest.raises(InputError, match=r"--split is val, but .* CIFAR-10, which has train and test"):
        found("val")


def test_reading_in_slices_is_reading_all(data_folder: Path) -> None:
    images = find_evaluation_images(
        data_folder, "test", CIFAR10, class_names=CLASSES, num_classes=3, limit=None, seed=0
    )
    whole = load_folder(data_folder / "test", CIFAR10).images
    lazy = images.as_array()
    assert len(lazy) == 12 and np.array_equal(np.concatenate([lazy[0:5], lazy[5:12]]), whole)
    sample = images.sample(4, seed=1)
    positions = [images.paths.index(path) for path in sample.paths]
    assert positions == sorted(positions) and np.array_equal(sample.as_array()[0:4], whole[positions])
    assert sample.labels is not None and images.labels is not None
    assert np.array_equal(sample.labels, images.labels[positions])


def test_foreign_classes_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    write_class_folders(tmp_path / "test", per_class=1)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "purple")
    with pytest.raises(InputError, match="purple"):
        run(checkpoints["resnet20"], tmp_path)


def test_train_evaluate_takes_a_run_or_weights(checkpoints: dict[str, Path], data_folder: Path, tmp_path: Path) -> None:
    model = load_checkpoint(checkpoints["resnet20"])
    foreign = tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict()}, foreign)
    expected = run(checkpoints["resnet20"], data_folder)
    ours = evaluate_run(TrainSettings(evaluate=True, weights=checkpoints["resnet20"], data=data_folder, device="cpu"))
    assert ours.accuracy_percent == expected.accuracy_percent
    assert ours.authors.consistency_percent == expected.authors.consistency_percent
    with pytest.raises(InputError, match=r"--criterion is l1, but .*resnet20\.safetensors says itself what it is"):
        evaluate_run(TrainSettings(evaluate=True, weights=checkpoints["resnet20"], data=data_folder, criterion="l1"))
    with pytest.raises(InputError, match=r"best\.safetensors does not exist"):
        evaluate_run(TrainSettings(evaluate=True, resume=True, out_dir=tmp_path, data=data_folder))
    others = evaluate_run(TrainSettings(evaluate=True, weights=foreign, arch="resnet20", data=data_folder))
    assert others.accuracy_percent == expected.accuracy_percent and others.architecture == "resnet20"
    with pytest.raises(InputError, match=r"none\.pth does not exist"):
        evaluate_run(TrainSettings(evaluate=True, weights=tmp_path / "none.pth", data=data_folder))


@pytest.mark.parametrize("name", ["images", "shift_images", "batch_size"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is 0"):
        EvaluateSettings(model="m.onnx", data=Path("d"), **{name: 0})  # type: ignore[arg-type]
