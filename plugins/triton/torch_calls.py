"""The kernels on PyTorch tensors; whoever calls has seen to it that they fit (`usage`).

Maps ``x`` are (N, C, H, W), float32, float16 or bfloat16, H and W multiples of the stride, on a CUDA device (in
Triton's interpreter on the CPU). Those in channels-last order give results in that order, all others contiguous ones.
``filters`` (C, 1, f, f), f up to 7 and no larger than the map, blur it with circular borders before anything else is
done; None, or f = 1: nothing is blurred, whatever the weights.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from aps_deploy.plugins.triton import tiles
from aps_deploy.plugins.triton.ahead_of_time import OPTIONS
from aps_deploy.plugins.triton.kernels import energies, scores, taking


def choose(x: Tensor, stride: int, criterion: str, filters: Tensor | None = None) -> Tensor:
    """Return the component (N,) int64 that each image of ``x`` keeps by exact selection; 0 where one is not finite."""
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    if len(x):
        partial = score(x, stride, criterion, filters)
        _launch(scores.decide, (len(x),), partial, index, **_choice(criterion), STRIDE=stride, PARTS=partial.shape[1])
    return index


def score(x: Tensor, stride: int, criterion: str, filters: Tensor | None = None) -> Tensor:
    """Return the partial scores (N, parts, stride**2) int64 of the components of ``x``, N not 0; see `scores.score`."""
    x, size = _in_order(x), _filter_size(filters)
    n, channels, height, width = x.shape
    norm = criterion.removesuffix("_min")
    tile = tiles.energy_tile(channels, height * width, size)
    num_blocks = tiles.num_blocks(height * width, tile.block_pixels)
    energy = x.new_empty(n, height, width, dtype=torch.float32)
    maxima = x.new_empty(n, num_blocks, dtype=torch.float32)
    constants = {"NORM": norm, "CHANNELS_LAST": _is_channels_last(x), **tile.constants()}
    if filters is None or size == 1:
        _launch(energies.energy, (num_blocks, n), x, channels, height * width, energy, maxima, **constants)
    else:
        sizes = (channels, height, width)
        _launch(
            energies.blurred_energy,
            (num_blocks, n),
            *(x, filters.contiguous(), *sizes, energy, maxima),
            FILTER_SIZE=size,
            **constants,
        )
    parts = tiles.num_parts(height, width, stride)
    partial = x.new_empty(n, parts, stride**2, dtype=torch.int64)
    _launch(
        scores.score,
        (parts, n),
        *(energy, maxima, height, width, partial),
        NORM=norm,
        STRIDE=stride,
        ENERGY_PIXELS=tile.block_pixels,
        **tiles.score_constants(stride),
    )
    return partial


def select(x: Tensor, stride: int, criterion: str, filters: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the kept component (N, C, H/stride, W/stride) of every image and its index (N,) int64, in three launches.

    The same as `choose` and then `take`, by the kernels that a plugin runs.
    """
    x, size = _in_order(x), _filter_size(filters)
    n, channels, height, width = x.shape
    y = _empty(x, height // stride, width // stride)
    index = torch.empty(n, dtype=torch.int64, device=x.device)
    if y.numel() == 0:
        return y, index
    partial = score(x, stride, criterion, filters)
    grid = (tiles.num_blocks(y[0].numel(), tiles.copying_block(size)), n)
    constants = {**_choice(criterion), "PARTS": partial.shape[1], **_copying(x, stride, size)}
    results = (partial, channels, height, width, y, index)
    if filters is None or size == 1:
        _launch(taking.select, grid, x, *results, **constants)
    else:
        _launch(taking.blurred_select, grid, x, filters.contiguous(), *results, FILTER_SIZE=size, **constants)
    return y, index


def take(x: Tensor, index: Tensor, stride: int, filters: Tensor | None = None) -> Tensor:
    """Return component ``index[n]`` of every image of ``x``, (N, C, H/stride, W/stride); ``index`` (N,) is int64.

    An index that is none of a component gives NaN.
    """
    x, size = _in_order(x), _filter_size(filters)
    n, channels, height, width = x.shape
    y = _empty(x, height // stride, width // stride)
    if y.numel() == 0:
        return y
    grid = (tiles.num_blocks(y[0].numel(), tiles.copying_block(size)), n)
    results = (index.contiguous(), channels, height, width, y)
    if filters is None or size == 1:
        _launch(taking.take, grid, x, *results, **_copying(x, stride, size))
    else:
        _launch(
            taking.blurred_take, grid, x, filters.contiguous(), *results, FILTER_SIZE=size, **_copying(x, stride, size)
        )
    return y


def put(y: Tensor, index: Tensor, stride: int, height: int, width: int, filters: Tensor | None = None) -> Tensor:
    """Return the gradient (N, C, height, width) of `take` for the gradient ``y`` of what it took."""
    y, size = _in_order(y), _filter_size(filters)
    n, channels = y.shape[:2]
    x = _empty(y, height, width)
    if x.numel() == 0:
        return x
    grid = (tiles.num_blocks(x[0].numel(), tiles.copying_block(size)), n)
    results = (index.contiguous(), channels, height, width, x)
    if filters is None or size == 1:
        _launch(taking.put, grid, y, *results, **_copying(y, stride, size))
    else:
        _launch(
            taking.blurred_put, grid, y, filters.contiguous(), *results, FILTER_SIZE=size, **_copying(y, stride, size)
        )
    return x


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    # Triton launches on the current device, whichever the tensors are on.
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, **constants, **OPTIONS)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _in_order(x: Tensor) -> Tensor:
    return x if _is_channels_last(x) else x.contiguous()


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    layout = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _filter_size(filters: Tensor | None) -> int:
    return 1 if filters is None else filters.shape[-1]


def _choice(criterion: str) -> dict[str, Any]:
    return {"NORM": criterion.removesuffix("_min"), "KEEPS_SMALLEST": criterion.endswith("_min")}


def _copying(x: Tensor, stride: int, filter_size: int) -> dict[str, Any]:
    return {"STRIDE": stride, "CHANNELS_LAST": _is_channels_last(x), "BLOCK": tiles.copying_block(filter_size)}
