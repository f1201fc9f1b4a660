"""Maps and filters for the kernels, and the definition they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aps_deploy.layers import circular_pad
from aps_deploy.polyphase import CRITERIA

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels last", "window")


@dataclass(frozen=True)
class Case:
    """A map (N, C, H, W), filters (C, 1, f, f) or None, the stride and the criterion."""

    x: Tensor
    filters: Tensor | None
    stride: int
    criterion: str

    def rolled(self, down: int, right: int) -> Case:
        """Return the case with its map shifted, in the same memory format."""
        moved = torch.roll(self.x, (down, right), (2, 3))
        return replace(self, x=moved.to(memory_format=torch.channels_last) if is_channels_last(self.x) else moved)


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def made(
    shape: tuple[int, int, int, int],
    *,
    stride: int = 2,
    criterion: str = "l2",
    filter_size: int = 1,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Case:
    """Return a case of normal values; a filter size of 1 stands for None."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype)
    filters = torch.rand(shape[1], 1, filter_size, filter_size, generator=generator) / filter_size**2
    x = x.to(device=device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return Case(x, filters.to(device) if filter_size > 1 else None, stride, criterion)


def in_layout(case: Case, layout: str) -> Case:
    """Return a contiguous case in one of `LAYOUTS`; a window is a part of a larger map, as slicing gives it."""
    if layout == "channels last":
        return replace(case, x=case.x.to(memory_format=torch.channels_last))
    if layout == "window":
        return replace(case, x=F.pad(case.x, (1, 2, 0, 1))[:, :, :-1, 1:-2])
    return case


def drawn_settings(count: int, *, most_channels: int, most_steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return arguments of `drawn_case`, the same ones for every caller: any batch, channels, height and width.

    Args:
        count: how many; strides, types, layouts and filter sizes take turns, so that twenty have all of each.
        most_channels: at most so many channels.
        most_steps: height and width are at most so many strides.
        seed: of the shapes, criteria and values.
    """
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        stride, filter_size = 2 + number % 3, (1, 3, 2, 1, 5, 4, 1)[number % 7]
        height, width = (stride * int(steps) for steps in generator.integers(3, most_steps + 1, 2))
        shape = int(generator.integers(1, 5)), int(generator.integers(1, most_channels + 1)), height, width
        found.append(
            {
                "shape": shape,
                "stride": stride,
                "criterion": str(generator.choice(CRITERIA)),
                "filter_size": filter_size,
                "dtype": DTYPES[number // 3 % 3],
                "layout": LAYOUTS[(number + number // 3) % 3],
                "seed": number,
            }
        )
    return found


def drawn_case(*, layout: str, **arguments: Any) -> Case:
    """Return the case of settings that `drawn_settings` gave; ``device`` may be one of them."""
    return in_layout(made(**arguments), layout)


def setting_name(setting: dict[str, Any]) -> str:
    """Return the name of a test with these settings."""
    return "-".join(str(value).removeprefix("torch.").replace(" ", "") for value in setting.values())


def blurred(x: Tensor, filters: Tensor | None) -> Tensor:
    """Return ``x`` filtered with circular borders."""
    if filters is None:
        return x
    size = filters.shape[-1]
    before = (size - 1) // 2
    after = size - 1 - before
    return F.conv2d(circular_pad(x, before, after, before, after), filters.to(x.dtype), groups=x.shape[1])
