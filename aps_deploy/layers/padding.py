"""Padding: circular, which keeps circular shifts exact, and what zero-padded networks use instead."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.errors import InputError, known_name

Padding = Literal["circular", "zeros"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)


def check_padding(padding: str) -> Padding:
    """Return ``padding`` as one of the accepted names.

    Raises:
        InputError: no such padding.
    """
    return known_name(padding, PADDINGS, "padding")


def circular_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Return ``x`` (N, C, H, W) continued periodically by the given numbers of pixels.

    Raises:
        InputError: a side would wrap around more than once, which runtimes disagree about.
    """
    height, width = x.shape[2], x.shape[3]
    if max(left, right) > width or max(top, bottom) > height:
        raise InputError(
            f"circular padding by {max(left, right, top, bottom)} pixels needs a map at least that large, "
            f"but it is {height}x{width}; use a larger image."
        )
    return F.pad(x, (left, right, top, bottom), mode="circular")


def reflect_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Return ``x`` (N, C, H, W) continued by its mirror image, the border pixel not repeated.

    Raises:
        InputError: the mirror image is not as large as the padding.
    """
    height, width = x.shape[2], x.shape[3]
    if max(left, right) >= width or max(top, bottom) >= height:
        raise InputError(
            f"reflecting padding by {max(left, right, top, bottom)} pixels needs a larger map, "
            f"but it is {height}x{width}; use a larger image."
        )
    return F.pad(x, (left, right, top, bottom), mode="reflect")


class PadForPool(nn.Module):
    """One row and one column more at the bottom and right, so that a 2x2 pool of stride 1 keeps the size.

    Zero padding equals padding with minus infinity here, because the pool follows a ReLU.
    """

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) as (N, C, H + 1, W + 1)."""
        if self.padding == "circular":
            return circular_pad(x, 0, 1, 0, 1)
        return F.pad(x, (0, 1, 0, 1))
