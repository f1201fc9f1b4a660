"""Choosing and taking from a blurred map in inference, by kernels that never write the blurred map.

    aps::blurred_index(x, filters, stride, criterion) -> index     polyphase_index of the blurred map, exact selection
    aps::blurred_take(x, filters, index, stride) -> y              polyphase_take of the blurred map

They have no gradient. What they compute is what `Blur` and the ops of `polyphase.ops` compute, rounded otherwise in the
last bits: each pixel still by the same operations wherever it stands.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from aps_deploy.plugins.cpu import library
from aps_deploy.polyphase.blurred_gpu import blurred_index_on_gpu, blurred_take_on_gpu, fits_gpu_kernels
from aps_deploy.polyphase.exporting import is_exporting
from aps_deploy.polyphase.ops import as_layout_of

_LARGEST_STRIDE = 8

_LIBRARY = torch.library.Library("aps", "FRAGMENT")
for _schema in (
    "blurred_index(Tensor x, Tensor filters, int stride, str criterion) -> Tensor",
    "blurred_take(Tensor x, Tensor filters, Tensor index, int stride) -> Tensor",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def fits_kernels(x: Tensor, filters: Tensor, stride: int) -> bool:
    """Return whether the map ``x`` (N, C, H, W), blurred by ``filters`` (C, 1, f, f), can be sampled by the kernels.

    That is: nothing is differentiated or exported, ``x`` is float32, contiguous and on the CPU, and there are kernels;
    or the GPU's kernels take it.
    """
    if torch.is_grad_enabled() or is_exporting():
        return False
    return _fits_on_cpu(x, filters, stride) or fits_gpu_kernels(x, filters, stride)


def _fits_on_cpu(x: Tensor, filters: Tensor, stride: int) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        and filters.device.type == "cpu"
        and filters.dtype == torch.float32
        and stride <= _LARGEST_STRIDE
        and filters.shape[-1] <= min(x.shape[2:])
        and _kernels_are_used()
    )


def has_kernel(criterion: str, selection: str) -> bool:
    """Return whether the kernels choose by this criterion and mode."""
    return selection == "exact" and criterion in library.CRITERIA


@torch.compiler.assume_constant_result
def _kernels_are_used() -> bool:
    return library.is_used()


def _blurred_index(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    from aps_deploy.plugins.cpu.torch_calls import choose

    return choose(x, filters, stride, criterion)


def _blurred_take(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    from aps_deploy.plugins.cpu.torch_calls import take

    return take(x, filters, index, stride)


_LIBRARY.impl("blurred_index", _blurred_index, "CPU")
_LIBRARY.impl("blurred_take", _blurred_take, "CPU")
_LIBRARY.impl("blurred_index", blurred_index_on_gpu, "CUDA")
_LIBRARY.impl("blurred_take", blurred_take_on_gpu, "CUDA")


@torch.library.register_fake("aps::blurred_index")
def _(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


@torch.library.register_fake("aps::blurred_take")
def _(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    n, channels, height, width = x.shape
    return as_layout_of(x.new_empty(n, channels, height // stride, width // stride), x)


def blurred_index(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    """Return the component (N,) int64 that each image of ``x``, blurred by ``filters``, keeps; see `fits_kernels`."""
    return cast(Tensor, torch.ops.aps.blurred_index(x, filters, stride, criterion))


def blurred_take(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    """Return component ``index[n]`` of every image of ``x``, blurred by ``filters``: (N, C, H/stride, W/stride)."""
    return cast(Tensor, torch.ops.aps.blurred_take(x, filters, index, stride))
