"""The operation as PyTorch custom ops, so that torch.compile and torch.export keep it whole.

    aps::polyphase_index(x, stride, criterion, selection) -> index     which component each image keeps
    aps::polyphase_take(x, index, stride) -> y                         that component
    aps::polyphase_put(y, index, stride, height, width) -> x           its gradient: the component put back
    aps::exact_mean(x) -> mean                                         position-independent global average

The index carries no gradient; gradients flow through the values taken. Autocast leaves the ops alone: they widen
narrow inputs themselves, because norms in half precision would break the selection.

On a GPU the first three are the kernels of `plugins.triton` where these can be used (see its `usage`); else, and on
every other device, what is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from aps_deploy.polyphase.criteria import is_additive, resolve_criterion, resolve_selection_mode
from aps_deploy.polyphase.definition import check_divisible
from aps_deploy.polyphase.exact import exact_spatial_mean
from aps_deploy.polyphase.gpu import kernels_for
from aps_deploy.polyphase.selection import choose, component_scores

# torch.library.custom_op says the same in fewer words, but its first call imports the whole compiler (seconds of a
# cold `predict`); the registrations it makes are made here one by one.
_LIBRARY = torch.library.Library("aps", "DEF")


def _kernel(schema: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Define an op of the ``aps`` namespace, the decorated function computing it on every device."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        return function

    return register


def _on_gpu(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Let the decorated function compute an op on CUDA devices."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _LIBRARY.impl(name, function, "CUDA")
        return function

    return register


def as_layout_of(result: Tensor, like: Tensor) -> Tensor:
    """Return ``result`` in the memory format of ``like``: channels-last, or contiguous for every other."""
    # Real and fake kernels must agree on strides; channels-last networks stay channels-last.
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return result.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _component_view(x: Tensor, stride: int) -> Tensor:
    """Return ``x`` (N, C, H, W) viewed as (N, dx, dy, C, H/stride, W/stride)."""
    height, width = x.shape[2:]
    split = x.unflatten(3, (width // stride, stride)).unflatten(2, (height // stride, stride))
    return cast(Tensor, split.permute(0, 5, 3, 1, 2, 4))


@_kernel("polyphase_index(Tensor x, int stride, str criterion, str selection) -> Tensor")
def _polyphase_index(x: Tensor, stride: int, criterion: str, selection: str) -> Tensor:
    name, mode = resolve_criterion(criterion), resolve_selection_mode(selection)
    with torch.no_grad():
        return choose(component_scores(x, stride, name, mode), name)


@_on_gpu("polyphase_index")
def _polyphase_index_on_gpu(x: Tensor, stride: int, criterion: str, selection: str) -> Tensor:
    name, mode = resolve_criterion(criterion), resolve_selection_mode(selection)
    kernels = None if is_additive(name) and mode == "float" else kernels_for(x, stride)
    if kernels is None:
        return _polyphase_index(x, stride, criterion, selection)
    check_divisible(x.shape[2], x.shape[3], stride)
    return cast(Tensor, kernels.choose(x, stride, name))


@torch.library.register_fake("aps::polyphase_index")
def _(x: Tensor, stride: int, criterion: str, selection: str) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


@_kernel("polyphase_take(Tensor x, Tensor index, int stride) -> Tensor")
def _polyphase_take(x: Tensor, index: Tensor, stride: int) -> Tensor:
    check_divisible(x.shape[2], x.shape[3], stride)
    images = torch.arange(x.shape[0], device=x.device)
    return as_layout_of(_component_view(x, stride)[images, index // stride, index % stride], x)


@_on_gpu("polyphase_take")
def _polyphase_take_on_gpu(x: Tensor, index: Tensor, stride: int) -> Tensor:
    kernels = kernels_for(x, stride)
    if kernels is None:
        return _polyphase_take(x, index, stride)
    check_divisible(x.shape[2], x.shape[3], stride)
    return cast(Tensor, kernels.take(x, index, stride))


@torch.library.register_fake("aps::polyphase_take")
def _(x: Tensor, index: Tensor, stride: int) -> Tensor:
    n, channels, height, width = x.shape
    return as_layout_of(x.new_empty(n, channels, height // stride, width // stride), x)


@_kernel("polyphase_put(Tensor y, Tensor index, int stride, int height, int width) -> Tensor")
def _polyphase_put(y: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    x = as_layout_of(y.new_zeros(y.shape[0], y.shape[1], height, width), y)
    images = torch.arange(y.shape[0], device=y.device)
    _component_view(x, stride)[images, index // stride, index % stride] = y
    return x


@_on_gpu("polyphase_put")
def _polyphase_put_on_gpu(y: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    kernels = kernels_for(y, stride, height, width)
    if kernels is None:
        return _polyphase_put(y, index, stride, height, width)
    return cast(Tensor, kernels.put(y, index, stride, height, width))


@torch.library.register_fake("aps::polyphase_put")
def _(y: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    return as_layout_of(y.new_empty(y.shape[0], y.shape[1], height, width), y)


@_kernel("exact_mean(Tensor x) -> Tensor")
def _exact_mean(x: Tensor) -> Tensor:
    return exact_spatial_mean(x)


@torch.library.register_fake("aps::exact_mean")
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2])


def _save_index(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.stride, ctx.size = inputs[2], inputs[0].shape[2:]


def _take_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    height, width = ctx.size
    return torch.ops.aps.polyphase_put(grad, index, ctx.stride, height, width), None, None


def _put_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    (index,) = ctx.saved_tensors
    return torch.ops.aps.polyphase_take(grad, index, ctx.stride), None, None, None, None


def _save_shape(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.shape = inputs[0].shape


def _mean_backward(ctx: Any, grad: Tensor) -> Tensor:
    # The plain mean's gradient: rounding to integers has none of its own.
    height, width = ctx.shape[2:]
    return cast(Tensor, (grad / (height * width))[:, :, None, None].expand(ctx.shape))


torch.library.register_autograd("aps::polyphase_take", _take_backward, setup_context=_save_index)
torch.library.register_autograd("aps::polyphase_put", _put_backward, setup_context=_save_index)
torch.library.register_autograd("aps::exact_mean", _mean_backward, setup_context=_save_shape)


def polyphase_index(x: Tensor, stride: int = 2, criterion: str = "l2", selection: str = "exact") -> Tensor:
    """Return the component each image of ``x`` (N, C, H, W) keeps, (N,) int64; see :func:`selection.select`."""
    return cast(Tensor, torch.ops.aps.polyphase_index(x, stride, criterion, selection))


def polyphase_take(x: Tensor, index: Tensor, stride: int = 2) -> Tensor:
    """Return component ``index[n]`` of every image of ``x`` (N, C, H, W): (N, C, H/stride, W/stride)."""
    return cast(Tensor, torch.ops.aps.polyphase_take(x, index, stride))


def polyphase_put(y: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Return (N, C, height, width) with ``y`` as component ``index[n]`` of every image, and 0 elsewhere."""
    return cast(Tensor, torch.ops.aps.polyphase_put(y, index, stride, height, width))


def polyphase_select(
    x: Tensor, stride: int = 2, criterion: str = "l2", selection: str = "exact"
) -> tuple[Tensor, Tensor]:
    """Return the kept component (N, C, H/stride, W/stride) of every image of ``x``, and its index (N,) int64."""
    index = polyphase_index(x, stride, criterion, selection)
    return polyphase_take(x, index, stride), index


def exact_mean(x: Tensor) -> Tensor:
    """Return the position-independent mean (N, C) of ``x`` (N, C, H, W); see :func:`exact.exact_spatial_mean`."""
    return cast(Tensor, torch.ops.aps.exact_mean(x))
