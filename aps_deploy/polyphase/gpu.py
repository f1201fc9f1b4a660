"""The door to the GPU kernels: opened by the first call with a tensor on a GPU, so that nobody else imports Triton."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from aps_deploy.plugins.triton import usage


def kernels_for(x: Tensor, stride: int, height: int | None = None, width: int | None = None) -> ModuleType | None:
    """Return `aps_deploy.plugins.triton.torch_calls` where its functions take ``x`` (N, C, H, W), else None.

    ``height`` and ``width`` are those of the map that a component ``x`` is put into.
    """
    fits = usage.fits(x, stride, x.shape[2] if height is None else height, x.shape[3] if width is None else width)
    return usage.kernels_on(x.device) if fits else None
