"""Batch augmentation against the same thing done image by image."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from aps_deploy.preprocessing import CIFAR10
from aps_deploy.training.augment import augment, draw, normalise
from aps_deploy.training.recipes import RECIPES, Recipe


def batch(num: int = 40, side: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (num, 3, side, side + 2), dtype=torch.uint8, generator=generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def recipe(**changes: Any) -> Recipe:
    """A recipe that augments as told, and not otherwise."""
    return dataclasses.replace(RECIPES["fast"], **{"flip": False, "crop_padding": 0, **changes})


def augmented(images: torch.Tensor, chosen: Recipe, generator: torch.Generator | None = None) -> torch.Tensor:
    return augment(images, chosen, draw(chosen, len(images), generator or seeded()))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_random_crop_is_pad_and_crop(mode: str) -> None:
    images = batch()
    cropped = augmented(images, recipe(crop_padding=4, crop_padding_mode=mode))
    height, width = images.shape[2:]
    seen = set()
    for image, result in zip(images, cropped, strict=True):
        # torch pads circularly in float only; these values are exact there.
        padded = torch.from_numpy(
            np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), {"zeros": "constant", "circular": "wrap"}.get(mode, mode))
        )
        matches = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if torch.equal(TF.crop(padded, top, left, height, width), result)
        ]
        assert len(matches) == 1
        seen.update(matches)
    rows, columns = zip(*seen, strict=True)
    assert {min(rows), max(rows), min(columns), max(columns)} == {0, 8}


def test_random_flip_mirrors_about_half() -> None:
    images = batch(200)
    flipped = augmented(images, recipe(flip=True))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all()) and 70 < int(mirrored.sum()) < 130


def test_batch_shift_draws_the_authors_range() -> None:
    images, generator = batch(2), seeded()
    found = set()
    for _ in range(300):
        shifted = augmented(images, recipe(circular_data_aug=True, circular_shift=3), generator)
        found.update(
            (dy, dx)
            for dy in range(-5, 6)
            for dx in range(-5, 6)
            if torch.equal(shifted, images.roll((dy, dx), (2, 3)))
        )
    # numpy's randint(-3, 3): never +3.
    assert {dy for dy, _ in found} == {dx for _, dx in found} == {-3, -2, -1, 0, 1, 2}


def test_normalise_is_torchvisions_and_the_files() -> None:
    """Training and serving feed the network the same bits."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    reference = Compose([ToTensor(), Normalize(CIFAR10.mean, CIFAR10.std)])(pixels)
    ours = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], CIFAR10.mean, CIFAR10.std)[0]
    assert torch.equal(ours, reference)
    assert np.array_equal(ours.numpy(), CIFAR10.apply(Image.fromarray(pixels)))


def test_the_parts_of_a_batch_are_augmented_as_the_whole() -> None:
    """As several processes do it, each with its share."""
    images, chosen = batch(), recipe(crop_padding=4, flip=True, circular_data_aug=True)
    draws = draw(chosen, len(images), seeded())
    whole = augment(images, chosen, draws)
    for rank in range(3):
        rows = torch.arange(rank, len(images), 3)
        assert torch.equal(augment(images[rows], chosen, draws.take(rows)), whole[rows])
