"""Augmentation of whole batches of uint8 images, without a Python loop over the images.

Decoded images are bytes until the last step: cropping and mirroring move a quarter of the memory that float images
would. All randomness comes from the generator that is passed in, which lives on the CPU, so that a run draws the same
numbers on any device; the images may be on any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from aps_deploy.training.recipes import Recipe


@dataclass(frozen=True)
class Draws:
    """What was drawn at random for a batch; what the recipe does not ask for is None."""

    crop_offsets: Tensor | None
    """(2, N) int64: pixels down and right by which each image moves."""
    flips: Tensor | None
    """(N,) bool: which images are mirrored."""
    shift: tuple[int, int] | None
    """The circular shift of all images, down and right."""

    def take(self, rows: Tensor) -> Draws:
        """Return what was drawn for some of the images: those at the positions (B,) of the batch."""
        return Draws(
            None if self.crop_offsets is None else self.crop_offsets[:, rows],
            None if self.flips is None else self.flips[rows],
            self.shift,
        )


def draw(recipe: Recipe, num_images: int, generator: Generator) -> Draws:
    """Return the random numbers of a batch of `num_images`, as the recipe asks for them."""
    crop_offsets = flips = shift = None
    if recipe.crop_padding:
        padding = recipe.crop_padding
        crop_offsets = torch.randint(-padding, padding + 1, (2, num_images), generator=generator)
    if recipe.flip:
        flips = torch.rand(num_images, generator=generator) < 0.5
    if recipe.circular_data_aug:
        limit = recipe.circular_shift
        vertical, horizontal = torch.randint(-limit, limit, (2,), generator=generator).tolist()
        shift = (vertical, horizontal)
    return Draws(crop_offsets, flips, shift)


def augment(images: Tensor, recipe: Recipe, draws: Draws) -> Tensor:
    """Return the augmented batch (N, C, H, W) uint8: random crop, mirror, one circular shift for all (the authors')."""
    if draws.crop_offsets is not None:
        images = crop(images, draws.crop_offsets, recipe.crop_padding, recipe.crop_padding_mode)
    if draws.flips is not None:
        images = mirror(images, draws.flips)
    if draws.shift is not None:
        images = images.roll(draws.shift, (2, 3))
    return images


def crop(images: Tensor, offsets: Tensor, padding: int, mode: str) -> Tensor:
    """Return each image of (N, C, H, W) moved by its own offset.

    Args:
        images: Batch of any dtype.
        offsets: (2, N) int64, -padding to +padding pixels down and right.
        padding: Largest offset in pixels.
        mode: What comes in from outside: `zeros`, `reflect` or `circular`.
    """
    num, channels, height, width = images.shape
    device = images.device
    offsets = sent(offsets[:, :, None], device)
    rows = torch.arange(height, device=device) + offsets[0]
    columns = torch.arange(width, device=device) + offsets[1]
    if mode == "circular":
        rows, columns = rows % height, columns % width
    elif mode == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    else:
        images = F.pad(images, (padding,) * 4)
        rows, columns = rows + padding, columns + padding
    return images[
        torch.arange(num, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _reflected(positions: Tensor, size: int) -> Tensor:
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Return the batch (N, C, H, W) with the images of the mask (N,) mirrored left to right."""
    return torch.where(sent(flips, images.device)[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 images (N, C, H, W) as float32 in the network's units, as ToTensor and Normalize do."""
    scaled = images.to(torch.float32).div_(255)
    return scaled.sub_(_channels(tuple(mean), images.device)).div_(_channels(tuple(std), images.device))


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel (1, C, 1, 1), made once per device: a GPU is waited for when they are copied."""
    with torch.inference_mode(False):  # whoever asks first, the tensor is for training too
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; the CPU waits for no GPU meanwhile, which it does for plain memory."""
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
