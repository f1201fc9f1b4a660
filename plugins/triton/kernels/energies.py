"""Energies of pixels: the first of the three kernels of a selection, of a map as it is or blurred on the way.

Both kernels have a grid of (blocks of BLOCK_PIXELS pixels, N) and write energies (N, H, W) float32 and, for every
block, the largest of its energies: maxima (N, blocks) float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aps_deploy.plugins.triton.kernels.blurring import blurred_value
from aps_deploy.plugins.triton.kernels.parts import (
    across_channels,
    across_pixels,
    keep_energies,
    no_energy,
    over_lanes,
    place,
    with_channel,
)


@triton.jit
def energy(
    x,
    channels,
    pixels,
    energies,
    maxima,
    NORM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    LOG_LANES: tl.constexpr,
):
    """Write energies and maxima of ``x`` (N, C, H, W), whose images have H * W = ``pixels`` pixels."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    lane = tl.arange(0, 1 << LOG_LANES)
    values = x + image * channels * pixels
    total = no_energy(NORM, CHANNELS_LAST, BLOCK_PIXELS, LOG_LANES)
    for first in range(0, channels, 1 << LOG_LANES):
        channel = across_channels(first + lane, CHANNELS_LAST)
        at = across_pixels(pixel, CHANNELS_LAST)
        inside = (at < pixels) & (channel < channels)
        value = tl.load(values + place(at, channel, pixels, channels, CHANNELS_LAST), mask=inside, other=0.0)
        total = with_channel(total, value.to(tl.float32), inside, NORM)
    total = over_lanes(total, NORM, CHANNELS_LAST, BLOCK_PIXELS, LOG_LANES)
    keep_energies(energies, maxima, total, pixel, pixels, image)


@triton.jit
def blurred_energy(
    x,
    filters,
    channels,
    height,
    width,
    energies,
    maxima,
    NORM: tl.constexpr,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    LOG_LANES: tl.constexpr,
):
    """Write what `energy` writes, of ``x`` blurred by ``filters`` (C, 1, f, f) with circular borders."""
    image = tl.program_id(1).to(tl.int64)
    pixels = height * width
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    lane = tl.arange(0, 1 << LOG_LANES)
    values = x + image * channels * pixels
    total = no_energy(NORM, CHANNELS_LAST, BLOCK_PIXELS, LOG_LANES)
    row = across_pixels(pixel // width, CHANNELS_LAST)
    column = across_pixels(pixel % width, CHANNELS_LAST)
    for first in range(0, channels, 1 << LOG_LANES):
        channel = across_channels(first + lane, CHANNELS_LAST)
        inside = (across_pixels(pixel, CHANNELS_LAST) < pixels) & (channel < channels)
        value = blurred_value(
            values, filters, channel, row, column, inside, channels, height, width, FILTER_SIZE, CHANNELS_LAST
        )
        total = with_channel(total, value, inside, NORM)
    total = over_lanes(total, NORM, CHANNELS_LAST, BLOCK_PIXELS, LOG_LANES)
    keep_energies(energies, maxima, total, pixel, pixels, image)
