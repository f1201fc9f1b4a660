"""Whether the GPU kernels are used, and why not.

They are used for tensors on an NVIDIA GPU of compute capability 8.0 or newer where Triton is installed, as every
PyTorch for CUDA brings it, and can compile a launch (it needs a C compiler). ``APS_DEPLOY_TRITON=0`` in the environment
turns them off; everything then computes the same with PyTorch's operators. Triton is not imported before `kernels_on`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from types import ModuleType
from typing import TYPE_CHECKING

from aps_deploy.plugins.switch import are_switched_off

if TYPE_CHECKING:
    import torch

SWITCH = "APS_DEPLOY_TRITON"
STRIDES = (2, 3, 4)

_LEAST_CAPABILITY = (8, 0)
# The second axis of a grid, and whole numbers of 32 bits within an image, with room for the rest of a last block.
_MOST_IMAGES = 2**16 - 1
_MOST_VALUES = 2**31 - 2**16

_logger = logging.getLogger(__name__)


def is_used() -> bool:
    """Return whether the kernels are there and not switched off; whether a device can run them, `kernels_on` says."""
    return not are_switched_off() and why_unavailable() is None


@functools.cache
def why_unavailable() -> str | None:
    """Return why the kernels cannot be used in this process, in words; None where they can."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 turns them off"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with PyTorch for CUDA"
    return None


def fits(x: torch.Tensor, stride: int, height: int, width: int) -> bool:
    """Return whether the kernels can sample ``x`` (N, C, H, W), or put it into a larger map.

    Args:
        x: the type, the batch and the channels that count.
        stride: one of `STRIDES`.
        height: of the larger map.
        width: of the larger map.
    """
    import torch

    return (
        x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and stride in STRIDES
        and x.shape[0] <= _MOST_IMAGES
        and x.shape[1] * height * width <= _MOST_VALUES
    )


def kernels_on(device: torch.device) -> ModuleType | None:
    """Return `torch_calls`, or None where the kernels are switched off or do not run on ``device`` (logged once)."""
    if not is_used() or _why_not_on(device) is not None:
        return None
    from aps_deploy.plugins.triton import torch_calls

    return torch_calls


@functools.cache
def _why_not_on(device: torch.device) -> str | None:
    import torch

    reason: str | None
    if torch.version.hip is not None:
        reason = "they are made for NVIDIA GPUs"
    elif torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        reason = "the GPU's compute capability is below 8.0"
    else:
        reason = _why_no_launch(device)
    if reason is not None:
        _logger.warning("the GPU kernels are not used, PyTorch's operators compute the same more slowly: %s", reason)
    return reason


def _why_no_launch(device: torch.device) -> str | None:
    # Triton's first launch compiles a piece of C, and what can go wrong there has no common exception.
    import torch

    try:
        from aps_deploy.plugins.triton.torch_calls import take

        take(torch.zeros(1, 1, 2, 2, device=device), torch.zeros(1, dtype=torch.int64, device=device), 2)
    except Exception as error:
        return f"Triton cannot launch a kernel ({error})"
    return None
