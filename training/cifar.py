"""Torchvision's CIFAR-10 archive, for training and evaluation alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError

CIFAR_FOLDER = "cifar-10-batches-py"
PartName = Literal["train", "test"]
CIFAR_PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class CifarPart:
    """The training or the test images.

    Attributes:
        pixels: (N, 32, 32, 3) uint8.
        labels: (N,) int64 positions in `class_names`.
        class_names: the ten classes.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: list[str]


def read_cifar(folder: Path, part: PartName, *, download: bool = False) -> CifarPart:
    """Return one part of the archive in `folder`.

    Raises:
        InputError: it cannot be read, or with `download` not be fetched.
    """
    from torchvision.datasets import CIFAR10

    try:
        listing = CIFAR10(str(folder), train=part == "train", download=download)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"CIFAR-10 cannot be read from {folder} ({reason}); expected is torchvision's {CIFAR_FOLDER} in it, which "
            "aps-deploy train --download fetches."
        ) from error
    return CifarPart(listing.data, np.asarray(listing.targets, dtype=np.int64), list(listing.classes))
