"""Sums that do not depend on where a pixel stands.

A floating-point sum over a map adds the same numbers in another order once the map is shifted, so its last bits
change. Here every pixel is rounded to an integer on a scale taken from the image's largest value (a maximum is free
of order), and the integers are added: integer addition is associative, so the sum is the same wherever each pixel
stands.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The floor of the scale's maximum: one below 2**-97 would make 2**30 / floor infinite in float32.
_FLOOR = {torch.float32: 2.0**-90, torch.float64: 2.0**-900}
# Bits of a sum that are always free of overflow in int64.
_SUM_BITS = 62


def quantised_bits(dtype: torch.dtype, num_terms: int) -> int:
    """Return the bits of one quantised value, so that ``num_terms`` of them add up without overflow in int64.

    30 for float32 (maps of up to 2**32 pixels), a little more than its significand; up to 48 for float64.
    """
    wanted = 48 if dtype == torch.float64 else 30
    return min(wanted, _SUM_BITS - (num_terms - 1).bit_length())


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which energies are computed: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sum_channels(x: Tensor) -> Tensor:
    """Return the sum of ``x`` (N, C, H, W) over channels, (N, H, W), adding in the same order at every pixel.

    ``x.sum(1)`` does not: the vector tail of PyTorch's CPU kernel adds in another order than its body. Halving the
    channels by elementwise additions rounds each pixel alike on every device and for every number of threads, by
    construction. ``x`` is overwritten.
    """
    channels = x.shape[1]
    while channels > 1:
        half = channels // 2
        x[:, :half] += x[:, channels - half : channels]
        channels -= half
    return x[:, 0]


def energy_map(x: Tensor, power: int) -> Tensor:
    """Return sum_c |x|**power at every pixel of ``x`` (N, C, H, W): (N, H, W), in float32 (float64 for float64).

    ``power`` is 2 for the l2 criteria and 1 for the l1 criteria.
    """
    x = x.to(working_dtype(x.dtype)).contiguous()
    return sum_channels(x * x if power == 2 else x.abs())


def quantise(values: Tensor, largest: Tensor, bits: int) -> Tensor:
    """Return ``values`` as int64 on the scale on which ``largest`` is 2**bits.

    Args:
        values: float32 or float64, of any shape.
        largest: the largest magnitude each value is measured against; broadcastable to ``values``. Where it is not
            finite the result is 0, and no NaN is ever cast to an integer (that is undefined and differs by platform).
        bits: see `quantised_bits`.
    """
    finite = torch.isfinite(largest)
    ceiling = torch.where(finite, largest, 1.0).clamp_min(_FLOOR[values.dtype])
    scale = 2.0**bits / ceiling
    return torch.round(torch.where(finite, values, 0.0) * scale).to(torch.int64)


def component_sums(q: Tensor, stride: int) -> Tensor:
    """Return the int64 sum of ``q`` (N, H, W) over each polyphase component: (N, stride**2), in order of k."""
    n, height, width = q.shape
    split = q.reshape(n, height // stride, stride, width // stride, stride)
    return split.sum(dim=(1, 3)).transpose(1, 2).reshape(n, stride**2)


def exact_spatial_mean(x: Tensor) -> Tensor:
    """Return the mean of ``x`` (N, C, H, W) over each channel's pixels, (N, C), independent of their positions.

    The scale is taken per image and channel. A channel with a NaN or an infinity has mean NaN. Narrow types are
    averaged in float32 and cast back.
    """
    wide = x.to(working_dtype(x.dtype))
    largest = wide.abs().amax(dim=(2, 3))
    num_pixels = x.shape[2] * x.shape[3]
    bits = quantised_bits(wide.dtype, num_pixels)
    total = quantise(wide, largest[:, :, None, None], bits).sum(dim=(2, 3)).to(wide.dtype)
    # 0 * inf and 0 * NaN are NaN: the non-finite channel shows itself in the mean.
    unit = largest.clamp_min(_FLOOR[wide.dtype]) * 2.0**-bits
    return (total * unit / num_pixels).to(x.dtype)
