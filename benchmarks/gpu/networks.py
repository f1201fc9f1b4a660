"""Compiled networks on a GPU: what adaptive sampling costs over the same blur and plain striding."""

from __future__ import annotations

from typing import Any

import torch

from aps_deploy.bench.timing import ratios, spread
from benchmarks.calls import random_images, torch_calls
from benchmarks.gpu.timing import seconds_in_turns
from benchmarks.networks import Setting
from benchmarks.reporting import judged

SETTING = "resnet18_aps3:224:64"
# The project's bar, of ResNet-18 in PyTorch compiled at batch 64 and 224 pixels.
MOST_OVER_LPF = 1.10
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def measure(dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Return seconds and ratios of `SETTING` compiled in one type, TF32 off; the ratio over `lpf` has the bar."""
    setting = Setting.parse(SETTING)
    torch.manual_seed(0)
    models = {name: setting.network(name) for name in ("aps", "lpf", "strided")}
    for model in models.values():
        model.load_state_dict(models["aps"].state_dict())
        model.to(device="cuda", dtype=dtype)
    images = random_images((setting.batch, 3, setting.side, setting.side)).to(device="cuda", dtype=dtype)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
        seconds = seconds_in_turns(torch_calls("torch-compiled", {**models}, images), rounds)
    over = {name: spread(ratios(seconds["aps"], seconds[name])) for name in ("lpf", "strided")}
    return {
        "setting": str(setting),
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "aps/lpf": judged(over["lpf"], at_most=MOST_OVER_LPF),
        "aps/strided": over["strided"],
    }
