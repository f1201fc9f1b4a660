"""A value of the blurred map, and of the transposed blur that carries its gradient back.

Filters are (C, 1, f, f), one for each channel; borders are circular and no filter is larger than the map. Of an even
filter the extra row and column lie below and to the right. Products are added by fma from left to right and top to
bottom, as in the CPU kernels, and the sum is rounded once to the type of the map.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aps_deploy.plugins.triton.kernels.parts import place, wrapped


@triton.jit
def weight_of(filters, channel, down, right, channels, FILTER_SIZE: tl.constexpr):
    """Return the float32 weight of a tap of each channel's filter, 0 beyond the last channel."""
    at = filters + (channel * FILTER_SIZE + down) * FILTER_SIZE + right
    return tl.load(at, mask=channel < channels, other=0.0).to(tl.float32)


@triton.jit
def blurred_value(
    values,
    filters,
    channel,
    row,
    column,
    inside,
    channels,
    height,
    width,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Return the blurred values of an image at rows, columns and channels that broadcast to the shape of ``inside``.

    The result is float32, rounded to the type of ``values``; 0 where it is not ``inside``.
    """
    before: tl.constexpr = (FILTER_SIZE - 1) // 2
    total = tl.zeros(inside.shape, tl.float32)
    for down in tl.static_range(FILTER_SIZE):
        source_row = wrapped(row + (down - before), height) * width
        for right in tl.static_range(FILTER_SIZE):
            source = source_row + wrapped(column + (right - before), width)
            at = values + place(source, channel, height * width, channels, CHANNELS_LAST)
            value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
            weight = weight_of(filters, channel, down, right, channels, FILTER_SIZE)
            total = tl.fma(value, tl.broadcast_to(weight, inside.shape), total)
    return total.to(values.dtype.element_ty).to(tl.float32)


@triton.jit
def spread_value(
    gradient,
    filters,
    chosen,
    channel,
    row,
    column,
    inside,
    channels,
    height,
    width,
    STRIDE: tl.constexpr,
    FILTER_SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Return what the gradient of the ``chosen`` component of the blurred map gives to values of the map, float32.

    Every value gathers from the blurred values that it went into, those of other components left out.
    """
    before: tl.constexpr = (FILTER_SIZE - 1) // 2
    columns = width // STRIDE
    num_taken = (height // STRIDE) * columns
    total = tl.zeros(inside.shape, tl.float32)
    for down in tl.static_range(FILTER_SIZE):
        blurred_row = wrapped(row - (down - before), height)
        for right in tl.static_range(FILTER_SIZE):
            blurred_column = wrapped(column - (right - before), width)
            is_taken = (blurred_row % STRIDE == chosen % STRIDE) & (blurred_column % STRIDE == chosen // STRIDE)
            source = (blurred_row // STRIDE) * columns + blurred_column // STRIDE
            at = gradient + place(source, channel, num_taken, channels, CHANNELS_LAST)
            value = tl.load(at, mask=inside & is_taken, other=0.0).to(tl.float32)
            weight = weight_of(filters, channel, down, right, channels, FILTER_SIZE)
            total = tl.where(is_taken, tl.fma(value, tl.broadcast_to(weight, inside.shape), total), total)
    return total
