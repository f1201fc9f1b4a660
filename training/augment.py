"""Augmentation of whole batches of uint8 images, without a Python loop over the images.

Decoded images are bytes until the last step: cropping and mirroring move a quarter of the memory that float images
would. All randomness comes from the generator that is passed in, which lives on the CPU, so that a run draws the same
numbers on any device; the images may be on any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from aps_deploy.training.recipes import Recipe


def augment(images: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Return the augmented batch (N, C, H, W) uint8: random crop, mirror, one circular shift, as the recipe says."""
    if recipe.crop_padding:
        images = random_crop(images, recipe.crop_padding, recipe.crop_padding_mode, generator)
    if recipe.flip:
        images = random_flip(images, generator)
    if recipe.circular_data_aug:
        images = batch_shift(images, recipe.circular_shift, generator)
    return images


def random_crop(images: Tensor, padding: int, mode: str, generator: Generator) -> Tensor:
    """Return each image of (N, C, H, W) moved by an own random offset of -padding to +padding per axis.

    Args:
        images: Batch of any dtype.
        padding: Largest offset in pixels.
        mode: What comes in from outside: `zeros`, `reflect` or `circular`.
        generator: Source of the offsets.
    """
    num, channels, height, width = images.shape
    device = images.device
    offsets = torch.randint(-padding, padding + 1, (2, num, 1), generator=generator).to(device)
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


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Return the batch (N, C, H, W) with each image mirrored left to right with probability 1/2."""
    flipped = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def batch_shift(images: Tensor, limit: int, generator: Generator) -> Tensor:
    """Return the batch rolled by one random shift of -limit to limit-1 per axis (the authors' augmentation)."""
    vertical, horizontal = torch.randint(-limit, limit, (2,), generator=generator).tolist()
    return images.roll((vertical, horizontal), (2, 3))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 images (N, C, H, W) as float32 in the network's units, as ToTensor and Normalize do."""
    shape = (1, -1, 1, 1)
    scaled = images.to(torch.float32).div_(255)
    mean_tensor = torch.tensor(mean, device=images.device).view(shape)
    return scaled.sub_(mean_tensor).div_(torch.tensor(std, device=images.device).view(shape))
