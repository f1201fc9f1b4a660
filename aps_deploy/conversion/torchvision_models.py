"""torchvision's classifiers by name: ``torchvision:resnet50_aps1`` is its resnet50, converted, with filter size 1.

Only families that were proven are listed: exported, verified, and bit-identical under shifts in ONNX Runtime.
"""

from __future__ import annotations

import re

import torchvision
from torch import nn

from aps_deploy.conversion.analysis import Head
from aps_deploy.conversion.converted import ConvertedModel
from aps_deploy.conversion.converting import convert
from aps_deploy.errors import InputError, near_matches
from aps_deploy.models.names import TORCHVISION_PREFIX
from aps_deploy.polyphase import Criterion, SelectionMode

_WITH_POOLING = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
)
_WITHOUT_POOLING = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
ARCHITECTURES = (*_WITH_POOLING, *_WITHOUT_POOLING)


def create_original(arch: str, *, num_classes: int) -> nn.Module:
    """Return torchvision's own network with random weights, in training mode.

    Raises:
        InputError: an architecture that is not listed.
    """
    if arch not in ARCHITECTURES:
        raise InputError(
            f"{arch!r} is no architecture of torchvision that is converted by name"
            f"{near_matches(arch, ARCHITECTURES)}; those that are: its ResNet, ResNeXt, Wide ResNet, MobileNet, "
            "DenseNet, ConvNeXt and VGG."
        )
    return torchvision.models.get_model(arch, weights=None, num_classes=num_classes)  # type: ignore[no-any-return]


def converted_name(arch: str, filter_size: int) -> str:
    """Return the name under which a converted architecture is known."""
    return f"{TORCHVISION_PREFIX}{arch}_aps{filter_size}"


def parse_name(name: str) -> tuple[str, int]:
    """Return architecture and filter size of ``torchvision:resnet50_aps1``.

    Raises:
        InputError: a name of another form, or of no listed architecture.
    """
    match = re.fullmatch(rf"{TORCHVISION_PREFIX}(\w+?)_aps([1-7])", name)
    if match is None:
        raise InputError(
            f"{name!r} does not name a converted network; the form is {TORCHVISION_PREFIX}NAME_apsJ with a filter size "
            f"J of 1 to 7, such as {converted_name('resnet50', 1)}."
        )
    if match[1] not in ARCHITECTURES:
        create_original(match[1], num_classes=1)  # says which there are
    return match[1], int(match[2])


def head_of(arch: str) -> Head:
    """Return the head that an architecture needs: VGG's classifiers weigh every position otherwise."""
    return "gap" if arch in _WITHOUT_POOLING else None


def create_converted(
    name: str,
    *,
    num_classes: int | None = None,
    criterion: Criterion | str = "l2",
    selection: SelectionMode | str = "exact",
) -> ConvertedModel:
    """Return a converted network with random weights, in training mode; see `aps_deploy.create_model`.

    Raises:
        InputError: an unknown name or option.
    """
    arch, filter_size = parse_name(name)
    original = create_original(arch, num_classes=1000 if num_classes is None else num_classes)
    return convert(
        original, filter_size=filter_size, criterion=criterion, selection=selection, head=head_of(arch), name=name
    )
