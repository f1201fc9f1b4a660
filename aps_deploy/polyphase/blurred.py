"""Choosing and taking from a blurred map, by kernels that never write the blurred map.

    aps::blurred_index(x, filters, stride, criterion) -> index     polyphase_index of the blurred map, exact selection
    aps::blurred_take(x, filters, index, stride) -> y              polyphase_take of the blurred map
    aps::blurred_put(y, filters, index, stride, height, width)     its gradient: the component put back, blurred by the
                                                                   transposed filters

What they compute is what `Blur` and the ops of `polyphase.ops` compute, rounded otherwise in the last bits: each pixel
still by the same operations wherever it stands. Gradients flow through the values taken, to the map alone.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from aps_deploy.errors import ApsError
from aps_deploy.plugins.cpu import library
from aps_deploy.polyphase.blurred_gpu import (
    blurred_index_on_gpu,
    blurred_put_on_gpu,
    blurred_take_on_gpu,
    fits_gpu_kernels,
)
from aps_deploy.polyphase.exporting import is_exporting
from aps_deploy.polyphase.ops import as_layout_of

_LARGEST_STRIDE = 8

_LIBRARY = torch.library.Library("aps", "FRAGMENT")
for _schema in (
    "blurred_index(Tensor x, Tensor filters, int stride, str criterion) -> Tensor",
    "blurred_take(Tensor x, Tensor filters, Tensor index, int stride) -> Tensor",
    "blurred_put(Tensor grad, Tensor filters, Tensor index, int stride, int height, int width) -> Tensor",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def fits_cpu(x: Tensor) -> bool:
    """Return whether the kernels take the map ``x`` (N, C, H, W), whatever they do with it.

    That is: nothing is exported, ``x`` is float32, contiguous and on the CPU, and there are kernels.
    """
    return (
        not _is_being_exported()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        and _kernels_are_used()
    )


def fits_kernels(x: Tensor, filters: Tensor, stride: int) -> bool:
    """Return whether the map ``x`` (N, C, H, W), blurred by ``filters`` (C, 1, f, f), can be sampled by the kernels.

    The CPU's kernels take what `fits_cpu` says, the GPU's what `blurred_gpu` says; neither exports. The filters need no
    gradient: they are given, not learnt.
    """
    if _is_being_exported() or filters.requires_grad:
        return False
    return _fits_on_cpu(x, filters, stride) or fits_gpu_kernels(x, filters, stride)


def _fits_on_cpu(x: Tensor, filters: Tensor, stride: int) -> bool:
    return (
        fits_cpu(x)
        and filters.device.type == "cpu"
        and filters.dtype == torch.float32
        and stride <= _LARGEST_STRIDE
        and filters.shape[-1] <= min(x.shape[2:])
    )


def _is_being_exported() -> bool:
    return is_exporting() or torch.compiler.is_exporting()


def has_kernel(criterion: str, selection: str) -> bool:
    """Return whether the kernels choose by this criterion and mode."""
    return selection == "exact" and criterion in library.CRITERIA


@torch.compiler.assume_constant_result
def _kernels_are_used() -> bool:
    return library.is_used()


# A compiler may lay out a map or a gradient in another order than the one that `fits_kernels` saw.
def _blurred_index(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    from aps_deploy.plugins.cpu.torch_calls import choose

    return choose(x.contiguous(), filters, stride, criterion)


def _blurred_take(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    from aps_deploy.plugins.cpu.torch_calls import take

    return as_layout_of(take(x.contiguous(), filters, index, stride), x)


def _blurred_put(grad: Tensor, filters: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    from aps_deploy.plugins.cpu.torch_calls import put

    return as_layout_of(put(grad.contiguous(), filters, index, stride, height, width), grad)


_LIBRARY.impl("blurred_index", _blurred_index, "CPU")
_LIBRARY.impl("blurred_take", _blurred_take, "CPU")
_LIBRARY.impl("blurred_index", blurred_index_on_gpu, "CUDA")
_LIBRARY.impl("blurred_take", blurred_take_on_gpu, "CUDA")
_LIBRARY.impl("blurred_put", _blurred_put, "CPU")
_LIBRARY.impl("blurred_put", blurred_put_on_gpu, "CUDA")


@torch.library.register_fake("aps::blurred_index")
def _(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


@torch.library.register_fake("aps::blurred_take")
def _(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    n, channels, height, width = x.shape
    return as_layout_of(x.new_empty(n, channels, height // stride, width // stride), x)


@torch.library.register_fake("aps::blurred_put")
def _(grad: Tensor, filters: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    return as_layout_of(grad.new_empty(grad.shape[0], grad.shape[1], height, width), grad)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    if ctx.needs_input_grad[1]:
        raise ApsError("the kernels have no gradient for the filters of a blur; detach them, or use Blur.")
    ctx.save_for_backward(inputs[1], inputs[2])
    ctx.stride, ctx.size = inputs[3], inputs[0].shape[2:]


def _take_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    filters, index = ctx.saved_tensors
    return torch.ops.aps.blurred_put(grad, filters, index, ctx.stride, *ctx.size), None, None, None


def _put_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
    filters, index = ctx.saved_tensors
    return torch.ops.aps.blurred_take(grad, filters, index, ctx.stride), None, None, None, None, None


torch.library.register_autograd("aps::blurred_take", _take_backward, setup_context=_save)
torch.library.register_autograd("aps::blurred_put", _put_backward, setup_context=_save)


def blurred_index(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    """Return the component (N,) int64 that each image of ``x``, blurred by ``filters``, keeps; see `fits_kernels`."""
    return cast(Tensor, torch.ops.aps.blurred_index(x, filters, stride, criterion))


def blurred_take(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    """Return component ``index[n]`` of every image of ``x``, blurred by ``filters``: (N, C, H/stride, W/stride)."""
    return cast(Tensor, torch.ops.aps.blurred_take(x, filters, index, stride))
