"""From a folder to the training, validation and test images of a run.

Accepted are a tree of class folders (torchvision's ImageFolder layout) and torchvision's CIFAR-10 archive:

    DATA/train/<class>/*.jpg    DATA/val/<class>/*.jpg    DATA/test/<class>/*.jpg      (val, test or both)
    DATA/cifar-10-batches-py/

Validation images are `val/`; else the last `holdout` of the shuffled training images (the authors' split); else, as
a curve to look at only, the test images: no checkpoint is ever chosen by the test set.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aps_deploy.errors import InputError
from aps_deploy.images import list_folder
from aps_deploy.preprocessing import Preprocessing, load_image
from aps_deploy.training.images import LabelledImages, MemoryImages, open_images
from aps_deploy.training.recipes import Recipe

_LOGGER = logging.getLogger(__name__)

CIFAR_FOLDER = "cifar-10-batches-py"
LAYOUT = "train/<class>/*.jpg with val/<class>/*.jpg or test/<class>/*.jpg, or torchvision's " + CIFAR_FOLDER


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


def load_data(
    folder: Path, recipe: Recipe, *, download: bool = False, max_train_images: int | None = None
) -> TrainData:
    """Return the images of a run.

    Args:
        folder: A tree of class folders, or a folder that holds (or, with `download`, receives) CIFAR-10.
        recipe: Image size, normalisation, held-out images and loader processes.
        download: Fetch CIFAR-10 with torchvision when `folder` holds no images.
        max_train_images: Keep only the first of the shuffled training images.

    Raises:
        InputError: the folder is missing or has another layout, or a file in it is no image.
    """
    preprocessing = preprocessing_of(recipe)
    if (folder / "train").is_dir():
        preprocessing, parts, class_names = _read_tree(folder, preprocessing, recipe.workers)
        return _split(parts, class_names, preprocessing, recipe.holdout, max_train_images)
    if (folder / CIFAR_FOLDER).is_dir() or download:
        cifar, class_names = read_cifar(folder, preprocessing, download=download)
        return _split(cifar, class_names, preprocessing, recipe.holdout, max_train_images)
    raise missing_data(folder)


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


def _read_tree(
    folder: Path, preprocessing: Preprocessing, workers: int
) -> tuple[Preprocessing, dict[str, LabelledImages], list[str]]:
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
    first = load_image(listings["train"][0][0])
    side = preprocessing.image_size
    if preprocessing.resize is None and first.size != (side, side):
        _LOGGER.info("images are %d x %d: resized and cropped to %d x %d", *first.size, side, side)
        preprocessing = dataclasses.replace(preprocessing, resize=side)
    parts = {
        name: open_images(paths, labels, preprocessing, workers=workers)
        for name, (paths, labels, _) in listings.items()
    }
    return preprocessing, parts, class_names


def read_cifar(
    folder: Path, preprocessing: Preprocessing, *, download: bool
) -> tuple[dict[str, MemoryImages], list[str]]:
    """Return the `train` and `test` images of torchvision's CIFAR-10 and its class names.

    Raises:
        InputError: another image size is asked for, or the archive cannot be read or fetched.
    """
    from torchvision.datasets import CIFAR10

    if preprocessing.image_size != 32:
        raise InputError(f"--image-size is {preprocessing.image_size}, but CIFAR-10 images are 32 x 32 pixels.")
    parts: dict[str, MemoryImages] = {}
    class_names: list[str] = []
    for name in ("train", "test"):
        try:
            listing = CIFAR10(str(folder), train=name == "train", download=download)
        except (OSError, RuntimeError) as error:
            raise InputError(f"CIFAR-10 cannot be read from {folder} ({error}); expected is {LAYOUT}.") from error
        pixels = torch.from_numpy(listing.data).permute(0, 3, 1, 2).contiguous()
        parts[name] = MemoryImages(pixels, torch.tensor(listing.targets, dtype=torch.int64))
        class_names = listing.classes
    return parts, class_names


def _split(
    parts: Mapping[str, LabelledImages],
    class_names: list[str],
    preprocessing: Preprocessing,
    holdout: int,
    max_train_images: int | None,
) -> TrainData:
    train, validation, test = parts["train"], parts.get("val"), parts.get("test")
    held_out = holdout if validation is None else 0
    if held_out >= len(train):
        raise InputError(
            f"--holdout is {held_out}, but there are only {len(train)} training images; give a smaller one."
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
