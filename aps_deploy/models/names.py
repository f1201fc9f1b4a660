"""Names of networks that are not in the registry but built by converting another library's."""

from __future__ import annotations

TORCHVISION_PREFIX = "torchvision:"
TIMM_PREFIX = "timm:"


def is_converted(name: str) -> bool:
    """Return whether a name is of a converted network, such as ``torchvision:resnet50_aps1``."""
    return name.startswith((TORCHVISION_PREFIX, TIMM_PREFIX))
