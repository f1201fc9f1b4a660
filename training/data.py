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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import Preprocessing, load_image
from aps_deploy.training.images import LabelledImages, MemoryImages, open_images
from aps_deploy.training.recipes import Recipe

_LOGGER = logging.getLogger(__name__)

_CIFAR_FOLDER = "cifar-10-batches-py"
_LAYOUT = "train/<class>/*.jpg with val/<class>/*.jpg or test/<class>/*.jpg, or torchvision's " + _CIFAR_FOLDER


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
    elif (folder / _CIFAR_FOLDER).is_dir() or download:
        parts, class_names = _read_cifar(folder, preprocessing, download=download)
    else:
        raise missing_data(folder)
    return _split(parts, class_names, preprocessing, recipe.holdout, max_train_images)


def load_split(
    folder: Path, split: str, preprocessing: Preprocessing, *, workers: int
) -> tuple[LabelledImages, list[str]]:
    """Return the images of one split of a data folder and its class names.

    Args:
        folder: As for `load_data`, or a plain folder of class folders.
        split: `train`, `val` or `test`; or `auto`: test, else val, else the folder's own class folders.
        preprocessing: That of the network to evaluate.
        workers: Loader processes for large images.

    Raises:
        InputError: there is no such split, or a file in it is no image.
    """
    if (folder / _CIFAR_FOLDER).is_dir():
        parts, class_names = _read_cifar(folder, preprocessing, download=False)
        return parts["train" if split == "train" else "test"], class_names
    candidates = ("test", "val", ".") if split == "auto" else (split,)
    for name in candidates:
        if (folder / name).is_dir() and (name != "." or _has_class_folders(folder)):
            paths, labels, class_names = list_class_folders(folder / name)
            return open_images(paths, labels, preprocessing, workers=workers), class_names
    raise missing_data(folder)


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return the preprocessing that a recipe describes."""
    return Preprocessing(recipe.image_size, recipe.resize, recipe.mean, recipe.std)


def missing_data(folder: Path) -> InputError:
    """Return the error for a folder without images, with the layout that is expected."""
    state = "holds no images in a known layout" if folder.is_dir() else "does not exist"
    return InputError(
        f"the data folder {folder} {state}; expected is {_LAYOUT} (add --download to fetch CIFAR-10 into it)."
    )


def list_class_folders(root: Path) -> tuple[list[Path], Tensor, list[str]]:
    """Return the image files below `root`, their labels (N,) int64, and the class names: its sorted folders."""
    from torchvision.datasets import ImageFolder

    try:
        listing = ImageFolder(str(root))
    except FileNotFoundError as error:
        raise InputError(f"{root} must hold one folder of images per class ({error}).") from None
    paths = [Path(path) for path, _ in listing.samples]
    return paths, torch.tensor(listing.targets, dtype=torch.int64), listing.classes


def _has_class_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir())


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


def _read_cifar(
    folder: Path, preprocessing: Preprocessing, *, download: bool
) -> tuple[dict[str, LabelledImages], list[str]]:
    from torchvision.datasets import CIFAR10

    if preprocessing.image_size != 32:
        raise InputError(f"--image-size is {preprocessing.image_size}, but CIFAR-10 images are 32 x 32 pixels.")
    parts: dict[str, LabelledImages] = {}
    class_names: list[str] = []
    for name in ("train", "test"):
        try:
            listing = CIFAR10(str(folder), train=name == "train", download=download)
        except (OSError, RuntimeError) as error:
            raise InputError(f"CIFAR-10 cannot be read from {folder} ({error}); expected is {_LAYOUT}.") from error
        pixels = torch.from_numpy(listing.data).permute(0, 3, 1, 2).contiguous()
        parts[name] = MemoryImages(pixels, torch.tensor(listing.targets, dtype=torch.int64))
        class_names = listing.classes
    return parts, class_names


def _split(
    parts: dict[str, LabelledImages],
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
