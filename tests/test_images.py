"""Image folders against torchvision's ImageFolder, and the subsets and sentences of our own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from aps_deploy.errors import InputError
from aps_deploy.images import (
    IMAGE_EXTENSIONS,
    find_images,
    find_images_anywhere,
    list_folder,
    load_folder,
    load_images,
)
from aps_deploy.preprocessing import CIFAR10, load_image

SIZES = {"cat": 9, "Dog": 4, "ape": 6}


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A class tree with nested folders, several extensions and files that are no images."""
    seed = 0
    for name, count in SIZES.items():
        for number in range(count):
            folder = tmp_path / name / ("deep/er" if number % 3 == 2 else "")
            suffix = [".png", ".JPG", ".bmp"][number % 3]
            write_image(folder / f"{10 - number}{suffix}", seed := seed + 1)
        (tmp_path / name / "notes.txt").write_text("no image")
    write_image(tmp_path / "beside.png")
    return tmp_path


def test_extensions_are_torchvisions() -> None:
    assert IMAGE_EXTENSIONS == IMG_EXTENSIONS


def test_tree_is_read_as_image_folder_reads_it(tree: Path) -> None:
    theirs = ImageFolder(str(tree))
    ours = list_folder(tree)
    assert [str(path) for path in ours.paths] == [path for path, _ in theirs.samples]
    assert ours.labels is not None and ours.labels.dtype == np.int64
    assert ours.labels.tolist() == theirs.targets
    assert ours.class_names == tuple(theirs.classes) == ("Dog", "ape", "cat")


def test_find_images_names_the_class_of_every_file(tree: Path) -> None:
    counts = Counter(name for _, name in find_images(tree))
    assert counts == Counter(SIZES)
    assert all(name in path.parts for path, name in find_images(tree) if name)


def test_hidden_folders_are_no_classes(tree: Path) -> None:
    write_image(tree / ".thumbnails" / "small.png")
    (tree / ".empty").mkdir()
    assert list_folder(tree).class_names == ("Dog", "ape", "cat")


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "empty").mkdir()
    images = load_folder(tmp_path, CIFAR10)
    assert images.labels is None
    assert images.class_names is None
    assert [path.name for path in images.paths] == ["1.png", "2.png", "3.png"]


def test_load_folder_decodes_every_image_in_order(tree: Path) -> None:
    images = load_folder(tree, CIFAR10)
    assert images.images.shape == (sum(SIZES.values()), 3, 32, 32)
    assert images.images.dtype == np.float32
    for position, path in enumerate(images.paths):
        np.testing.assert_array_equal(images.images[position], CIFAR10.apply(load_image(path)))


@pytest.mark.parametrize("num_workers", [None, 1, 4])
def test_number_of_threads_changes_nothing(tree: Path, num_workers: int | None) -> None:
    paths = list_folder(tree).paths
    expected = np.stack([CIFAR10.apply(load_image(path)) for path in paths])
    np.testing.assert_array_equal(load_images(paths, CIFAR10, num_workers=num_workers), expected)


def test_images_anywhere_are_those_of_every_folder(tree: Path, tmp_path: Path) -> None:
    paths = find_images_anywhere(tree)
    assert set(paths) == {*list_folder(tree).paths, tree / "beside.png"}
    assert paths == sorted(set(paths), key=lambda path: (str(path.parent), path.name))
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none", "beside.png"):
        with pytest.raises(InputError, match=name):
            find_images_anywhere(tmp_path / name)


@pytest.mark.parametrize(
    ("limit", "counts"),
    [(3, [1, 1, 1]), (6, [2, 2, 2]), (12, [4, 4, 4]), (15, [4, 5, 6]), (19, [4, 6, 9]), (500, [4, 6, 9])],
)
def test_subset_is_even_over_the_classes(tree: Path, limit: int, counts: list[int]) -> None:
    listing = list_folder(tree, limit=limit, seed=1)
    assert listing.labels is not None
    per_class = np.bincount(listing.labels, minlength=3).tolist()
    assert sum(per_class) == min(limit, 19)
    # Dog, ape, cat have 4, 6 and 9 images; where all have enough, the counts differ by one at most.
    if limit != 15:
        assert per_class == counts
    else:
        assert per_class[0] == 4 and sorted(per_class[1:]) == [5, 6]


def test_subset_smaller_than_the_classes_takes_different_ones_by_seed(tree: Path) -> None:
    chosen = {list_folder(tree, limit=1, seed=seed).paths[0].relative_to(tree).parts[0] for seed in range(20)}
    assert chosen == set(SIZES)


def test_subset_is_seeded_nested_and_in_folder_order(tree: Path) -> None:
    everything = list_folder(tree).paths
    for seed in range(3):
        previous: set[Path] = set()
        for limit in range(1, 20):
            paths = list_folder(tree, limit=limit, seed=seed).paths
            assert paths == list_folder(tree, limit=limit, seed=seed).paths
            assert list(paths) == [path for path in everything if path in set(paths)]
            assert previous < set(paths)
            previous = set(paths)
    assert list_folder(tree, limit=6, seed=0).paths != list_folder(tree, limit=6, seed=1).paths


def test_subset_keeps_labels_with_their_images(tree: Path) -> None:
    listing = list_folder(tree, limit=7, seed=3)
    assert listing.labels is not None and listing.class_names is not None
    for path, label in zip(listing.paths, listing.labels, strict=True):
        assert listing.class_names[label] in path.parts


def test_flat_subset_is_seeded(tmp_path: Path) -> None:
    for number in range(8):
        write_image(tmp_path / f"{number}.png", number)
    assert len(list_folder(tmp_path, limit=3).paths) == 3
    assert list_folder(tmp_path, limit=3, seed=0).paths == list_folder(tmp_path, limit=3, seed=0).paths


def test_labels_follow_the_models_class_names(tree: Path) -> None:
    names = ("cat", "zebra", "ape", "Dog")
    listing = list_folder(tree, class_names=names)
    assert listing.class_names == names
    assert listing.labels is not None
    for path, label in zip(listing.paths, listing.labels, strict=True):
        assert names[label] in path.parts


def test_classes_unknown_to_the_model_are_refused(tree: Path) -> None:
    with pytest.raises(InputError, match=r"1 of its 3 class folders.*\(Dog; the model has ape, cat, dog\)"):
        list_folder(tree, class_names=("ape", "cat", "dog"))


def test_folder_one_level_too_high_is_pointed_out(tmp_path: Path) -> None:
    for part in ("test", "train"):
        for name in SIZES:
            write_image(tmp_path / part / name / "1.png")
    with pytest.raises(InputError) as caught:
        list_folder(tmp_path, class_names=("ape", "cat", "Dog"))
    assert f"did you mean {tmp_path / 'test'} or {tmp_path / 'train'}?" in str(caught.value)


def test_empty_class_folders_are_refused(tree: Path) -> None:
    (tree / "bee").mkdir()
    (tree / "eel").mkdir()
    with pytest.raises(InputError, match="bee, eel hold no images"):
        find_images(tree)


def test_missing_empty_and_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no images; accepted are \.jpg"):
        find_images(tmp_path)
    (tmp_path / "file.png").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        find_images(tmp_path / "file.png")


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_must_be_positive(tree: Path, limit: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        list_folder(tree, limit=limit)


def test_first_damaged_image_is_named(tree: Path) -> None:
    paths = list_folder(tree).paths
    for position in (5, 11):
        paths[position].write_bytes(paths[position].read_bytes()[:100])
    with pytest.raises(InputError, match=paths[5].name):
        load_folder(tree, CIFAR10)
