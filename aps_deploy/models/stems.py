"""What follows the first convolution of the ImageNet family, by sampler."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.layers import Downsample, Padding, PadForPool, Selections, circular_pad
from aps_deploy.polyphase.pooled import fits_pool_kernel, wrapped_pool


class StridedStemPool(nn.Module):
    """The ordinary 3x3 max pool of stride 2, its border continued as the network's padding says."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor, selections: Selections) -> Tensor:
        """Return (N, C, H/2, W/2) for ``x`` (N, C, H, W)."""
        if self.padding == "circular":
            return F.max_pool2d(circular_pad(x, 1, 1, 1, 1), kernel_size=3, stride=2)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class SampledStemPool(nn.Module):
    """[sampler], 2x2 max pool of stride 1, sampler.

    The first sampler takes over the stride of the first convolution; ``pool_only`` networks have none, so that their
    convolution strides and only even shifts are invariant. In zero-padded LPF networks the max pool is not padded, as
    in the anti-aliased networks their weights come from; APS needs the even size.
    """

    def __init__(self, first: Downsample | None, last: Downsample, padding: Padding, *, pad_pool: bool) -> None:
        super().__init__()
        self.first = first
        self.pad: nn.Module = PadForPool(padding) if pad_pool else nn.Identity()
        self.last = last

    def forward(self, x: Tensor, selections: Selections) -> Tensor:
        """Return ``x`` (N, C, H, W) downsampled by 4 (by 2 for ``pool_only``)."""
        if self.first is not None:
            x, _ = self.first(x, selections)
        if isinstance(self.pad, PadForPool) and self.pad.padding == "circular" and fits_pool_kernel(x):
            x = wrapped_pool(x)
        else:
            x = F.max_pool2d(self.pad(x), kernel_size=2, stride=1)
        x, _ = self.last(x, selections)
        return x
