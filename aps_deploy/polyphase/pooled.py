"""The 2 x 2 maximum pool of stride 1 on a periodic map, as it stands before a selection, by a kernel on a CPU.

    aps::wrapped_pool(x) -> (y, kept)     the maximum of each pixel and its right, lower and lower right neighbours, and
                                          which of them it was, 0 to 3, the first among equals
    aps::wrapped_spread(y, kept) -> x     its gradient

Bit for bit what padding and `max_pool2d` compute. PyTorch's own loop keeps an int64 for every pixel and is not
vectorised for contiguous maps.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from aps_deploy.polyphase.blurred import fits_cpu

_LIBRARY = torch.library.Library("aps", "FRAGMENT")
for _schema in ("wrapped_pool(Tensor x) -> (Tensor, Tensor)", "wrapped_spread(Tensor y, Tensor kept) -> Tensor"):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _wrapped_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    from aps_deploy.plugins.cpu.torch_calls import pool

    return pool(x.contiguous())


def _wrapped_spread(y: Tensor, kept: Tensor) -> Tensor:
    from aps_deploy.plugins.cpu.torch_calls import spread

    return spread(y.contiguous(), kept)


_LIBRARY.impl("wrapped_pool", _wrapped_pool, "CPU")
_LIBRARY.impl("wrapped_spread", _wrapped_spread, "CPU")


@torch.library.register_fake("aps::wrapped_pool")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.uint8)


@torch.library.register_fake("aps::wrapped_spread")
def _(y: Tensor, kept: Tensor) -> Tensor:
    return y.new_empty(y.shape)


def _save_kept(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _pool_backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:
    return cast(Tensor, torch.ops.aps.wrapped_spread(grad, *ctx.saved_tensors))


def _save_given(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _spread_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (kept,) = ctx.saved_tensors
    corners = [torch.roll(grad, (-dy, -dx), (2, 3)) for dy in (0, 1) for dx in (0, 1)]
    return torch.stack(corners, dim=4).gather(4, kept.long().unsqueeze(4)).squeeze(4), None


torch.library.register_autograd("aps::wrapped_pool", _pool_backward, setup_context=_save_kept)
torch.library.register_autograd("aps::wrapped_spread", _spread_backward, setup_context=_save_given)


def fits_pool_kernel(x: Tensor) -> bool:
    """Return whether `wrapped_pool` takes the map ``x`` (N, C, H, W)."""
    return x.dim() == 4 and fits_cpu(x)


def wrapped_pool(x: Tensor) -> Tensor:
    """Return the maxima of ``x`` (N, C, H, W) over 2 x 2 pixels, of its shape; see `fits_pool_kernel`."""
    return cast(Tensor, torch.ops.aps.wrapped_pool(x)[0])
