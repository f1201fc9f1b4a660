"""Under which settings of cuDNN the logits of a network keep every bit when the image is shifted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from aps_deploy.models import create_model

ARCHITECTURE = "resnet18_aps3"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SIDE = 224


@dataclass(frozen=True)
class CudnnSettings:
    """How PyTorch is told to compute convolutions.

    Attributes:
        enabled: cuDNN computes them, else PyTorch's own kernels.
        deterministic: only algorithms that give the same result every time.
        benchmark: the algorithm is chosen by timing, for every shape.
        allow_tf32: float32 products may be rounded to TF32.
        channels_last: the network and its maps are in this memory format.
    """

    enabled: bool = True
    deterministic: bool = False
    benchmark: bool = False
    allow_tf32: bool = False
    channels_last: bool = False


# PyTorch's own defaults first.
SETTINGS = (
    CudnnSettings(allow_tf32=True),
    CudnnSettings(),
    CudnnSettings(deterministic=True),
    CudnnSettings(deterministic=True, allow_tf32=True),
    CudnnSettings(benchmark=True),
    CudnnSettings(deterministic=True, benchmark=True),
    CudnnSettings(channels_last=True),
    CudnnSettings(deterministic=True, channels_last=True),
    CudnnSettings(deterministic=True, allow_tf32=True, channels_last=True),
    CudnnSettings(enabled=False),
)


def measure(dtype: torch.dtype, settings: CudnnSettings, num_images: int, num_shifts: int) -> dict[str, Any]:
    """Return of how many shifted images the logits are the same bits, and how far the others are off."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = create_model(ARCHITECTURE).eval().to(device="cuda", dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(num_images, 3, SIDE, SIDE).to(device="cuda", dtype=dtype)
    flags = torch.backends.cudnn.flags(
        enabled=settings.enabled,
        benchmark=settings.benchmark,
        deterministic=settings.deterministic,
        allow_tf32=settings.allow_tf32,
    )
    with torch.inference_mode(), flags:
        still = model(images.contiguous(memory_format=layout))
        moved = [model(image.contiguous(memory_format=layout)) for image in _shifted(images, num_shifts)]
    return {**named(dtype, settings), **compared(still, moved)}


def named(dtype: torch.dtype, settings: CudnnSettings) -> dict[str, Any]:
    """Return what tells a record apart."""
    return {"dtype": str(dtype).removeprefix("torch."), **asdict(settings)}


def compared(still: Tensor, moved: list[Tensor]) -> dict[str, Any]:
    """Return how many rows of logits (N, classes) in ``moved`` are the same bits as those of ``still``."""
    same = sum(int((logits == still).all(dim=1).sum()) for logits in moved)
    # By torch, whose maximum of a NaN is a NaN wherever it stands.
    differences = torch.stack([(logits.double() - still.double()).abs().max() for logits in moved])
    return {"identical": same, "of": len(moved) * len(still), "largest_difference": float(differences.max())}


def _shifted(images: Tensor, num_shifts: int) -> Iterable[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_shifts):
        down, right = torch.randint(1, SIDE, (2,), generator=generator).tolist()
        yield torch.roll(images, (down, right), (2, 3))
