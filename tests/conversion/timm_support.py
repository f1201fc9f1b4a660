"""Short networks of timm's own ResNet class, one of every kind that its names stand for, as if trained."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from tests.conversion.support import NUM_CLASSES, randomised

timm = pytest.importorskip("timm", reason="needs the extra 'timm'")
from timm.layers import BlurPool2d  # noqa: E402
from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402

_DEEP = {"stem_type": "deep", "stem_width": 8, "avg_down": True}
_TIERED = _DEEP | {"stem_type": "deep_tiered"}
_SE: dict[str, Any] = {"block_args": {"attn_layer": "se"}}

KINDS: dict[str, dict[str, Any]] = {
    "resnet": {"block": BasicBlock},
    "resnetd": {"block": BasicBlock, **_DEEP},
    "resnett": {"block": Bottleneck, **_TIERED},
    "resnext": {"block": Bottleneck, "cardinality": 4, "base_width": 16},
    "seresnet": {"block": BasicBlock, **_SE},
    "senet": {"block": Bottleneck, **_DEEP, **_SE, "avg_down": False, "down_kernel_size": 3, "block_reduce_first": 2},
    "ecaresnet": {"block": Bottleneck, **_TIERED, "block_args": {"attn_layer": "eca"}},
    "resnetblur": {"block": BasicBlock, "aa_layer": BlurPool2d},
    "resnetblurd": {"block": Bottleneck, "aa_layer": BlurPool2d, **_DEEP},
    "resnetaa": {"block": BasicBlock, "aa_layer": nn.AvgPool2d, **_DEEP},
    "resnetrs": {"block": Bottleneck, **_DEEP, **_SE, "replace_stem_pool": True},
    "dilated": {"block": BasicBlock, "aa_layer": BlurPool2d, "output_stride": 16},
    "maximum": {"block": BasicBlock, "global_pool": "catavgmax"},
}


def build(**options: Any) -> nn.Module:
    """A ResNet of four blocks with few channels."""
    torch.manual_seed(0)
    narrow = {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40), "num_classes": NUM_CLASSES}
    return randomised(ResNet(**narrow | options))


@functools.cache
def short_resnet(kind: str) -> nn.Module:
    """A network of a kind; do not change it."""
    return build(**KINDS[kind])


def whole_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(name, pretrained=False, num_classes=NUM_CLASSES))
