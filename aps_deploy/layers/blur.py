"""The low-pass filter (LPF) of anti-aliased networks: a binomial blur per channel, of any stride."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.layers.padding import Padding, circular_pad, reflect_pad

FILTER_SIZES = range(1, 8)


def binomial_kernel(size: int) -> Tensor:
    """Return the (size, size) outer product of the row of Pascal's triangle with itself, summing to 1, float32."""
    row = torch.tensor([math.comb(size - 1, i) for i in range(size)], dtype=torch.float64)
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).to(torch.float32)


class Blur(nn.Module):
    """A depthwise binomial filter, circular or (in zero-padded networks, as the authors do) reflecting at the border.

    Even filters lie half a pixel off the centre: the extra pixel of padding is at the right and the bottom.

    Raises:
        InputError: a filter size outside 1 to 7.
    """

    kernel: Tensor

    def __init__(self, channels: int, filter_size: int, *, stride: int = 1, padding: Padding = "circular") -> None:
        super().__init__()
        if filter_size not in FILTER_SIZES:
            raise InputError(f"filter size {filter_size} is not available; choose 1 to {FILTER_SIZES[-1]}.")
        self.channels = channels
        self.filter_size = filter_size
        self.stride = stride
        self.padding = padding
        # Not in the state dict: it follows from the filter size. One copy per channel makes it a constant of the
        # exported file, where a run-time expansion would leave the convolution's kernel shape unknown.
        kernel = binomial_kernel(filter_size).expand(channels, 1, -1, -1).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) blurred and sampled at every ``stride``-th row and column."""
        if self.filter_size == 1:
            return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        before = (self.filter_size - 1) // 2
        after = self.filter_size - 1 - before
        if self.padding == "circular":
            x = circular_pad(x, before, after, before, after)
        else:
            x = reflect_pad(x, before, after, before, after)
        return F.conv2d(x, self.kernel.to(x.dtype), stride=self.stride, groups=self.channels)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        return f"{self.channels}, filter_size={self.filter_size}, stride={self.stride}, padding={self.padding}"
