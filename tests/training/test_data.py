"""Folders become the right images, labels and splits, and wrong folders one sentence."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import IMAGENET
from aps_deploy.training.data import load_data, preprocessing_of, split_order
from aps_deploy.training.image_files import FileImages, open_images
from aps_deploy.training.images import UNREADABLE, MemoryImages
from aps_deploy.training.outputs import owned_out_dir
from aps_deploy.training.recipes import RECIPES
from tests.training.conftest import CLASSES, write_class_folders

FAST = RECIPES["fast"]
FAST_PREPROCESSING = preprocessing_of(FAST)


def test_the_authors_split() -> None:
    order = split_order(50000)
    assert order[:5].tolist() == [11841, 19602, 45519, 25747, 42642]
    assert order[45000:45005].tolist() == [43726, 16118, 49381, 35715, 14489]
    assert torch.equal(order.sort().values, torch.arange(50000))


def test_tree_is_imagefolder(data_folder: Path) -> None:
    data = load_data(data_folder, FAST)
    reference = ImageFolder(str(data_folder / "train"))
    assert data.class_names == reference.classes == list(CLASSES)
    assert data.train.labels.tolist() == reference.targets
    assert isinstance(data.train, MemoryImages)
    for position in (0, 20, 47):
        pixels = np.asarray(reference[position][0]).transpose(2, 0, 1)
        assert np.array_equal(data.train.images[position].numpy(), pixels)
    assert data.validation is data.test and data.validation_is_test


def test_holdout_is_the_end_of_the_shuffle(data_folder: Path) -> None:
    whole = load_data(data_folder, FAST)
    data = load_data(data_folder, dataclasses.replace(FAST, holdout=10))
    assert isinstance(whole.train, MemoryImages)
    assert isinstance(data.train, MemoryImages) and isinstance(data.validation, MemoryImages)
    order = split_order(48)
    assert torch.equal(data.train.images, whole.train.images[order[:38]])
    assert torch.equal(data.validation.images, whole.train.images[order[38:]])
    assert not data.validation_is_test and data.test is not None and len(data.test) == 12
    fewer = load_data(data_folder, dataclasses.replace(FAST, holdout=10), max_train_images=5)
    assert isinstance(fewer.train, MemoryImages) and torch.equal(fewer.train.images, data.train.images[:5])


def test_a_share_for_training_holds_out_the_rest(data_folder: Path) -> None:
    share = load_data(data_folder, dataclasses.replace(FAST, train_split=0.75))
    number = load_data(data_folder, dataclasses.replace(FAST, holdout=12))
    assert (len(share.train), len(number.train)) == (36, 36)
    assert torch.equal(share.train.labels, number.train.labels)


def test_validation_folder_wins_over_holdout(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        write_class_folders(tmp_path / part, per_class=count)
    data = load_data(tmp_path, dataclasses.replace(FAST, holdout=3))
    assert len(data.train) == 12 and data.validation is not None and len(data.validation) == 6
    assert data.test is None and not data.validation_is_test


def test_larger_images_are_resized(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", per_class=1, side=50)
    data = load_data(tmp_path, FAST)
    assert data.preprocessing.resize == data.preprocessing.image_size == 32
    assert isinstance(data.train, MemoryImages)
    with Image.open(tmp_path / "train" / "blue" / "000.png") as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(data.train.images[0].numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_and_memory_hand_out_the_same(data_folder: Path, workers: int) -> None:
    data = load_data(data_folder, FAST)
    paths = [Path(path) for path, _ in ImageFolder(str(data_folder / "train")).samples]
    files = FileImages(paths, data.train.labels, data.preprocessing, workers=workers)
    batches = list(torch.randperm(48).split(20))
    for first, second in zip(data.train.batches(batches), files.batches(batches), strict=True):
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    part = files.subset(torch.tensor([3, 1]))
    assert part.labels.tolist() == data.train.labels[[3, 1]].tolist() and part.sources == [paths[3], paths[1]]
    assert list(files.batches([])) == []


def test_large_images_stay_on_disk(data_folder: Path) -> None:
    paths = [Path(path) for path, _ in ImageFolder(str(data_folder / "test")).samples]
    images = open_images(paths, torch.zeros(12, dtype=torch.int64), IMAGENET, workers=0)
    assert isinstance(images, FileImages)
    ((batch, _),) = images.batches([torch.tensor([0])])
    assert batch.shape == (1, 3, 224, 224) and batch.dtype == torch.uint8


def test_torchvisions_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(pickle.dumps({"data": pixels[number : number + 1], "labels": [number]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(number) for number in range(10)]}))
    with pytest.raises(InputError, match="CIFAR-10 cannot be read"):
        load_data(tmp_path, FAST)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    data = load_data(tmp_path, FAST)
    assert isinstance(data.train, MemoryImages) and isinstance(data.test, MemoryImages)
    assert torch.equal(data.train.images, torch.from_numpy(pixels[:5].reshape(5, 3, 32, 32)))
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4] and data.test.labels.tolist() == [5]
    with pytest.raises(InputError, match="--image-size is 64, but CIFAR-10"):
        load_data(tmp_path, dataclasses.replace(FAST, image_size=64))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with owned_out_dir(folder, is_new=True):
        with pytest.raises(InputError, match="another process is training into"), owned_out_dir(folder, is_new=False):
            pass
        (folder / "last.pt").touch()
    with owned_out_dir(folder, is_new=False):
        assert [path.name for path in folder.iterdir()] == ["last.pt"], "the lock is no file"
    with pytest.raises(InputError, match="exists and is not empty"), owned_out_dir(folder, is_new=True):
        pass


def test_wrong_folders(tmp_path: Path, data_folder: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; expected is train/<class>"):
        load_data(tmp_path / "none", FAST)
    with pytest.raises(InputError, match=r"holds no images in a known layout; expected is train/<class>"):
        load_data(tmp_path, FAST)
    with pytest.raises(InputError, match=r"48 images are to be held out, but there are only 48"):
        load_data(data_folder, dataclasses.replace(FAST, holdout=48))
    write_class_folders(tmp_path / "train", per_class=1)
    write_class_folders(tmp_path / "test", per_class=1)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "purple")
    with pytest.raises(InputError, match="same class folders; purple is in one only"):
        load_data(tmp_path, FAST)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", per_class=2)
    broken = tmp_path / "train" / "green" / "001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"green/001\.png cannot be read"):
        load_data(tmp_path, FAST)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named_by_the_loader_too(tmp_path: Path, workers: int) -> None:
    write_class_folders(tmp_path, per_class=2)
    paths = sorted(tmp_path.rglob("*.png"))
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    files = FileImages(paths, torch.arange(6), FAST_PREPROCESSING, workers=workers)
    batches = files.batches(list(torch.arange(6).split(2)))
    assert next(batches)[1].tolist() == [0, 1]
    assert next(batches)[1].tolist() == [2, UNREADABLE]
    (message,) = files.unreadable
    assert re.fullmatch(r"image .*green/001\.png cannot be read \(.*\); accepted are .*\.", message)
