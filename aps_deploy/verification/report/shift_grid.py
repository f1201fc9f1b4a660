"""The shifts of a certificate as two maps: how often the prediction changes, and how far the logits move."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError

Map = npt.NDArray[np.float64]

_MOST_CELLS = 2**24  # 4,096 x 4,096 pixels: more is a damaged certificate


@dataclasses.dataclass(frozen=True)
class ShiftGrid:
    """Two maps over shifts; cell (row, column) is the shift (`downward[row]`, `rightward[column]`) in pixels.

    Attributes:
        rates: (rows, columns) share of images whose prediction changes, 0 to 1; NaN where the shift was not tried.
        changes: (rows, columns) largest logit change; infinite where a logit is not finite, NaN where not tried.
        downward: dy of each row, ascending.
        rightward: dx of each column, ascending.
        num_images: images behind each share.
    """

    rates: Map
    changes: Map
    downward: tuple[int, ...]
    rightward: tuple[int, ...]
    num_images: int

    @property
    def unshifted(self) -> tuple[int, int]:
        """Row and column of the unshifted image, which everything is compared with."""
        return self.downward.index(0), self.rightward.index(0)


def shift_grid(consistency: dict[str, Any], shift_set: dict[str, Any]) -> ShiftGrid:
    """Return the maps of one measurement.

    The stride-product group is shown by itself; any other set on the whole map, with small shifts in the middle.

    Args:
        consistency: ``details.consistency`` or ``details.reference_consistency`` of a certificate.
        shift_set: ``shift_set`` of the certificate.

    Raises:
        InputError: the columns are of unequal length.
    """
    columns = consistency["shifts"]
    names = ("dy", "dx", "changed", "max_logit_change")
    if len({len(columns[name]) for name in names}) != 1:
        raise InputError("the columns of details.consistency.shifts are of unequal length; verify the file again.")
    dy, dx = (np.asarray(columns[name], dtype=int) for name in ("dy", "dx"))
    step = shift_set["step"]
    if np.any(dy % step) or np.any(dx % step):
        step = 1
    is_group = shift_set["name"] == "group" and dy.min(initial=0) >= 0 and dx.min(initial=0) >= 0
    sides = [
        int(offsets.max(initial=0)) // step + 1 if is_group else -(-shift_set[side] // step)
        for offsets, side in ((dy, "height"), (dx, "width"))
    ]
    if sides[0] * sides[1] > _MOST_CELLS:
        raise InputError(f"a map of {sides[0]}x{sides[1]} shifts cannot be drawn; verify the file again.")
    first = [0 if is_group else -(side // 2) for side in sides]
    rows, cells = (
        (offsets // step - start) % side for offsets, start, side in zip((dy, dx), first, sides, strict=True)
    )
    images = consistency["num_pairs"] // consistency["num_shifts"] if consistency["num_shifts"] else 0
    rates, changes = (np.full(sides, np.nan) for _ in range(2))
    rates[-first[0], -first[1]] = changes[-first[0], -first[1]] = 0.0
    if images:
        rates[rows, cells] = np.asarray(columns["changed"]) / images
        changes[rows, cells] = [np.inf if value is None else value for value in columns["max_logit_change"]]
    downward, rightward = (
        tuple(step * (start + cell) for cell in range(side)) for start, side in zip(first, sides, strict=True)
    )
    return ShiftGrid(rates, changes, downward, rightward, images)
