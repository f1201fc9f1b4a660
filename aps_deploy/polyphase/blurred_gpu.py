"""The ops that blur on the way, on a GPU: the kernels of `plugins.triton`, or PyTorch's operators in their place.

The operators are needed where the kernels turn out not to run after a layer has chosen these ops: no C compiler, or a
block without kernels around a network that was compiled outside of it.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from aps_deploy.plugins.triton import usage
from aps_deploy.polyphase.gpu import kernels_for
from aps_deploy.polyphase.ops import as_layout_of, polyphase_index, polyphase_put, polyphase_take


def fits_gpu_kernels(x: Tensor, filters: Tensor, stride: int) -> bool:
    """Return whether ``x`` (N, C, H, W) and ``filters`` (C, 1, f, f) are on a GPU whose kernels take them."""
    height, width = x.shape[2:]
    return (
        x.device.type == "cuda"
        and filters.device == x.device
        and filters.shape[-1] <= min(height, width)
        and usage.fits(x, stride, height, width)
        and _gpu_kernels_are_used()
    )


@torch.compiler.assume_constant_result
def _gpu_kernels_are_used() -> bool:
    return usage.is_used()


def blurred_index_on_gpu(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    """Compute ``aps::blurred_index``."""
    kernels = kernels_for(x, stride)
    if kernels is None:
        return polyphase_index(_blurred(x, filters), stride, criterion)
    return cast(Tensor, kernels.choose(x, stride, criterion, filters))


def blurred_take_on_gpu(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    """Compute ``aps::blurred_take``."""
    kernels = kernels_for(x, stride)
    if kernels is None:
        return as_layout_of(polyphase_take(_blurred(x, filters), index, stride), x)
    return cast(Tensor, kernels.take(x, index, stride, filters))


def blurred_put_on_gpu(grad: Tensor, filters: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Compute the gradient (N, C, height, width) of ``aps::blurred_take`` for that of what it took."""
    kernels = kernels_for(grad, stride, height, width)
    if kernels is None:
        return as_layout_of(_spread(polyphase_put(grad, index, stride, height, width), filters), grad)
    return cast(Tensor, kernels.put(grad, index, stride, height, width, filters))


def _blurred(x: Tensor, filters: Tensor) -> Tensor:
    size = filters.shape[-1]
    if size == 1:
        return x
    before = (size - 1) // 2
    after = size - 1 - before
    padded = F.pad(x, (before, after, before, after), mode="circular")
    return F.conv2d(padded, filters.to(x.dtype), groups=x.shape[1])


def _spread(gradient: Tensor, filters: Tensor) -> Tensor:
    """Return the transposed blur of ``gradient`` (N, C, H, W), continued beyond a border at the other side."""
    size = filters.shape[-1]
    if size == 1:
        return gradient
    height, width = gradient.shape[2:]
    before = (size - 1) // 2
    spread = F.conv_transpose2d(gradient, filters.to(gradient.dtype), groups=gradient.shape[1])
    rows = torch.arange(height + size - 1, device=gradient.device) - before
    columns = torch.arange(width + size - 1, device=gradient.device) - before
    folded = gradient.new_zeros(*gradient.shape[:2], height, width + size - 1).index_add_(2, rows % height, spread)
    return torch.zeros_like(gradient).index_add_(3, columns % width, folded)
