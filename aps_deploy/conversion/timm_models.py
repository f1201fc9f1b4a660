"""timm's ResNets: ``timm:resnet50d_aps1`` is its resnet50d, converted, with filter size 1.

timm is an optional package, and is imported only where a network or its preprocessing is asked for.
"""

from __future__ import annotations

import math
from importlib import import_module
from types import ModuleType
from typing import cast

from torch import nn

from aps_deploy.conversion.library import Library
from aps_deploy.errors import InputError
from aps_deploy.models.names import TIMM_PREFIX
from aps_deploy.preprocessing import Interpolation, Preprocessing

# All of timm's module "resnet" but resnet50_gn, whose GroupNorm sums over positions in floating point.
ARCHITECTURES = (
    *("resnet10t", "resnet14t", "resnet18", "resnet18d", "resnet26", "resnet26d", "resnet26t", "resnet34", "resnet34d"),
    *("resnet50", "resnet50c", "resnet50d", "resnet50s", "resnet50t", "resnet101", "resnet101c", "resnet101d"),
    *("resnet101s", "resnet152", "resnet152c", "resnet152d", "resnet152s", "resnet200", "resnet200d"),
    *("resnext50_32x4d", "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d"),
    *("resnext101_32x32d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("seresnet18", "seresnet34", "seresnet50", "seresnet50t", "seresnet101", "seresnet152", "seresnet152d"),
    *("seresnet200d", "seresnet269d", "seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext50_32x4d"),
    *("seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d", "seresnext101d_32x8d", "senet154"),
    *("ecaresnet26t", "ecaresnet50d", "ecaresnet50t", "ecaresnet101d", "ecaresnet200d", "ecaresnet269d"),
    *("ecaresnet50d_pruned", "ecaresnet101d_pruned", "ecaresnetlight", "ecaresnext26t_32x4d", "ecaresnext50t_32x4d"),
    *("resnetblur18", "resnetblur50", "resnetblur50d", "resnetblur101d"),
    *("resnetaa34d", "resnetaa50", "resnetaa50d", "resnetaa101d", "seresnetaa50d"),
    *("seresnextaa101d_32x8d", "seresnextaa201d_32x8d"),
    *("resnetrs50", "resnetrs101", "resnetrs152", "resnetrs200", "resnetrs270", "resnetrs350", "resnetrs420"),
    "test_resnet",
)


def _timm(arch: str) -> ModuleType:
    try:
        timm = import_module("timm")
        import_module("timm.data")
        return timm
    except ModuleNotFoundError as error:
        raise InputError(
            f'{TIMM_PREFIX}{arch} is built with timm, which is not installed; install it with: pip install -e ".[timm]"'
        ) from error


def _build(arch: str, num_classes: int) -> nn.Module:
    network = _timm(arch).create_model(arch, pretrained=False, num_classes=num_classes)
    return cast(nn.Module, network)


def preprocessing_of(arch: str) -> Preprocessing:
    """Return how timm prepares images for evaluation, as one of its pretrained configurations says.

    Source: timm's ``transforms_imagenet_eval``, crop mode ``center``, which all of its ResNets have.

    Args:
        arch: ``resnet50`` for timm's first configuration of that name, or ``resnet50.a1_in1k`` for the one of a tag.

    Raises:
        InputError: there is no such tag, or timm is not installed.
    """
    timm = _timm(arch)
    try:
        stated = timm.models.get_pretrained_cfg(arch).to_dict()
    except RuntimeError as error:
        name, _, tag = arch.partition(".")
        known = ", ".join(timm.list_pretrained(f"{name}.*")) or f"none; use {name}"
        raise InputError(f"timm has no weights {tag!r} of {name}; it has: {known}.") from error
    config = timm.data.resolve_data_config(pretrained_cfg=stated)
    side, interpolation = int(config["input_size"][1]), cast(Interpolation, config["interpolation"])
    resize = math.floor(side / config["crop_pct"])
    return Preprocessing(side, resize, config["mean"], config["std"], interpolation=interpolation)


TIMM = Library(
    title="timm",
    prefix=TIMM_PREFIX,
    architectures=ARCHITECTURES,
    families="its ResNet, ResNeXt, Wide ResNet, SE-ResNet, SENet, ECA-ResNet, ResNet-RS, and ResNet-blur and -aa",
    example="resnet50d",
    build=_build,
    head=lambda _: None,
    preprocessing=preprocessing_of,
)
