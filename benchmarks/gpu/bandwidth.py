"""The selection kernels beside a plain copy: bytes that must move, over seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from aps_deploy.bench.timing import ratios, spread
from aps_deploy.layers import binomial_kernel
from benchmarks.gpu.timing import seconds_in_turns
from benchmarks.reporting import judged

# Of the bandwidth of a copy, on maps of SMALLEST bytes and more.
LEAST_OF_COPY = 0.70
SMALLEST_BYTES = 64 * 2**20
# (N, C, H, W); each at least 64 MiB in two bytes a value: many images and one.
SHAPES = ((64, 64, 112, 112), (64, 256, 56, 56), (128, 512, 28, 28), (1, 64, 1024, 1024))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Setting:
    """A map and how it is sampled; a filter size of 1 means that it is not blurred."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    channels_last: bool = False
    filter_size: int = 1
    stride: int = 2

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.shape)), str(self.dtype).removeprefix("torch."), f"stride {self.stride}"]
        return ", ".join(
            parts + ["channels last"] * self.channels_last + [f"blur {self.filter_size}"] * self.is_blurred
        )

    @property
    def is_blurred(self) -> bool:
        """Return whether the kernels blur."""
        return self.filter_size > 1


def settings() -> Iterable[Setting]:
    """Yield what is measured."""
    for shape in SHAPES:
        for dtype in DTYPES:
            for channels_last in (False, True):
                for filter_size in (1, 3):
                    yield Setting(shape, dtype, channels_last, filter_size)
    for stride in (3, 4):
        yield Setting((64, 64, 120, 120), torch.float32, stride=stride)


def counted_bytes(num_bytes: int, stride: int) -> int:
    """Return the bytes that a selection must move for a map of ``num_bytes``.

    The map is read once; the kept component, 1 / stride**2 of it, is read again and written.
    """
    return num_bytes + 2 * num_bytes // stride**2


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Return the record of one setting: GB/s of a copy and of the selection, and their ratio beside its bar."""
    from aps_deploy.plugins.triton.torch_calls import select

    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    x = torch.randn(setting.shape, device="cuda").to(setting.dtype, memory_format=layout)
    kernel = binomial_kernel(setting.filter_size).expand(setting.shape[1], 1, -1, -1).contiguous().cuda()
    filters = kernel if setting.is_blurred else None
    copy = torch.empty_like(x)
    num_bytes = x.numel() * x.element_size()
    assert num_bytes >= SMALLEST_BYTES
    seconds = seconds_in_turns(
        {"copy": lambda: copy.copy_(x), "select": lambda: select(x, setting.stride, "l2", filters)}, rounds
    )
    copied = [2 * num_bytes / value for value in seconds["copy"]]
    selected = [counted_bytes(num_bytes, setting.stride) / value for value in seconds["select"]]
    return {
        "setting": str(setting),
        "copy_gb_per_s": statistics.median(copied) / 1e9,
        "select_gb_per_s": statistics.median(selected) / 1e9,
        "of_copy": judged(spread(ratios(selected, copied)), at_least=LEAST_OF_COPY),
    }
