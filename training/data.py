"""From a folder to the training, validation and test images of a run.

Accepted are a tree of class folders (torchvision's ImageFolder layout), shards and torchvision's CIFAR-10 archive:

    DATA/train/<class>/*.jpg    DATA/val/<class>/*.jpg    DATA/test/<class>/*.jpg      (val, test or both)
    DATA/train/*.tar                DATA/val/*.tar                DATA/test/*.tar                (see `shards`)
    DATA/cifar-10-batches-py/

Validation images are `val/`; else the last `holdout` of the shuffled training images (the authors' split); else, as
a curve to look at only, the test images: no checkpoint is ever chosen by the test set.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aps_deploy.errors import InputError
from aps_deploy.images import list_folder
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.training.cifar import CIFAR_FOLDER, CIFAR_PARTS, CifarPart, read_cifar
from aps_deploy.training.image_files import open_images
from aps_deploy.training.images import LabelledImages, MemoryImages
from aps_deploy.training.recipes import Recipe
from aps_deploy.training.shards import class_names_of, find_shards, read_shards
from aps_deploy.training.sources import Source, load_source, too_many_unreadable

_LOGGER = logging.getLogger(__name__)

LAYOUT = (
    "train/<class>/*.jpg with val/<class>/*.jpg or test/<class>/*.jpg, shards train/*.tar with val/*.tar or "
    "test/*.tar, or torchvision's " + CIFAR_FOLDER
)


@dataclass(frozen=True)
class TrainData:
    """The images of a run and what is needed to feed others to the trained network."""

    train: LabelledImages
    validation: LabelledImages | None
    test: LabelledImages | None
    class_names: list[str]
    preprocessing: Preprocessing
    validation_is_test: bool
    """Validation only shows the curve: the best checkpoint must not be chosen by it."""


@dataclass(frozen=True)
class FoundData:
    """A data folder that was looked through: its classes are known, its images are not decoded yet."""

    class_names: list[str]
    preprocessing: Preprocessing
    parts: Mapping[str, Callable[[], LabelledImages]]
    """What reads the `train`, `val` and `test` images that there are."""
    recipe: Recipe

    def load(self, *, max_train_images: int | None = None) -> TrainData:
        """Return the images, decoded where they are held in memory.

        Args:
            max_train_images: Keep only the first of the shuffled training images.

        Raises:
            InputError: a file is no image, or there are no more training images than are to be held out.
        """
        parts = {name: read() for name, read in self.parts.items()}
        return _split(parts, self.class_names, self.preprocessing, self.recipe, max_train_images)


def find_data(folder: Path, recipe: Recipe, *, download: bool = False) -> FoundData:
    """Return what a data folder holds.

    Args:
        folder: A tree of class folders, or a folder that holds (or, with `download`, receives) CIFAR-10.
        recipe: Image size, normalisation, held-out images and loader processes.
        download: Fetch CIFAR-10 with torchvision when `folder` holds no images.

    Raises:
        InputError: the folder is missing or has another layout.
    """
    preprocessing = preprocessing_of(recipe)
    if (folder / "train").is_dir():
        return (_find_shards if find_shards(folder / "train") else _find_tree)(folder, preprocessing, recipe)
    if (folder / CIFAR_FOLDER).is_dir() or download:
        return _find_cifar(folder, preprocessing, recipe, download=download)
    raise missing_data(folder)


def load_data(
    folder: Path, recipe: Recipe, *, download: bool = False, max_train_images: int | None = None
) -> TrainData:
    """Return the images of a run; see `find_data` and `FoundData.load`."""
    return find_data(folder, recipe, download=download).load(max_train_images=max_train_images)


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return the preprocessing that a recipe describes."""
    return Preprocessing(recipe.image_size, recipe.resize, recipe.mean, recipe.std)


def missing_data(folder: Path) -> InputError:
    """Return the error for a folder without images, with the layout that is expected."""
    state = "holds no images in a known layout" if folder.is_dir() else "does not exist"
    return InputError(
        f"the data folder {folder} {state}; expected is {LAYOUT} (add --download to fetch CIFAR-10 into it)."
    )


def list_class_folders(root: Path) -> tuple[list[Path], Tensor, list[str]]:
    """Return the image files below `root`, their labels (N,) int64, and the class names: its sorted folders.

    Raises:
        InputError: there are no images, or they are not in class folders.
    """
    listing = list_folder(root)
    if listing.labels is None or listing.class_names is None:
        raise InputError(f"the images of {root} lie directly in it; training needs one folder per class ({LAYOUT}).")
    return list(listing.paths), torch.from_numpy(listing.labels), list(listing.class_names)


def _find_tree(folder: Path, preprocessing: Preprocessing, recipe: Recipe) -> FoundData:
    listings = {
        name: list_class_folders(folder / name) for name in ("train", "val", "test") if (folder / name).is_dir()
    }
    class_names = listings["train"][2]
    for name, (_, _, names) in listings.items():
        if names != class_names:
            odd_one = sorted(set(names) ^ set(class_names))[0]
            raise InputError(
                f"{folder / name} and {folder / 'train'} must hold the same class folders; {odd_one} is in one only."
            )
    found = {name: (paths, labels) for name, (paths, labels, _) in listings.items()}
    return _found(found, class_names, preprocessing, recipe)


def _find_shards(folder: Path, preprocessing: Preprocessing, recipe: Recipe) -> FoundData:
    parts = {name: find_shards(folder / name) for name in ("train", "val", "test")}
    found = {name: read_shards(shards) for name, shards in parts.items() if shards}
    class_names = class_names_of(folder, np.concatenate([labels for _, labels in found.values()]))
    listings = {name: (members, torch.from_numpy(labels)) for name, (members, labels) in found.items()}
    return _found(listings, class_names, preprocessing, recipe)


def _found(
    listings: Mapping[str, tuple[Sequence[Source], Tensor]],
    class_names: list[str],
    preprocessing: Preprocessing,
    recipe: Recipe,
) -> FoundData:
    """Return what reads the images of each part."""
    side, limit = preprocessing.image_size, recipe.max_unreadable_images
    size = _size_of_first(listings["train"][0], limit)
    if preprocessing.resize is None and size != (side, side):
        _LOGGER.info("images are %d x %d: resized and cropped to %d x %d", *size, side, side)
        preprocessing = dataclasses.replace(preprocessing, resize=side)
    parts = {
        name: partial(
            open_images,
            sources,
            labels,
            preprocessing,
            workers=recipe.workers,
            crops_at_random=recipe.random_resized_crop and name == "train",
            max_unreadable=limit,
        )
        for name, (sources, labels) in listings.items()
    }
    return FoundData(class_names, preprocessing, parts, recipe)


def _size_of_first(sources: Sequence[Source], max_unreadable: int) -> tuple[int, int]:
    """Return width and height in pixels of the first image that can be read."""
    unreadable: list[str] = []
    for source in sources:
        try:
            return load_source(source).size
        except InputError as error:
            unreadable.append(str(error))
        if len(unreadable) > max_unreadable:
            break
    raise too_many_unreadable(unreadable, max_unreadable)


def _find_cifar(folder: Path, preprocessing: Preprocessing, recipe: Recipe, *, download: bool) -> FoundData:
    if preprocessing.image_size != 32:
        raise InputError(f"--image-size is {preprocessing.image_size}, but CIFAR-10 images are 32 x 32 pixels.")
    if recipe.random_resized_crop:
        raise InputError("--random-resized-crop needs image files or shards; for CIFAR-10, use --crop-padding 4.")
    archives = {name: read_cifar(folder, name, download=download) for name in CIFAR_PARTS}
    parts: dict[str, Callable[[], LabelledImages]] = {
        name: partial(_cifar_images, archive) for name, archive in archives.items()
    }
    return FoundData(archives["train"].class_names, preprocessing, parts, recipe)


def _cifar_images(archive: CifarPart) -> MemoryImages:
    pixels = torch.from_numpy(archive.pixels).permute(0, 3, 1, 2).contiguous()
    return MemoryImages(pixels, torch.from_numpy(archive.labels))


def _split(
    parts: Mapping[str, LabelledImages],
    class_names: list[str],
    preprocessing: Preprocessing,
    recipe: Recipe,
    max_train_images: int | None,
) -> TrainData:
    train, validation, test = parts["train"], parts.get("val"), parts.get("test")
    held_out = recipe.num_held_out(len(train)) if validation is None else 0
    if held_out >= len(train):
        raise InputError(
            f"{held_out} images are to be held out, but there are only {len(train)} training images; give another "
            "--holdout or --train-split."
        )
    if held_out or max_train_images is not None:
        order = split_order(len(train))
        kept = order[: len(train) - held_out]
        if held_out:
            validation = train.subset(order[len(train) - held_out :])
        train = train.subset(kept[:max_train_images])
    validation_is_test = validation is None
    return TrainData(
        train, test if validation_is_test else validation, test, class_names, preprocessing, validation_is_test
    )


def split_order(num_images: int) -> Tensor:
    """Return the shuffled image numbers (N,) int64 that the authors split: numpy's legacy shuffle with seed 0."""
    order = np.arange(num_images)
    np.random.RandomState(0).shuffle(order)
    return torch.from_numpy(order)
