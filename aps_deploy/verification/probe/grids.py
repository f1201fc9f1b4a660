"""Which pixels a feature map lies on, and how far it moves when the image moves.

A *grid* is a map size and the way it was made from the grid before it: by stride 1 there is no new grid, a selection or
a stride of s makes one whose pixel i stands for pixel ``s*i + phase`` of its parent. If the parent moves by a, the
component that was at ``phase`` is at ``phase + a``, so the new map moves by ``floor((phase + a) / s)``. That is what an
equivariant selection does; an operator with a fixed grid always keeps phase 0 and can do it for multiples of s only.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

Offset = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Two grids are equal where maps on them move alike.

    Attributes:
        height: rows of the map, in its own pixels, without what a padding repeats.
        width: columns of it.
        parent: the grid it was made from; None for the image's.
        stride: parent pixels per pixel, down and to the right.
        factor: pixels per parent pixel, where the map was enlarged.
        phase: see the top of this file.
    """

    height: int
    width: int
    parent: Grid | None = None
    stride: Offset = (1, 1)
    factor: Offset = (1, 1)
    phase: Offset = (0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def lineage(self) -> Iterator[Grid]:
        """Yield the grid itself, its parent, and so on up to the image's."""
        grid: Grid | None = self
        while grid is not None:
            yield grid
            grid = grid.parent

    def movement(self, ancestor: Grid, offset: Offset) -> Offset:
        """Return how far a map on this grid moves, in its own pixels, when maps on ``ancestor`` move by ``offset``.

        Raises:
            ValueError: the grid was not made from ``ancestor``.
        """
        if self == ancestor:
            return offset
        if self.parent is None:
            raise ValueError("no map on this grid was made from one on the other")
        moved = self.parent.movement(ancestor, offset)
        down, right = (
            (phase + amount * factor) // stride
            for amount, phase, factor, stride in zip(moved, self.phase, self.factor, self.stride, strict=True)
        )
        return down, right

    def is_still(self, offset: Offset) -> bool:
        """Return whether moving by ``offset`` pixels changes nothing."""
        return offset[0] % self.height == 0 and offset[1] % self.width == 0


def common_ancestor(grids: Iterable[Grid]) -> Grid:
    """Return the youngest grid that all of ``grids``, at least one, were made from."""
    first, *others = grids
    for candidate in first.lineage():
        if all(candidate in other.lineage() for other in others):
            return candidate
    raise ValueError("the grids have no common ancestor")


def sampled(grid: Grid, stride: Offset, size: tuple[int, int]) -> tuple[Grid, ...]:
    """Return the grids that a map of ``size`` can lie on which keeps one pixel in ``stride`` of ``grid``.

    One for each phase, phase 0 first. A map smaller than the stride leaves (no padding, or a side that the stride does
    not divide) has lost pixels and is taken for a whole one of its own size.
    """
    sides = [
        whole // step if whole % step == 0 and kept >= whole // step else kept
        for whole, step, kept in zip(grid.size, stride, size, strict=True)
    ]
    if stride == (1, 1) and (sides[0], sides[1]) == grid.size:
        return (grid,)
    phases = itertools.product(range(stride[0]), range(stride[1]))
    return tuple(Grid(sides[0], sides[1], grid, stride, phase=phase) for phase in phases)


def enlarged(grid: Grid, factor: Offset) -> Grid:
    """Return the grid of a map with ``factor`` pixels for each of ``grid``, down and to the right."""
    return Grid(grid.height * factor[0], grid.width * factor[1], grid, factor=factor)


def local_offsets(grid: Grid) -> tuple[Offset, ...]:
    """Return the few offsets, in pixels of ``grid``, that an operator on it is tried with.

    By one pixel down and to the right, which changes every component; by two, which tells the phases of a stride of 3
    apart; by half a map and one pixel, which moves every pixel to another place in memory; and back by one pixel.
    """
    height, width = grid.size
    wanted = [(1, 0), (0, 1), (2, 2), (height // 2 + 1, width // 2 + 1), (height - 1, 2)]
    reduced = [(dy % height, dx % width) for dy, dx in wanted]
    return tuple(offset for offset in dict.fromkeys(reduced) if offset != (0, 0))
