"""A data set that needs no file of anybody: coloured squares on noise, written as PNG class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aps_deploy.training.settings import TrainSettings
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)

CLASSES = ("blue", "green", "red")


def write_class_folders(root: Path, *, per_class: int, side: int = 32, seed: int = 0) -> None:
    """Write `per_class` PNG files of each class: noise with a square whose colour is the class."""
    generator = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(per_class):
            pixels = generator.integers(0, 120, (side, side, 3), dtype=np.uint8)
            top, left = generator.integers(0, side // 2, 2)
            pixels[top : top + side // 2, left : left + side // 2, 2 - number] = 255
            Image.fromarray(pixels).save(folder / f"{index:03d}.png")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with train/ (48 images) and test/ (12 images) of 32 x 32 pixels in three classes."""
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "train", per_class=16, seed=1)
    write_class_folders(root / "test", per_class=4, seed=2)
    return root


Settings = Callable[..., TrainSettings]


@pytest.fixture
def settings(data_folder: Path, tmp_path: Path) -> Settings:
    """Settings of a run of seconds; keyword arguments replace them."""

    def make(**changes: Any) -> TrainSettings:
        defaults: dict[str, Any] = {
            "arch": "resnet20_aps3",
            "data": data_folder,
            "out_dir": tmp_path / "run",
            "recipe": "fast",
            "epochs": 2,
            "batch_size": 16,
            "precision": "float32",
            "device": "cpu",
            "progress": False,
        }
        return TrainSettings(**{**defaults, **changes})

    return make
