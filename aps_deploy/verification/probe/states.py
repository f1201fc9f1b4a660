"""What a value of the graph does when the image moves, and the value it must then have.

A value *moves* with a grid, stands *still*, or is *open*: made by an operator that only rearranges pixels (a strided
Slice, SpaceToDepth, a Reshape through the rows), so that nothing can be said before it is seen what becomes of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.probe.grids import Grid, Offset

Array = npt.NDArray[Any]
Factor = int | Literal["H", "W"]
Axis = tuple[Factor, ...]
"""One axis of an array: what it counts through, slowest first. ``("H",)`` are the rows; ``(64, "H", "W")`` is a map of
64 channels laid out flat."""


@dataclasses.dataclass(frozen=True)
class Still:
    """Does not change."""


@dataclasses.dataclass(frozen=True)
class Moving:
    """Moves circularly with a grid. An axis of rows or columns alone may be longer than the grid, as after circular
    padding; it then repeats the map.
    """

    grid: Grid
    axes: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True)
class Open:
    """Made by the nodes ``region``, none of which can be judged alone yet."""

    region: frozenset[int]


State = Still | Moving | Open
STILL = Still()


@dataclasses.dataclass(frozen=True)
class Value:
    """A value as it is for the unshifted image."""

    state: State
    array: Array


def image_state(shape: Sequence[int]) -> Moving:
    """Return the state of an image (N, C, H, W)."""
    return Moving(Grid(shape[2], shape[3]), ((shape[0],), (shape[1],), ("H",), ("W",)))


def is_spatial(axis: Axis) -> bool:
    """Return whether an axis counts through rows or columns."""
    return "H" in axis or "W" in axis


def plain_axis(axes: Sequence[Axis], factor: Factor) -> int | None:
    """Return the position of the axis that is rows (``H``) or columns (``W``) and nothing else."""
    return next((position for position, axis in enumerate(axes) if axis == (factor,)), None)


def moved(array: Array, state: State, offset: Offset) -> Array:
    """Return what ``array`` must be after its grid moved by ``offset`` pixels: the same bits in other places."""
    if not isinstance(state, Moving):
        return array
    factors = list(_factors(state, array.shape))
    unfolded = array.reshape([size for _, size in factors])
    for position, (factor, size) in enumerate(factors):
        if factor in ("H", "W"):
            period, amount = (state.grid.height, offset[0]) if factor == "H" else (state.grid.width, offset[1])
            unfolded = unfolded.take((np.arange(size) - amount) % period, axis=position)
    return unfolded.reshape(array.shape)


def _factors(state: Moving, shape: Sequence[int]) -> Iterator[tuple[Factor, int]]:
    """Yield what the axes count through, each with its size in an array of ``shape``."""
    sides = {"H": state.grid.height, "W": state.grid.width}
    for axis, length in zip(state.axes, shape, strict=True):
        if len(axis) == 1:
            yield axis[0], length
        else:
            for factor in axis:
                yield factor, factor if isinstance(factor, int) else sides[factor]


def fits(state: State, shape: Sequence[int]) -> bool:
    """Return whether an array of ``shape`` can be in ``state``: large enough for its grid."""
    if not isinstance(state, Moving):
        return True
    if len(state.axes) != len(shape):
        return False
    sides = {"H": state.grid.height, "W": state.grid.width}
    for axis, length in zip(state.axes, shape, strict=True):
        if len(axis) == 1:
            needed = sides.get(str(axis[0]), length)
            if length < needed:
                return False
        elif math.prod(factor if isinstance(factor, int) else sides[factor] for factor in axis) != length:
            return False
    return True


def regrouped(state: Moving, shape: Sequence[int], new_shape: Sequence[int]) -> tuple[Axis, ...] | None:
    """Return the axes of an array of ``shape`` after a reshape to ``new_shape``; None where rows or columns are cut.

    Channels may be cut into groups; rows and columns may only be laid out flat, and only a map without padding.
    """
    waiting = [(factor, size) for factor, size in _factors(state, shape) if size != 1]
    axes: list[Axis] = []
    for length in new_shape:
        axis: list[Factor] = []
        remaining = length
        while remaining > 1 and waiting:
            factor, size = waiting.pop(0)
            if remaining % size == 0:
                axis.append(factor)
                remaining //= size
            elif isinstance(factor, int) and size % remaining == 0:
                axis.append(remaining)
                waiting.insert(0, (size // remaining, size // remaining))
                remaining = 1
            else:
                return None
        axes.append(tuple(axis) or (1,))
    changed = Moving(state.grid, tuple(axes))
    return changed.axes if not waiting and fits(changed, new_shape) else None


def same_bits(first: Array, second: Array) -> bool:
    """Return whether two arrays have the same type, shape and bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()
