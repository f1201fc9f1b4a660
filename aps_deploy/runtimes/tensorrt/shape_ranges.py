"""Which shapes a plan takes, and how a batch of any size is cut into runs that it takes.

A plan was compiled for ranges of shapes, its optimisation profiles. A run takes the profile whose best shape is
nearest; a batch larger than every profile is cut, and one smaller than every profile is filled up with its last image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from aps_deploy.errors import InputError

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ShapeRange:
    """One optimisation profile.

    Attributes:
        index: its number in the engine.
        low: smallest shape (N, C, H, W).
        best: the shape it is fastest at.
        high: largest shape.
    """

    index: int
    low: Shape
    best: Shape
    high: Shape

    def takes_size(self, shape: Shape) -> bool:
        """Return whether images of this shape (N, C, H, W) fit, whatever their number."""
        return all(low <= side <= high for low, side, high in zip(self.low[1:], shape[1:], self.high[1:], strict=True))

    @property
    def words(self) -> str:
        """The range for people: ``1 to 16 images of 32x32``."""
        sides = ["x".join(map(str, shape[2:])) for shape in (self.low, self.high)]
        size = sides[0] if sides[0] == sides[1] else " to ".join(sides)
        count = f"{self.low[0]}" if self.low[0] == self.high[0] else f"{self.low[0]} to {self.high[0]}"
        return f"{count} images of {size}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """One run of a larger batch.

    Attributes:
        rows: which images.
        count: images in the run: more than the rows where it is filled up.
        range: the profile it runs in.
    """

    rows: slice
    count: int
    range: ShapeRange


def ranges_of(engine: Any, name: str) -> tuple[ShapeRange, ...]:
    """Return the optimisation profiles of a loaded engine for its input of that name."""
    found = []
    for index in range(engine.num_optimization_profiles):
        low, best, high = (tuple(map(int, shape)) for shape in engine.get_tensor_profile_shape(name, index))
        found.append(ShapeRange(index, low, best, high))
    return tuple(found)


def pieces_of(shape: Shape, ranges: Sequence[ShapeRange], source: str) -> tuple[Piece, ...]:
    """Return the runs that a batch of images of this shape (N, C, H, W) takes, in order.

    Every shape needs preparing: a context, memory, kernels, a graph. A server sends all numbers of images that there
    are, so runs are filled up to few of them: the next power of two, or the profile's smallest, best or largest number
    where that is nearer.

    What fills a run is not to change the other answers: an exported network treats each image by itself. How many
    images are in it may change last bits, because an engine may have other kernels for another number. So an image gets
    the same bits in all runs of the same count, whatever else is in them, and batches of unlike sizes often have the
    same count. Whether all counts give the same bits the server finds out (`rows_are_independent`).

    Raises:
        InputError: no profile takes images of this height and width; the message lists the profiles.
    """
    fitting = [each for each in ranges if each.takes_size(shape)]
    if not fitting:
        accepted = "; ".join(each.words for each in ranges)
        raise InputError(
            f"{source}: {shape[0]} images of {shape[2]}x{shape[3]} are outside every profile of the engine "
            f"({accepted}); give images of an accepted size, or export it with --profile for this one."
        )
    pieces, start = [], 0
    while start < shape[0]:
        left = shape[0] - start
        chosen = _best_for(left, fitting)
        count = min(left, chosen.high[0])
        pieces.append(Piece(slice(start, start + count), _filled(count, chosen), chosen))
        start += count
    return tuple(pieces)


def _filled(count: int, chosen: ShapeRange) -> int:
    """Return how many images a run of ``count`` is filled up to in a profile."""
    low, best, high = chosen.low[0], chosen.best[0], chosen.high[0]
    least = max(count, low)
    power_of_two = 1 << (least - 1).bit_length()
    # The best is what the engine was made for: filling it up would slow down whoever sends just that.
    return min(each for each in (power_of_two, low, best, high) if each >= least)


def _best_for(count: int, ranges: Sequence[ShapeRange]) -> ShapeRange:
    """Return the profile for so many images: one that takes them, the nearest in its best shape; else the next best."""
    taking = [each for each in ranges if each.low[0] <= count <= each.high[0]]
    if taking:
        return min(taking, key=lambda each: abs(each.best[0] - count))
    smaller = [each for each in ranges if each.high[0] < count]
    if smaller:
        return max(smaller, key=lambda each: each.high[0])
    return min(ranges, key=lambda each: each.low[0])
