"""Polyphase components, in plain PyTorch.

Notation, the same in every runtime of the project. ``x`` is (N, C, H, W) and ``s`` the stride. Component

    k = dy + s * dx   is   x[:, :, dy::s, dx::s],     0 <= dy, dx < s,

the numbering of the authors of Adaptive Polyphase Sampling (Chaman and Dokmanic, CVPR 2021): for s = 2 the four
components are x[::2, ::2], x[1::2, ::2], x[::2, 1::2] and x[1::2, 1::2] in this order. Among equal scores the lowest
index wins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aps_deploy.errors import InputError


def check_divisible(height: int, width: int, stride: int, where: str = "polyphase sampling") -> None:
    """Refuse maps whose sides are not multiples of the stride.

    Raises:
        InputError: with the place, the size seen and the next size that works.
    """
    if stride < 2:
        raise InputError(f"{where}: stride {stride} does not downsample; use a stride of 2 or more.")
    if height % stride or width % stride:
        valid = f"{-(-height // stride) * stride}x{-(-width // stride) * stride}"
        raise InputError(
            f"{where}: a {height}x{width} map cannot be split into {stride}x{stride} polyphase components of equal "
            f"size; both sides must be multiples of {stride}, the next valid size is {valid}."
        )


def polyphase_components(x: Tensor, stride: int = 2) -> Tensor:
    """Return all components of ``x`` (N, C, H, W) as (N, stride**2, C, H/stride, W/stride), in order of k.

    Raises:
        InputError: H or W is not a multiple of the stride.
    """
    check_divisible(x.shape[-2], x.shape[-1], stride)
    return torch.stack([x[:, :, k % stride :: stride, k // stride :: stride] for k in range(stride**2)], dim=1)


def take_component(x: Tensor, index: Tensor, stride: int = 2) -> Tensor:
    """Return component ``index[n]`` of every image n of ``x`` (N, C, H, W): (N, C, H/stride, W/stride)."""
    images = torch.arange(x.shape[0], device=x.device)
    return polyphase_components(x, stride)[images, index]
