"""The images of an evaluation, read batch by batch as the protocols ask for them."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.images import even_subset, find_images, labels_of, list_folder, load_images
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.training.cifar import CIFAR_FOLDER, PartName, read_cifar
from aps_deploy.training.shards import find_shards, labels_for, read_shards
from aps_deploy.training.sources import Source, load_source, too_many_unreadable

_LOGGER = logging.getLogger(__name__)


class UnreadableImage(InputError):
    """An image that is missing, truncated or no image; what it says names the image."""


class _LazyArray:
    """Float images (N, 3, H, W) that exist only in the slices that are asked for."""

    def __init__(self, images: EvaluationImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:
        return self._images.read(range(*rows.indices(len(self._images))))


@dataclass(frozen=True)
class EvaluationImages:
    """Images to evaluate, their labels, and how they become a network's input.

    Attributes:
        split: The part of the data folder they are, for the report.
        labels: (N,) int64, or None.
        preprocessing: That of the network.
        paths: The image files, or their places in shards; empty where `pixels` holds the images.
        pixels: (N, H, W, 3) uint8, or None for image files.
        num_unreadable: Images that were left out because they cannot be read.
    """

    split: str
    labels: npt.NDArray[np.int64] | None
    preprocessing: Preprocessing
    paths: tuple[Source, ...] = ()
    pixels: npt.NDArray[np.uint8] | None = None
    num_unreadable: int = 0

    def __len__(self) -> int:
        return len(self.paths) if self.pixels is None else len(self.pixels)

    def read(self, positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the images at these positions, (N, 3, H, W) float32.

        Raises:
            UnreadableImage: one of them cannot be read.
        """
        if self.pixels is None:
            try:
                sources = [self.paths[position] for position in positions]
                return load_images(sources, self.preprocessing, decode=load_source)
            except InputError as error:
                raise UnreadableImage(str(error)) from error
        from PIL import Image

        images = [self.preprocessing.apply(Image.fromarray(self.pixels[position])) for position in positions]
        return np.stack(images)

    def as_array(self) -> npt.NDArray[np.float32]:
        """Return something that is read like an array (N, 3, H, W) in slices of rows, without holding it whole.

        ImageNet's validation images are 30 GB as floats. The protocols take the length and consecutive slices of
        rows, nothing else, which is all this has.
        """
        return cast("npt.NDArray[np.float32]", _LazyArray(self))

    def sample(self, limit: int, seed: int) -> EvaluationImages:
        """Return at most `limit` of the images, chosen by the seed, in their order."""
        if limit >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), size=limit, replace=False)).tolist())

    def take(self, positions: Sequence[int]) -> EvaluationImages:
        """Return the images at these positions, in their order."""
        return dataclasses.replace(
            self,
            labels=None if self.labels is None else self.labels[list(positions)],
            paths=tuple(self.paths[position] for position in positions) if self.pixels is None else (),
            pixels=None if self.pixels is None else self.pixels[list(positions)],
        )

    def readable(self, limit: int) -> EvaluationImages:
        """Return the images without those that cannot be read; every image is decoded to find out.

        Raises:
            InputError: more than `limit` of them cannot be read.
        """
        kept: list[int] = []
        unreadable: list[str] = []
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        try:
            for position, message in enumerate(pool.map(_fault, self.paths)):
                if message is None:
                    kept.append(position)
                    continue
                unreadable.append(message)
                if len(unreadable) > limit:
                    raise too_many_unreadable(unreadable, limit)
                _LOGGER.warning("left out: %s", message)
        finally:
            pool.shutdown(cancel_futures=True)
        return dataclasses.replace(self.take(kept), num_unreadable=len(unreadable))


def _fault(source: Source) -> str | None:
    """Return what is wrong with an image; None where it can be read."""
    try:
        load_source(source)
    except InputError as error:
        return str(error)
    return None


def find_evaluation_images(
    folder: Path,
    split: str,
    preprocessing: Preprocessing,
    *,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    limit: int | None,
    seed: int,
) -> EvaluationImages:
    """Return the images of one split of a data folder.

    Args:
        folder: Holds `train/`, `val/` or `test/`; or class folders or shards; or torchvision's CIFAR-10.
        split: `train`, `val`, `test`, or `auto`: test, else val, else the folder itself.
        preprocessing: That of the network.
        class_names: The network's, whose positions are the labels.
        num_classes: The network's; see `list_folder`.
        limit: Keep this many images, spread over the classes.
        seed: Chooses which are kept.

    Raises:
        InputError: there is no such split or there are no images, or the folders are no classes of the network.
    """
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist; give one with test/<class>/ or val/<class>/ in it.")
    if (folder / CIFAR_FOLDER).is_dir():
        part = _choose_cifar_part(folder, split)
        cifar = read_cifar(folder, part)
        names = [cifar.class_names[label] for label in cifar.labels]
        labels, _ = labels_of(names, folder, class_names, num_classes)
        images = EvaluationImages(part, labels, preprocessing, pixels=cifar.pixels)
        return images if limit is None else images.take(even_subset(cifar.labels, len(images), limit, seed))
    name = _choose_split(folder, split)
    root = folder if name == "all" else folder / name
    shards = find_shards(root)
    if shards:
        members, numbers = read_shards(shards)
        labels = labels_for(folder, numbers, class_names, num_classes)
        images = EvaluationImages(name, labels, preprocessing, tuple(members))
        return images if limit is None else images.take(even_subset(numbers, len(images), limit, seed))
    listing = list_folder(root, limit=limit, seed=seed, class_names=class_names, num_classes=num_classes)
    return EvaluationImages(name, listing.labels, preprocessing, listing.paths)


def _choose_cifar_part(folder: Path, split: str) -> PartName:
    if split == "val":
        raise InputError(f"--split is val, but {folder} holds CIFAR-10, which has train and test; name one of them.")
    return "train" if split == "train" else "test"


def _choose_split(folder: Path, split: str) -> str:
    parts = [name for name in ("test", "val", "train") if (folder / name).is_dir()]
    if split == "auto":
        if not parts:
            return "all"
        if parts == ["train"]:
            raise InputError(f"{folder} holds only train/; say --split train to evaluate the training images.")
        return parts[0]
    if split not in parts:
        found = ", ".join(parts) or f"{len(find_images(folder))} images and no splits"
        raise InputError(f"--split is {split}, but {folder} holds {found}; name one that is there.")
    return split
