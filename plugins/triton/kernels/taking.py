"""The kept component: the last of the three kernels of a selection, alone by a known index, and its gradient.

All have a grid of (blocks of BLOCK values that they write, N). Components are numbered k = dy + STRIDE * dx.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aps_deploy.plugins.triton.kernels.blurring import blurred_value, spread_value
from aps_deploy.plugins.triton.kernels.parts import place
from aps_deploy.plugins.triton.kernels.scores import best_component


@triton.jit
def image_of_program():
    """Return this program's image: the last ones first, since what `energy` read last is still in the cache."""
    return (tl.num_programs(1) - 1 - tl.program_id(1)).to(tl.int64)


@triton.jit
def split(offset, pixels, channels, CHANNELS_LAST: tl.constexpr):
    """Return pixel and channel of the value at ``offset`` in an image: the inverse of `parts.place`."""
    if CHANNELS_LAST:
        pixel = offset // channels
        channel = offset % channels
    else:
        pixel = offset % pixels
        channel = offset // pixels
    return pixel, channel


@triton.jit
def copy_component(
    x,
    filters,
    chosen,
    channels,
    height,
    width,
    y,
    STRIDE: tl.constexpr,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write this program's block of component ``chosen`` of its image; ``filters`` are not read where FILTER_SIZE is 1.

    An index that is none of a component gives NaN, and reads nothing.
    """
    image = image_of_program()
    columns = width // STRIDE
    num_taken = (height // STRIDE) * columns
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < num_taken * channels
    pixel, channel = split(offset, num_taken, channels, CHANNELS_LAST)
    row = pixel // columns * STRIDE + chosen % STRIDE
    column = pixel % columns * STRIDE + chosen // STRIDE
    values = x + image * channels * height * width
    is_component = (chosen >= 0) & (chosen < STRIDE * STRIDE)
    is_read = inside & is_component
    if FILTER_SIZE == 1:
        at = values + place(row * width + column, channel, height * width, channels, CHANNELS_LAST)
        value = tl.load(at, mask=is_read, other=float("nan"))
    else:
        value = blurred_value(
            values, filters, channel, row, column, is_read, channels, height, width, FILTER_SIZE, CHANNELS_LAST
        )
        value = tl.where(is_component, value, float("nan")).to(y.dtype.element_ty)
    tl.store(y + image * channels * num_taken + offset, value, mask=inside)


@triton.jit
def select(
    x,
    scores,
    channels,
    height,
    width,
    y,
    index,
    NORM: tl.constexpr,
    KEEPS_SMALLEST: tl.constexpr,
    STRIDE: tl.constexpr,
    PARTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the component of ``x`` (N, C, H, W) that scores best, y (N, C, H/s, W/s), and its index (N,) int64.

    ``scores`` are those of `scores.score`, (N, PARTS, STRIDE**2) int64.
    """
    image = image_of_program()
    chosen = best_component(scores + image * (PARTS * STRIDE * STRIDE), NORM, KEEPS_SMALLEST, STRIDE, PARTS)
    if tl.program_id(0) == 0:
        tl.store(index + image, chosen.to(tl.int64))
    copy_component(x, x, chosen, channels, height, width, y, STRIDE, 1, CHANNELS_LAST, BLOCK)


@triton.jit
def blurred_select(
    x,
    filters,
    scores,
    channels,
    height,
    width,
    y,
    index,
    NORM: tl.constexpr,
    KEEPS_SMALLEST: tl.constexpr,
    STRIDE: tl.constexpr,
    PARTS: tl.constexpr,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write what `select` writes, of ``x`` blurred by ``filters`` (C, 1, f, f), whose scores ``scores`` are."""
    image = image_of_program()
    chosen = best_component(scores + image * (PARTS * STRIDE * STRIDE), NORM, KEEPS_SMALLEST, STRIDE, PARTS)
    if tl.program_id(0) == 0:
        tl.store(index + image, chosen.to(tl.int64))
    copy_component(x, filters, chosen, channels, height, width, y, STRIDE, FILTER_SIZE, CHANNELS_LAST, BLOCK)


@triton.jit
def take(
    x,
    index,
    channels,
    height,
    width,
    y,
    STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write component ``index[n]`` of every image of ``x`` (N, C, H, W): y (N, C, H/s, W/s)."""
    chosen = tl.load(index + image_of_program()).to(tl.int32)
    copy_component(x, x, chosen, channels, height, width, y, STRIDE, 1, CHANNELS_LAST, BLOCK)


@triton.jit
def blurred_take(
    x,
    filters,
    index,
    channels,
    height,
    width,
    y,
    STRIDE: tl.constexpr,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write component ``index[n]`` of every image of ``x`` blurred by ``filters`` (C, 1, f, f)."""
    chosen = tl.load(index + image_of_program()).to(tl.int32)
    copy_component(x, filters, chosen, channels, height, width, y, STRIDE, FILTER_SIZE, CHANNELS_LAST, BLOCK)


@triton.jit
def put(
    y,
    index,
    channels,
    height,
    width,
    x,
    STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write x (N, C, H, W): ``y`` as component ``index[n]`` of every image and 0 elsewhere, the gradient of `take`."""
    image = image_of_program()
    chosen = tl.load(index + image).to(tl.int32)
    pixels = height * width
    columns = width // STRIDE
    num_taken = (height // STRIDE) * columns
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < pixels * channels
    pixel, channel = split(offset, pixels, channels, CHANNELS_LAST)
    row = pixel // width
    column = pixel % width
    is_taken = (row % STRIDE == chosen % STRIDE) & (column % STRIDE == chosen // STRIDE)
    at = place(row // STRIDE * columns + column // STRIDE, channel, num_taken, channels, CHANNELS_LAST)
    value = tl.load(y + image * channels * num_taken + at, mask=inside & is_taken, other=0.0)
    tl.store(x + image * channels * pixels + offset, value, mask=inside)


@triton.jit
def blurred_put(
    y,
    filters,
    index,
    channels,
    height,
    width,
    x,
    STRIDE: tl.constexpr,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient (N, C, H, W) of `blurred_take` for the gradient ``y`` (N, C, H/s, W/s) of what it took."""
    image = image_of_program()
    chosen = tl.load(index + image).to(tl.int32)
    pixels = height * width
    num_taken = (height // STRIDE) * (width // STRIDE)
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < pixels * channels
    pixel, channel = split(offset, pixels, channels, CHANNELS_LAST)
    gradient = y + image * channels * num_taken
    value = spread_value(
        gradient,
        filters,
        chosen,
        channel,
        pixel // width,
        pixel % width,
        inside,
        channels,
        height,
        width,
        STRIDE,
        FILTER_SIZE,
        CHANNELS_LAST,
    )
    tl.store(x + image * channels * pixels + offset, value.to(x.dtype.element_ty), mask=inside)
