"""timm's own layers that a conversion knows; told by their names, since timm need not be installed."""

from __future__ import annotations

from torch import nn

_BLUR = {"timm.layers.blur_pool.BlurPool2d"}
# What they leave out in training, they leave out at random; in evaluation they return what they get.
_DROP = {"timm.layers.drop.DropPath", "timm.layers.drop.DropBlock2d"}


def is_blur(module: nn.Module | None) -> bool:
    """Return whether a module blurs by a binomial filter and strides (timm's ``BlurPool2d``)."""
    return _name(module) in _BLUR


def is_drop(module: nn.Module | None) -> bool:
    """Return whether a module drops whole branches or squares of a map in training, and nothing in evaluation."""
    return _name(module) in _DROP


def _name(module: nn.Module | None) -> str:
    # The exact class: a subclass may compute something else.
    return f"{type(module).__module__}.{type(module).__qualname__}"
