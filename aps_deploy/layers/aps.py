"""Adaptive polyphase sampling: keep, per image, the component with the largest norm."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from aps_deploy.layers.blur import Blur
from aps_deploy.layers.padding import Padding, circular_pad
from aps_deploy.layers.selections import Selections
from aps_deploy.polyphase import Criterion, SelectionMode, check_divisible, polyphase_take
from aps_deploy.polyphase.blurred import blurred_index, blurred_take, fits_kernels, has_kernel

# Where the blur stands: the authors' ImageNet networks blur first and select on the blurred map, their CIFAR networks
# select on the map itself and blur afterwards.
BlurPosition = Literal["before_selection", "after_selection"]
OddMaps = Literal["error", "pad"]


def take_blurred(x: Tensor, blur: Blur, index: Tensor, stride: int) -> Tensor:
    """Return component ``index[n]`` (N,) int64 of every image of ``x`` (N, C, H, W), blurred: (N, C, H/s, W/s)."""
    if _fits(x, blur, stride):
        return blurred_take(x, blur.kernel, index, stride)
    return polyphase_take(blur(x), index, stride)


def _fits(x: Tensor, blur: Blur, stride: int) -> bool:
    is_periodic = blur.padding == "circular" or blur.filter_size == 1
    return is_periodic and fits_kernels(x, blur.kernel, stride)


class APS(nn.Module):
    """Downsampling that commutes with circular shifts (Chaman and Dokmanic, CVPR 2021).

    Args:
        channels: C of the input.
        stride: 2 or more.
        filter_size: binomial blur, 1 (none) to 7.
        criterion: the norm by which components are compared.
        selection: ``exact`` integer sums, or ``float`` norms as in the authors' code.
        blur_position: see :data:`BlurPosition`.
        padding: how the blur meets the border.
        odd_maps: ``error`` refuses sides that are no multiple of the stride; ``pad`` continues them circularly to
            the next multiple as the authors do, which gives up exact invariance.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 2,
        *,
        filter_size: int = 1,
        criterion: Criterion = "l2",
        selection: SelectionMode = "exact",
        blur_position: BlurPosition = "before_selection",
        padding: Padding = "circular",
        odd_maps: OddMaps = "error",
    ) -> None:
        super().__init__()
        self.stride = stride
        self.criterion: Criterion = criterion
        self.selection: SelectionMode = selection
        self.blur_position = blur_position
        self.odd_maps = odd_maps
        self.blur = Blur(channels, filter_size, padding=padding)
        self.layer_name = "APS layer"

    def forward(self, x: Tensor, selections: Selections) -> tuple[Tensor, Tensor]:
        """Return the kept component (N, C, H/stride, W/stride) of ``x`` (N, C, H, W) and its index (N,) int64.

        Raises:
            InputError: H or W is no multiple of the stride; the message names this layer and the next valid size.
        """
        x = self._even(x)
        if selections.are_free and has_kernel(self.criterion, self.selection) and _fits(x, self.blur, self.stride):
            filters = self.blur.kernel if self.blur_position == "before_selection" else self.blur.kernel[:, :, :1, :1]
            index = selections.keep(blurred_index(x, filters, self.stride, self.criterion))
            return blurred_take(x, self.blur.kernel, index, self.stride), index
        if self.blur_position == "before_selection":
            blurred = self.blur(x)
            index = selections.choose(blurred, self)
        else:
            index = selections.choose(x, self)
            blurred = self.blur(x)
        return polyphase_take(blurred, index, self.stride), index

    def reuse(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Return the blurred component ``index`` of ``x``: a shortcut follows the choice of its main branch."""
        assert index is not None
        return take_blurred(self._even(x), self.blur, index, self.stride)

    def _even(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        if self.odd_maps == "pad":
            # Plain slicing of the periodic continuation; a stride above 2 may need more than one extra row.
            right, bottom = -width % self.stride, -height % self.stride
            return circular_pad(x, 0, right, 0, bottom) if right or bottom else x
        check_divisible(height, width, self.stride, self.layer_name)
        return x

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        return f"stride={self.stride}, criterion={self.criterion}, selection={self.selection}"


class LowPassDownsample(nn.Module):
    """Blur and stride on a fixed grid (LPF, Zhang 2019); filter size 1 is plain striding."""

    def __init__(self, channels: int, stride: int = 2, *, filter_size: int, padding: Padding = "circular") -> None:
        super().__init__()
        self.blur = Blur(channels, filter_size, stride=stride, padding=padding)

    def forward(self, x: Tensor, selections: Selections) -> tuple[Tensor, None]:
        """Return ``x`` (N, C, H, W) downsampled, and no index."""
        return self.blur(x), None

    def reuse(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Return the shortcut's map downsampled on the same grid."""
        return cast(Tensor, self.blur(x))


Downsample = APS | LowPassDownsample
