"""Maps and filters for the kernels, and the definition they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from aps_deploy.layers import circular_pad

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """A map (N, C, H, W), filters (C, 1, f, f) or None, the stride and the criterion."""

    x: Tensor
    filters: Tensor | None
    stride: int
    criterion: str

    def rolled(self, down: int, right: int) -> Case:
        """Return the case with its map shifted, in the same memory format."""
        moved = torch.roll(self.x, (down, right), (2, 3))
        return replace(self, x=moved.to(memory_format=torch.channels_last) if is_channels_last(self.x) else moved)


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def made(
    shape: tuple[int, int, int, int],
    *,
    stride: int = 2,
    criterion: str = "l2",
    filter_size: int = 1,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Case:
    """Return a case of normal values; a filter size of 1 stands for None."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype)
    filters = torch.rand(shape[1], 1, filter_size, filter_size, generator=generator) / filter_size**2
    x = x.to(device=device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return Case(x, filters.to(device) if filter_size > 1 else None, stride, criterion)


def blurred(x: Tensor, filters: Tensor | None) -> Tensor:
    """Return ``x`` filtered with circular borders."""
    if filters is None:
        return x
    size = filters.shape[-1]
    before = (size - 1) // 2
    after = size - 1 - before
    return F.conv2d(circular_pad(x, before, after, before, after), filters.to(x.dtype), groups=x.shape[1])
