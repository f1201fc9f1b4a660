"""The residual blocks; a downsampling block's main branch chooses the component, its shortcut follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.layers import Downsample, Padding, Selections, WrappedConv2d

# Builds the sampler for a number of channels; None where the convolutions stride themselves.
MakeDownsample = Callable[[int], Downsample] | None


def conv(inputs: int, outputs: int, size: int, padding: Padding, stride: int = 1) -> nn.Conv2d:
    """Return a bias-free square convolution that keeps the size (before its stride)."""
    if padding == "circular" and size > 1:
        return WrappedConv2d(
            inputs, outputs, size, stride=stride, padding=size // 2, bias=False, padding_mode="circular"
        )
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class Shortcut(nn.Sequential):
    """A 1x1 convolution and its batch norm, named 0 and 1 as everywhere."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(conv(inputs, outputs, 1, "zeros", stride), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """What both kinds of block share: the sampler and the shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        inner: channels where the sampler stands in the main branch.
        stride: of the block.
        make_downsample: builds the sampler when the block strides; None lets the convolutions stride.
    """

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int, make_downsample: MakeDownsample) -> None:
        super().__init__()
        sampled = stride > 1 and make_downsample is not None
        self.conv_stride = 1 if sampled else stride
        self.pool: Downsample | None = None
        self.shortcut_pool: Downsample | None = None
        if sampled:
            assert make_downsample is not None
            self.pool = make_downsample(inner)
            self.shortcut_pool = make_downsample(inputs)
        needs_shortcut = stride > 1 or inputs != outputs
        self.downsample: Shortcut | None = Shortcut(inputs, outputs, self.conv_stride) if needs_shortcut else None

    def _sample(self, x: Tensor, selections: Selections) -> tuple[Tensor, Tensor | None]:
        return (x, None) if self.pool is None else cast("tuple[Tensor, Tensor | None]", self.pool(x, selections))

    def _identity(self, x: Tensor, index: Tensor | None) -> Tensor:
        if self.shortcut_pool is not None:
            x = self.shortcut_pool.reuse(x, index)
        return x if self.downsample is None else cast(Tensor, self.downsample(x))


class BasicBlock(Block):
    """conv3x3, batch norm, ReLU, [sampler], conv3x3, batch norm; plus the shortcut; ReLU."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, make_downsample: MakeDownsample, padding: Padding) -> None:
        super().__init__(inputs, width, width, stride, make_downsample)
        self.conv1 = conv(inputs, width, 3, padding, self.conv_stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, padding)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, selections: Selections) -> Tensor:
        """Return (N, width, H/stride, W/stride) for ``x`` (N, inputs, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out, index = self._sample(out, selections)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._identity(x, index))


class Bottleneck(Block):
    """conv1x1, conv3x3, [sampler], conv1x1, each with batch norm; plus the shortcut; ReLU.

    The strided form strides in the 3x3 convolution (ResNet v1.5), as torchvision and the authors do.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, make_downsample: MakeDownsample, padding: Padding) -> None:
        super().__init__(inputs, width * self.expansion, width, stride, make_downsample)
        self.conv1 = conv(inputs, width, 1, padding)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, padding, self.conv_stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1, padding)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)

    def forward(self, x: Tensor, selections: Selections) -> Tensor:
        """Return (N, 4 * width, H/stride, W/stride) for ``x`` (N, inputs, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out, index = self._sample(out, selections)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self._identity(x, index))
