"""The images inside the package, as the folders that training and evaluation read."""

from __future__ import annotations

import shutil
from pathlib import Path

from aps_deploy.images import find_images
from aps_deploy.packaged import packaged_images

# Of every class's images, one in this many is kept for validation.
_HELD_OUT = 5


def sample_folder() -> Path:
    """Return the folder of 256 CIFAR-10 test images inside the package, one subfolder per class."""
    return packaged_images()["cifar10"]


def write_training_tree(folder: Path) -> tuple[int, int]:
    """Copy the package's images into ``folder`` as ``train/<class>`` and ``val/<class>``; return how many of each."""
    counts = {"train": 0, "val": 0}
    position: dict[str, int] = {}
    for path, name in find_images(sample_folder()):
        assert name is not None
        position[name] = position.get(name, 0) + 1
        part = "val" if position[name] % _HELD_OUT == 0 else "train"
        target = folder / part / name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
        counts[part] += 1
    return counts["train"], counts["val"]
