"""torchvision's classifiers: ``torchvision:resnet50_aps1`` is its resnet50, converted, with filter size 1."""

from __future__ import annotations

import torchvision
from torch import nn

from aps_deploy.conversion.library import Library
from aps_deploy.conversion.plan import Head
from aps_deploy.models.names import TORCHVISION_PREFIX
from aps_deploy.preprocessing import IMAGENET

_WITH_POOLING = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
)
_WITHOUT_POOLING = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
ARCHITECTURES = (*_WITH_POOLING, *_WITHOUT_POOLING)


def _build(arch: str, num_classes: int) -> nn.Module:
    return torchvision.models.get_model(arch, weights=None, num_classes=num_classes)  # type: ignore[no-any-return]


def _head(arch: str) -> Head:
    # VGG's classifiers weigh every position otherwise.
    return "gap" if arch in _WITHOUT_POOLING else None


TORCHVISION = Library(
    title="torchvision",
    prefix=TORCHVISION_PREFIX,
    architectures=ARCHITECTURES,
    families="its ResNet, ResNeXt, Wide ResNet, MobileNet, DenseNet, ConvNeXt and VGG",
    example="resnet50",
    build=_build,
    head=_head,
    preprocessing=lambda _: IMAGENET,
)
