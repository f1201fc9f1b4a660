"""What takes the place of a converted network's modules: the same parameters, circular borders, no stride."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.layers import Blur, Classifier, ExactGlobalAvgPool, circular_pad, take_blurred
from aps_deploy.polyphase import check_divisible

Reach = tuple[int, int, int, int]


class CircularConv2d(nn.Conv2d):
    """A convolution's stride-1 form on the periodic map; it shares the parameters of the one it was made from.

    Args:
        conv: the convolution.
        reach: pixels to wrap around: left, right, top, bottom.
    """

    def __init__(self, conv: nn.Conv2d, reach: Reach) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",  # drawing weights would be in vain, and would move the caller's random numbers
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.reach = reach

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C', H, W) for ``input`` (N, C, H, W).

        Raises:
            InputError: the map is smaller than the reach.
        """
        wrapped = circular_pad(input, *self.reach) if any(self.reach) else input
        return F.conv2d(wrapped, self.weight, self.bias, dilation=self.dilation, groups=self.groups)


class CircularPool2d(nn.Module):
    """The stride-1 form, on the periodic map, of a maximum or average pool.

    Args:
        pool: the pool.
        reach: pixels to wrap around: left, right, top, bottom.
    """

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, reach: Reach) -> None:
        super().__init__()
        self.kernel_size = pool.kernel_size
        self.is_maximum = isinstance(pool, nn.MaxPool2d)
        self.dilation = pool.dilation if isinstance(pool, nn.MaxPool2d) else 1
        self.divisor = pool.divisor_override if isinstance(pool, nn.AvgPool2d) else None
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for ``x`` (N, C, H, W)."""
        x = circular_pad(x, *self.reach)
        if self.is_maximum:
            return F.max_pool2d(x, self.kernel_size, stride=1, dilation=self.dilation)
        return F.avg_pool2d(x, self.kernel_size, stride=1, divisor_override=self.divisor)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        kind = "maximum" if self.is_maximum else "average"
        return f"{kind}, kernel_size={self.kernel_size}, reach={self.reach}"


class PixelwiseLinear(nn.Linear):
    """A linear layer of each pixel of a channels-last map, computed as a 1x1 convolution.

    PyTorch's product of matrices on a CPU rounds by row, so it knows where a pixel stands; its convolutions do not.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, H, W, C') for ``input`` (N, H, W, C)."""
        channels_first = input.permute(0, 3, 1, 2)
        return F.conv2d(channels_first, self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1)


class GlobalPool(ExactGlobalAvgPool):
    """Exact global average pooling that keeps two axes of size 1 where the network's own pool did."""

    def __init__(self, *, keeps_axes: bool) -> None:
        super().__init__()
        self.keeps_axes = keeps_axes

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, 1, 1), or (N, C), for ``x`` (N, C, H, W)."""
        mean = super().forward(x)
        return mean[:, :, None, None] if self.keeps_axes else mean


class GlobalMaximum(nn.Module):
    """The maximum over all positions, which no order of them changes.

    Args:
        keeps_axes: return (N, C, 1, 1) instead of (N, C).
    """

    def __init__(self, *, keeps_axes: bool) -> None:
        super().__init__()
        self.keeps_axes = keeps_axes

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, 1, 1), or (N, C), for ``x`` (N, C, H, W)."""
        return x.amax((2, 3), keepdim=self.keeps_axes)


class Follower(nn.Module):
    """A shortcut's sampler: the blurred component that the main branch chose.

    Args:
        channels: C of the map.
        filter_size: of the blur, 1 (none) to 7.
        name: of the layer, for messages.
    """

    def __init__(self, channels: int, *, filter_size: int, name: str) -> None:
        super().__init__()
        self.blur = Blur(channels, filter_size)
        self.layer_name = name

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return component ``index`` (N,) int64 of ``x`` (N, C, H, W): (N, C, H/2, W/2)."""
        check_divisible(x.shape[2], x.shape[3], 2, self.layer_name)
        return take_blurred(x, self.blur, index, 2)


def classifier_from_linear(linear: nn.Linear) -> Classifier:
    """Return a `Classifier` that shares the parameters of ``linear``."""
    classifier = Classifier(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    classifier.weight, classifier.bias = linear.weight, linear.bias
    return classifier
