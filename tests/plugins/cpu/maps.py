"""Maps and filters for the kernels, and the definition they are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from aps_deploy.layers import circular_pad


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Return a map (N, C, H, W), filters (C, 1, f, f) and a stride; widths beyond a tile of the kernels among them."""
    stride = draw(st.integers(2, 8))
    filter_size = draw(st.integers(1, 7))
    least = -(-filter_size // stride)
    batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    height = stride * draw(st.integers(least, least + 6))
    width = stride * (draw(st.integers(least, least + 12)) if draw(st.booleans()) else 900 // stride)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(batch, channels, height, width, generator=generator)
    return x, torch.rand(channels, 1, filter_size, filter_size, generator=generator), stride


def blurred(x: Tensor, filters: Tensor) -> Tensor:
    """Return ``x`` filtered with circular borders; a filter of size 1 does nothing, whatever its weight."""
    size = filters.shape[-1]
    if size == 1:
        return x
    before = (size - 1) // 2
    after = size - 1 - before
    return F.conv2d(circular_pad(x, before, after, before, after), filters, groups=x.shape[1])
