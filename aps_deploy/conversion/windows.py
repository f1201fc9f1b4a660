"""Windows of convolutions and pools: how far one reaches when it strides by one and wraps around the border.

A window of kernel k, dilation d, padding p and stride s reads, for output i, the pixels ``i*s - p + d*[0, k)``. With
stride 1 on the periodic continuation it needs p pixels before the map and ``d*(k-1) - p`` behind it, and its values at
every s-th pixel from 0 are those of the strided window on the periodic map. The strided output must have exactly
``H/s`` rows for that, which for H a multiple of s asks ``floor((2p - d*(k-1) - 1) / s) = -1``, or the ceiling with
``ceil_mode``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aps_deploy.errors import InputError

Pair = int | Sequence[int]


@dataclass(frozen=True)
class Window:
    """A window in its stride-1 circular form.

    Attributes:
        stride: the stride it had on both axes, a power of two; 1 where it had none.
        reach: pixels it needs beyond the map: left, right, top, bottom.
    """

    stride: int
    reach: tuple[int, int, int, int]

    @property
    def num_selections(self) -> int:
        """How many selections by two replace its stride."""
        return self.stride.bit_length() - 1


def circular_window(
    name: str, *, kernel: Pair, stride: Pair, padding: Pair | str, dilation: Pair = 1, ceil_mode: bool = False
) -> Window:
    """Return the stride-1 circular form of a window.

    Args:
        name: of the module, for messages.
        kernel: size of the window, one number or (vertical, horizontal), as PyTorch has it.
        stride: of the window.
        padding: of the map on both sides, or ``same`` or ``valid``.
        dilation: distance of the window's pixels.
        ceil_mode: whether a pool rounds its output size up.

    Raises:
        InputError: another stride on each axis, a stride that is no power of two, or a window whose output is not
            1/stride of its input.
    """
    strides, kernels, dilations = _pair(stride), _pair(kernel), _pair(dilation)
    if strides[0] != strides[1] or strides[0] & (strides[0] - 1):
        raise InputError(
            f"{name} has stride {strides[0]}x{strides[1]}, and only strides of 1, 2, 4, 8, ... that are the same on "
            "both axes can be converted."
        )
    sides = []
    for axis in (0, 1):
        reach = dilations[axis] * (kernels[axis] - 1)
        before = _before(padding, reach, axis)
        after = reach - before
        slack = (reach if padding == "same" else 2 * before) - reach - 1
        steps = -(-slack // strides[axis]) if ceil_mode else slack // strides[axis]
        if ceil_mode and steps == 0 and before == 0:
            steps = -1  # PyTorch leaves out a last window that would begin behind the map
        if steps != -1 or after < 0:
            raise InputError(
                f"{name} (kernel {kernels[axis]}, stride {strides[axis]}, padding {before}, dilation "
                f"{dilations[axis]}) does not make a map of exactly 1/stride of its input, so it has no circular form."
            )
        sides.append((before, after))
    (top, bottom), (left, right) = sides
    return Window(strides[0], (left, right, top, bottom))


def _before(padding: Pair | str, reach: int, axis: int) -> int:
    if isinstance(padding, str):
        return reach // 2 if padding == "same" else 0
    return _pair(padding)[axis]


def _pair(value: Pair) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second
