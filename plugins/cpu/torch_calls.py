"""The CPU kernels on PyTorch tensors; whoever calls has seen to it that they are used and fit (`library.is_used`)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from aps_deploy.errors import ApsError
from aps_deploy.plugins.cpu.library import CRITERIA, Map, load


def choose(x: Tensor, filters: Tensor, stride: int, criterion: str) -> Tensor:
    """Return the component (N,) int64 that each image of ``x``, blurred by ``filters``, keeps by exact selection.

    Args:
        x: (N, C, H, W) float32, contiguous, on the CPU.
        filters: (C, 1, f, f) float32; f = 1 means that nothing is blurred, whatever the weights.
        stride: 2 to 8, dividing H and W.
        criterion: one of `library.CRITERIA`.

    Raises:
        ApsError: there is no memory for the energies, (N, H, W) float32.
    """
    index = x.new_empty(x.shape[0], dtype=torch.int64)
    filters = filters.contiguous()
    code = _library().aps_choose_on_threads(
        ctypes.byref(_map(x, filters, stride)), CRITERIA.index(criterion), index.data_ptr(), torch.get_num_threads()
    )
    _check(code, x)
    return index


def take(x: Tensor, filters: Tensor, index: Tensor, stride: int) -> Tensor:
    """Return component ``index[n]`` of every image of ``x``, blurred by ``filters``: (N, C, H/stride, W/stride).

    Args:
        x: as in `choose`.
        filters: as in `choose`.
        index: (N,) int64, each 0 to stride**2 - 1.
        stride: as in `choose`.

    Raises:
        ApsError: an index is none of a component.
    """
    n, channels, height, width = x.shape
    taken = x.new_empty(n, channels, height // stride, width // stride)
    filters, index = filters.contiguous(), index.contiguous()
    code = _library().aps_take_on_threads(
        ctypes.byref(_map(x, filters, stride)), index.data_ptr(), taken.data_ptr(), torch.get_num_threads()
    )
    _check(code, x)
    return taken


def put(taken: Tensor, filters: Tensor, index: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Return what `take` gives the map as its gradient: the component put back, then the transposed blur: (N, C, H, W).

    Args:
        taken: (N, C, H/stride, W/stride) float32, contiguous, on the CPU: the gradient of the component.
        filters: as in `choose`.
        index: as in `take`.
        stride: as in `choose`.
        height: H of the map.
        width: W of the map.

    Raises:
        ApsError: an index is none of a component.
    """
    n, channels = taken.shape[:2]
    gradient = taken.new_empty(n, channels, height, width)
    filters, index = filters.contiguous(), index.contiguous()
    code = _library().aps_put_on_threads(
        ctypes.byref(_map(gradient, filters, stride)),
        taken.data_ptr(),
        index.data_ptr(),
        gradient.data_ptr(),
        torch.get_num_threads(),
    )
    _check(code, gradient)
    return gradient


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum of each pixel and its right, lower and lower right neighbours, on the periodic map.

    Args:
        x: (N, C, H, W) float32, contiguous, on the CPU.

    Returns:
        The maxima, of the shape of ``x``, and which each was, uint8 from 0 to 3, the first among equals.
    """
    pooled, kept = torch.empty_like(x), torch.empty_like(x, dtype=torch.uint8)
    n, channels, height, width = x.shape
    code = _library().aps_pool_on_threads(
        x.data_ptr(), n * channels, height, width, pooled.data_ptr(), kept.data_ptr(), torch.get_num_threads()
    )
    _check(code, x)
    return pooled, kept


def spread(pooled: Tensor, kept: Tensor) -> Tensor:
    """Return the gradient of `pool`'s map, given that of its maxima and which they were: all of one shape."""
    gradient = torch.empty_like(pooled)
    n, channels, height, width = pooled.shape
    code = _library().aps_spread_on_threads(
        pooled.data_ptr(), kept.data_ptr(), n * channels, height, width, gradient.data_ptr(), torch.get_num_threads()
    )
    _check(code, pooled)
    return gradient


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None
    return library


def _map(x: Tensor, filters: Tensor, stride: int) -> Map:
    return Map(x.data_ptr(), filters.data_ptr(), *x.shape, filters.shape[-1], stride)


def _check(code: int, x: Tensor) -> None:
    if code == 1:
        raise ApsError(f"there is no memory for the energies of a map of shape {tuple(x.shape)}; use a smaller batch.")
    if code != 0:
        raise ApsError(f"the CPU kernels refuse a map of shape {tuple(x.shape)} or its indices.")
