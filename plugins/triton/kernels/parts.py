"""What the kernels share: wrapping, tiles of pixels and channels, sums and rounding that know no position.

In a kernel ``NORM`` is the criterion without ``_min``: l2, l1, linf or max.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LARGEST_FLOAT = tl.constexpr(3.4028234663852886e38)
_INFINITY = tl.constexpr(float("inf"))
# From here on every float32 is a whole number.
_WHOLE_FROM = tl.constexpr(8388608.0)


@triton.jit
def wrapped(position, size):
    """Return ``position`` on the circle of ``size``; it lies outside by less than ``size``."""
    return tl.where(position < 0, position + size, tl.where(position >= size, position - size, position))


@triton.jit
def across_pixels(values, CHANNELS_LAST: tl.constexpr):
    """Return a vector over pixels as an axis of a tile, whose last axis lies side by side in memory."""
    return values[:, None] if CHANNELS_LAST else values[None, :]


@triton.jit
def across_channels(values, CHANNELS_LAST: tl.constexpr):
    """Return a vector over channels as the other axis of a tile, see `across_pixels`."""
    return values[None, :] if CHANNELS_LAST else values[:, None]


@triton.jit
def place(pixel, channel, pixels, channels, CHANNELS_LAST: tl.constexpr):
    """Return where a channel of a pixel lies within its image."""
    return pixel * channels + channel if CHANNELS_LAST else channel * pixels + pixel


@triton.jit
def start_of_energy(NORM: tl.constexpr):
    """Return the energy of no channels."""
    return -_INFINITY if NORM == "max" else 0.0


@triton.jit
def no_energy(NORM: tl.constexpr, CHANNELS_LAST: tl.constexpr, PIXELS: tl.constexpr, LOG_LANES: tl.constexpr):
    """Return a tile of pixels and 2**LOG_LANES lanes in which no channel is counted yet."""
    if CHANNELS_LAST:
        energy = tl.full((PIXELS, 1 << LOG_LANES), start_of_energy(NORM), tl.float32)
    else:
        energy = tl.full((1 << LOG_LANES, PIXELS), start_of_energy(NORM), tl.float32)
    return energy


@triton.jit
def with_channel(energy, value, inside, NORM: tl.constexpr):
    """Return ``energy`` with one more channel's ``value`` (0 where it is not ``inside``), both float32.

    The product is added by an explicit fma, and kernels are compiled without fusing anything else: every pixel is
    rounded alike. Maxima show a NaN or an infinity as +infinity; sums carry it by themselves.
    """
    if NORM == "l2":
        energy = tl.fma(value, value, energy)
    elif NORM == "l1":
        energy = energy + tl.abs(value)
    else:
        magnitude = tl.abs(value)
        if NORM == "linf":
            value = magnitude
        value = tl.where(magnitude <= _LARGEST_FLOAT, value, _INFINITY)
        energy = tl.maximum(energy, tl.where(inside, value, start_of_energy(NORM)))
    return energy


@triton.jit
def over_lanes(energy, NORM: tl.constexpr, CHANNELS_LAST: tl.constexpr, PIXELS: tl.constexpr, LOG_LANES: tl.constexpr):
    """Return the energies (PIXELS,) of a tile of pixels and 2**LOG_LANES lanes, each of which holds some channels.

    Sums are made by halving, one addition of whole tiles after the other: the same tree for every pixel, by
    construction. A reduction of the language would leave the order to the layout of the tile over threads.
    """
    if not CHANNELS_LAST:
        energy = tl.trans(energy)
    for level in tl.static_range(LOG_LANES):
        energy = tl.reshape(energy, (PIXELS, 2, 1 << (LOG_LANES - 1 - level)))
        first, second = tl.split(tl.permute(energy, (0, 2, 1)))
        energy = tl.maximum(first, second) if NORM == "linf" or NORM == "max" else first + second
    return tl.reshape(energy, (PIXELS,))


@triton.jit
def keep_energies(energies, maxima, energy, pixel, pixels, image):
    """Write a block's energies and, as one number, their maximum: +infinity where one is a NaN or an infinity."""
    inside = pixel < pixels
    tl.store(energies + image * pixels + pixel, energy, mask=inside)
    shown = tl.where(energy <= _LARGEST_FLOAT, energy, _INFINITY)
    largest = tl.max(tl.where(inside, shown, -_INFINITY), axis=0)
    tl.store(maxima + image * tl.num_programs(0) + tl.program_id(0), largest)


@triton.jit
def is_finite_maximum(largest):
    """Return whether a maximum of `keep_energies` tells of neither a NaN nor an infinity."""
    return largest <= _LARGEST_FLOAT


@triton.jit
def rounded(values):
    """Return float32 ``values`` from 0 on as the nearest whole number, ties to the even one."""
    return tl.where(values < _WHOLE_FROM, (values + _WHOLE_FROM) - _WHOLE_FROM, values)
