"""Which circular shifts a network is tried on: a stated set, never a hidden constant.

A shift is ``(dy, dx)``: ``numpy.roll(images, (dy, dx), axis=(2, 3))``. The unshifted image is what every shift is
compared with, so ``(0, 0)`` is in no set: comparing an output with itself would only flatter the share.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from aps_deploy.errors import InputError

Offset = tuple[int, int]

GROUP_LIMIT = 64
"""Shifts taken at most from the stride-product group; a larger group is sampled."""


DEFAULT_BUDGET = 2**18
"""Pairs of one image and one shift that ``all`` tries at most: every shift of 256 images of 32 x 32, a few hundred
shifts of as many large ones. Every shift of 256 images of 224 x 224 would be 12.8 million runs."""

_NO_LIMIT = 2**62


@dataclasses.dataclass(frozen=True)
class ShiftSet:
    """A set of circular shifts and how it was chosen.

    Attributes:
        name: ``group`` (all shifts modulo the product of the strides), ``all`` (every shift of the map) or
            ``sample`` (drawn from all of them).
        offsets: the (dy, dx) pairs in pixels, in ascending order, without (0, 0).
        height: map height the set was made for, in pixels.
        width: map width the set was made for, in pixels.
        population: how many shifts the offsets were drawn from, (0, 0) not counted.
        seed: seed of the draw; None where every shift of the population is in the set.
        step: both offsets are multiples of it, in pixels: 2 for a network that promises even shifts only.
        budget: pairs of one image and one shift that the set had to stay within; None without such a limit.
    """

    name: str
    offsets: tuple[Offset, ...]
    height: int
    width: int
    population: int
    seed: int | None = None
    step: int = 1
    budget: int | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def describe(self) -> str:
        """Return the set in words, for tables."""
        words = {"group": "the stride-product group", "all": f"all of {self.height}x{self.width}"}
        source = words.get(self.name, f"{self.height}x{self.width}")
        if self.step > 1:
            source += f", multiples of {self.step} pixels only"
        if self.seed is None:
            return f"{len(self)} shifts ({source})"
        within = "" if self.budget is None else f", within a budget of {self.budget} pairs"
        return f"{len(self)} of {self.population} shifts ({source}, seed {self.seed}{within})"

    def to_dict(self) -> dict[str, Any]:
        """Return the set as plain JSON values."""
        return {**dataclasses.asdict(self), "offsets": [list(offset) for offset in self.offsets]}


def shift_set(
    spec: str | int | ShiftSet,
    *,
    height: int,
    width: int,
    size_divisor: int = 1,
    seed: int = 0,
    step: int = 1,
    budget: int | None = None,
    num_images: int = 1,
) -> ShiftSet:
    """Return the shifts that ``spec`` names for maps of ``height`` x ``width`` pixels.

    ``"group"`` is every shift modulo ``size_divisor`` (the product of the strides): what an arbitrary shift does
    to the polyphase components is already seen there. At most `GROUP_LIMIT` of them are taken, seeded; a network
    whose group is trivial (divisor 1) gets a seeded sample of all shifts instead. ``"all"`` is every shift, an
    integer a seeded sample of that many. With a ``step`` all of these are taken from the shifts whose two offsets are
    multiples of it; a `ShiftSet` is returned as it is.

    A ``budget`` of pairs of one image and one shift (None: `DEFAULT_BUDGET` for ``"all"``, no limit else) leaves a
    seeded part of the shifts, the same for each of ``num_images`` images.

    Raises:
        InputError: ``spec`` is none of these, there is no shift but the identity, or the budget is smaller than the
            number of images.
    """
    if isinstance(spec, ShiftSet):
        return spec
    if isinstance(spec, str) and re.fullmatch(r"\d+", spec):
        spec = int(spec)
    most = _shifts_within(budget, num_images)
    if spec == "all" and budget is None:
        budget, most = DEFAULT_BUDGET, max(1, DEFAULT_BUDGET // num_images)
    chosen = _named_shifts(spec, height, width, size_divisor, seed, step, most)
    return dataclasses.replace(chosen, budget=budget)


def _shifts_within(budget: int | None, num_images: int) -> int:
    if budget is None:
        return _NO_LIMIT
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < num_images:
        raise InputError(
            f"a budget of {budget} pairs of an image and a shift does not reach for one shift of {num_images} images; "
            f"give at least {num_images}, or fewer images."
        )
    return budget // num_images


def _named_shifts(
    spec: str | int, height: int, width: int, size_divisor: int, seed: int, step: int, most: int
) -> ShiftSet:
    """Return at most ``most`` of the shifts that ``spec`` names."""
    whole = -(-height // step), -(-width // step)
    if whole == (1, 1):
        raise InputError(f"a map of {height}x{width} pixels has no shift to try; use larger images.")
    if spec == "all":
        return _taken("all", height, width, whole, most, seed, step)
    if spec == "group":
        rows, columns = (-(-min(size_divisor, side) // step) for side in (height, width))
        if rows * columns < 2:
            return _taken("sample", height, width, whole, min(GROUP_LIMIT, most), seed, step)
        return _taken("group", height, width, (rows, columns), min(GROUP_LIMIT, most), seed, step)
    if isinstance(spec, bool) or not isinstance(spec, int) or spec < 1:
        raise InputError(f"shifts {spec!r} are not known; give group, all or a number of shifts from 1.")
    return _taken("sample", height, width, whole, min(spec, most), seed, step)


def _taken(name: str, height: int, width: int, grid: tuple[int, int], limit: int, seed: int, step: int) -> ShiftSet:
    """Return at most ``limit`` of the shifts of a ``grid`` of rows and columns that lie ``step`` pixels apart."""
    rows, columns = grid
    population = rows * columns - 1
    if population <= limit:
        flat = np.arange(1, population + 1)
        drawn_with = None
    else:
        flat = 1 + np.sort(np.random.default_rng(seed).choice(population, size=limit, replace=False))
        drawn_with = seed
    offsets = tuple((step * (int(index) // columns), step * (int(index) % columns)) for index in flat)
    if drawn_with is None and name == "sample":
        name = "all"
    return ShiftSet(name, offsets, height, width, population, drawn_with, step)
