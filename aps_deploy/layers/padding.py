"""Padding: circular, which keeps circular shifts exact, and what zero-padded networks use instead."""

from __future__ import annotations

import itertools
from typing import Any, Literal, cast, get_args

import torch
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
    reach = (left, right, top, bottom)
    # Graphs keep PyTorch's own form, which compilers and exporters know.
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    if torch.is_grad_enabled() and x.requires_grad and not is_traced:
        return cast(Tensor, _CircularPad.apply(x, reach))
    return F.pad(x, reach, mode="circular")


class _CircularPad(torch.autograd.Function):
    """The same values with a direct gradient.

    PyTorch's (2.14) is that of five copies into slices, each of which copies or fills the gradient of the whole map.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, reach: tuple[int, int, int, int]) -> Tensor:
        return F.pad(x, reach, mode="circular")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.reach = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _folded(grad, *ctx.reach), None


def _folded(grad: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Return the gradient (N, C, H, W) of what was padded: every pixel's own and those of its copies."""
    rows, columns = _copies(grad.shape[2], top, bottom), _copies(grad.shape[3], left, right)
    own = grad[:, :, rows[0][0], columns[0][0]].clone()
    for (row, own_row), (column, own_column) in list(itertools.product(rows, columns))[1:]:
        own[:, :, own_row, own_column] += grad[:, :, row, column]
    return own


def _copies(size: int, before: int, after: int) -> list[tuple[slice, slice]]:
    """Return the parts of an axis of the continued map, of ``size``, and what they are copies of: itself, both ends."""
    own = size - before - after
    parts = [(slice(before, before + own), slice(0, own))]
    if before:
        parts.append((slice(0, before), slice(own - before, own)))
    if after:
        parts.append((slice(before + own, size), slice(0, after)))
    return parts


class WrappedConv2d(nn.Conv2d):
    """A convolution of padding mode ``circular``, padded by `circular_pad`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C', H', W') for ``input`` (N, C, H, W).

        Raises:
            InputError: the map is smaller than the padding.
        """
        assert not isinstance(self.padding, str), "convolutions are built with numbers"
        height, width = self.padding
        x = circular_pad(input, width, width, height, height)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


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
