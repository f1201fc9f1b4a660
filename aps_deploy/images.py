"""Folders of images as arrays, with or without class folders, without torch.

A folder whose subfolders hold images is a class tree, read as torchvision's ``ImageFolder`` reads it: the classes are
the sorted names of the subfolders, each is walked recursively in sorted order, files are chosen by their extension
and those beside the class folders are ignored. A folder of images without such subfolders has no labels.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import Preprocessing, load_image

_LOGGER = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of image files, in any case: torchvision's ``IMG_EXTENSIONS``."""


@dataclasses.dataclass(frozen=True)
class ImageListing:
    """The images of a folder, not yet decoded.

    Attributes:
        paths: the N files.
        labels: (N,) int64 class indices, or None for a folder without class folders.
        class_names: one name per class index; None where neither the folder nor the model has any.
    """

    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: Sequence[int]) -> ImageListing:
        """Return the listing of the images at these positions, in their order."""
        labels = None if self.labels is None else self.labels[list(positions)]
        return ImageListing(tuple(self.paths[i] for i in positions), labels, self.class_names)


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Preprocessed images in memory.

    Attributes:
        images: (N, 3, image_size, image_size) float32, normalised.
        labels: (N,) int64 class indices, or None.
        paths: the N files.
        class_names: one name per class index, or None.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    paths: tuple[Path, ...]
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.paths)


def find_images(directory: str | os.PathLike[str]) -> list[tuple[Path, str | None]]:
    """Return every image file of a folder with the name of its class folder, or None in a folder without classes.

    Hidden subfolders are not classes. A flat folder is not searched recursively.

    Raises:
        InputError: the folder is missing, is no folder, holds no images, or some of its class folders hold none.
    """
    folder = Path(directory).expanduser()
    _check_folder(folder)
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    tree = {name: _walk_images(folder / name) for name in classes}
    if any(tree.values()):
        empty = [name for name in classes if not tree[name]]
        if empty:
            # Leaving them out would shift every later label against an ImageFolder of the same tree.
            raise InputError(
                f"{folder}: the class folders {_some(empty)} hold no images; add images ({_accepted()}) or remove them."
            )
        return [(path, name) for name in classes for path in tree[name]]
    flat = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and _is_image(entry.name))
    if not flat:
        raise InputError(
            f"{folder} holds no images; accepted are {_accepted()} files, directly in it or in one subfolder per class."
        )
    return [(folder / name, None) for name in flat]


def find_images_anywhere(directory: str | os.PathLike[str]) -> list[Path]:
    """Return every image file of a folder and of the folders in it, in sorted order, classes or not.

    Raises:
        InputError: the folder is missing, is no folder, or holds no images.
    """
    folder = Path(directory).expanduser()
    _check_folder(folder)
    paths = _walk_images(folder)
    if not paths:
        raise InputError(f"{folder} holds no images; accepted are {_accepted()} files, in it or in its subfolders.")
    return paths


def list_folder(
    directory: str | os.PathLike[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> ImageListing:
    """Return the images of a folder and their labels, without decoding any.

    Args:
        directory: a class tree or a flat folder of images.
        limit: how many images to keep, spread evenly over the classes; None keeps all. With one seed, a smaller
            limit keeps a subset of what a larger one keeps.
        seed: chooses which images are kept.
        class_names: the model's class names; labels are positions in this list. Without it, a label is the position
            of the class folder in sorted order.
        num_classes: the model's. Where it has no class names and another number of classes than there are folders,
            no label can be told, and there are none.

    Raises:
        InputError: as `find_images`; or a class folder is not among ``class_names``; or ``limit`` is not positive.
    """
    folder = Path(directory).expanduser()
    entries = find_images(folder)
    paths = tuple(path for path, _ in entries)
    if entries[0][1] is None:
        listing = ImageListing(paths, None, None if class_names is None else tuple(class_names))
    else:
        names = [str(name) for _, name in entries]
        listing = ImageListing(paths, *labels_of(names, folder, class_names, num_classes))
    if limit is None:
        return listing
    if limit < 1:
        raise InputError(f"the number of images is {limit}; it must be at least 1.")
    return listing.take(even_subset(listing.labels, len(listing), limit, seed))


def labels_of(
    names: Sequence[str], folder: Path, class_names: Sequence[str] | None, num_classes: int | None
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return the labels (N,) int64 of images of these N classes, and the name of every label.

    Args:
        names: the class of each image.
        folder: where the images are.
        class_names: see `list_folder`.
        num_classes: see `list_folder`; both results are None where no label can be told.

    Raises:
        InputError: a class is not among ``class_names``.
    """
    ordered = _class_order(folder, names, class_names)
    if class_names is None and num_classes not in (None, len(ordered)):
        _LOGGER.warning(
            "accuracy is not measured: the model has %d classes and no names for them, %s has %d classes",
            num_classes, folder, len(ordered),
        )  # fmt: skip
        return None, None
    position = {name: index for index, name in enumerate(ordered)}
    return np.asarray([position[name] for name in names], np.int64), ordered


def load_folder(
    directory: str | os.PathLike[str],
    preprocessing: Preprocessing,
    limit: int | None = None,
    seed: int = 0,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    num_workers: int | None = None,
) -> ImageSet:
    """Return the preprocessed images of a folder, all in memory; see `list_folder` for the arguments.

    Raises:
        InputError: as `list_folder`, or an image cannot be read.
    """
    listing = list_folder(directory, limit=limit, seed=seed, class_names=class_names, num_classes=num_classes)
    images = load_images(listing.paths, preprocessing, num_workers=num_workers)
    return ImageSet(images, listing.labels, listing.paths, listing.class_names)


def load_images(
    paths: Sequence[Any],
    preprocessing: Preprocessing,
    *,
    num_workers: int | None = None,
    decode: Callable[[Any], Image.Image] = load_image,
) -> npt.NDArray[np.float32]:
    """Return image files as one (N, 3, image_size, image_size) float32 array, decoded by several threads.

    Args:
        paths: image files, or what else ``decode`` takes.
        preprocessing: what to do with each.
        num_workers: threads; None takes one per core, at most 16.
        decode: returns the image in one of them.

    Raises:
        InputError: an image cannot be read; the first in order is named.
    """
    size = preprocessing.image_size
    images = np.empty((len(paths), 3, size, size), np.float32)

    def load(position: int) -> None:
        images[position] = preprocessing.apply(decode(paths[position]))

    # Pillow decodes and resizes without holding the interpreter lock, so threads are enough.
    workers = num_workers if num_workers is not None else min(16, os.cpu_count() or 1)
    if workers <= 1 or len(paths) <= 1:
        for position in range(len(paths)):
            load(position)
        return images
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        for _ in pool.map(load, range(len(paths))):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise InputError(f"the folder {folder} does not exist; give a folder of images or of class folders.")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of images or of class folders.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"the folder {folder} cannot be read; check its permissions.")


def _walk_images(folder: Path) -> list[Path]:
    # Sorted as ImageFolder sorts: by folder, then by file name within each.
    return [
        Path(root) / name
        for root, _, files in sorted(os.walk(folder, followlinks=True))
        for name in sorted(files)
        if _is_image(name)
    ]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def _accepted() -> str:
    return ", ".join(IMAGE_EXTENSIONS)


def _class_order(folder: Path, names: Sequence[str], class_names: Sequence[str] | None) -> tuple[str, ...]:
    found = sorted(set(names))
    if class_names is None:
        return tuple(found)
    unknown = sorted(set(found) - set(class_names))
    if not unknown:
        return tuple(class_names)
    inner = [name for name in found if any((folder / name / known).is_dir() for known in class_names)]
    advice = (
        f"did you mean {' or '.join(str(folder / name) for name in inner[:3])}?"
        if inner
        else "rename the folders to the model's class names."
    )
    raise InputError(
        f"{folder}: {len(unknown)} of its {len(found)} class folders are not classes of the model "
        f"({_some(unknown)}; the model has {_some(list(class_names))}); {advice}"
    )


def _some(names: Sequence[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def even_subset(labels: npt.NDArray[np.int64] | None, count: int, limit: int, seed: int) -> list[int]:
    """Return up to ``limit`` sorted positions, taking the classes in turn, each in a seeded random order."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)
    if labels is not None:
        classes, inverse = np.unique(labels, return_inverse=True)
        rank_in_class = np.empty(count, np.int64)
        for index in range(len(classes)):
            members = order[inverse[order] == index]
            rank_in_class[members] = np.arange(len(members))
        # Which classes get one image more is random as well, or the first in the alphabet would always win.
        turn = generator.permutation(len(classes))[inverse]
        order = np.lexsort((turn, rank_in_class))
    return sorted(int(position) for position in order[:limit])
