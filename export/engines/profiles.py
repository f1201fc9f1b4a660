"""Optimisation profiles: the ranges of input shapes an engine is compiled for.

On the command line a profile is ``MIN:OPT:MAX`` images, optionally followed by ``@`` and the same of the side in
pixels: ``1:8:16``, ``1:8:16@192:224:256``, ``1:4:4@128x160:256x320:256x320``. One number alone stands for all three.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aps_deploy.errors import InputError

Size = tuple[int, int]
Shape = tuple[int, int, int, int]
ValueT = TypeVar("ValueT")

_FORMAT = "MIN:OPT:MAX images, optionally @MIN:OPT:MAX pixels, such as 1:8:16 or 1:8:16@192:224:256"
_MAX_IMAGES = 65_536


@dataclass(frozen=True)
class Profile:
    """One range of shapes; the compiler makes the kernels fast at ``opt``.

    Attributes:
        batches: smallest, best and largest number of images.
        sizes: smallest, best and largest (height, width) in pixels; None for a file with one size.
    """

    batches: tuple[int, int, int]
    sizes: tuple[Size, Size, Size] | None = None

    def __post_init__(self) -> None:
        low, best, high = self.batches
        if not 1 <= low <= best <= high <= _MAX_IMAGES:
            raise InputError(
                f"a profile of {low} to {high} images, fastest at {best}, cannot be; give 1 <= min <= opt <= max <= "
                f"{_MAX_IMAGES}."
            )
        for low, best, high in zip(*self.sizes, strict=True) if self.sizes is not None else ():
            if not 1 <= low <= best <= high:
                raise InputError(
                    f"a profile of {low} to {high} pixels, fastest at {best}, cannot be; give 1 <= min <= opt <= max."
                )

    def shapes(self, channels: int, fixed: Size | None) -> tuple[Shape, Shape, Shape]:
        """Return the smallest, best and largest input shape (N, C, H, W).

        Args:
            channels: C.
            fixed: (H, W) of a file with one size; None where the profile brings the sizes.
        """
        sizes = self.sizes if fixed is None else (fixed,) * 3
        assert sizes is not None
        low, best, high = ((batch, channels, *size) for batch, size in zip(self.batches, sizes, strict=True))
        return low, best, high

    def to_dict(self) -> dict[str, Any]:
        """Return the ranges as plain JSON values."""
        return {"batches": list(self.batches), "sizes": None if self.sizes is None else [list(s) for s in self.sizes]}


def parse_profile(text: str) -> Profile:
    """Return the profile in one word of the command line; see the top of this file.

    Raises:
        InputError: it is not one, or its numbers are not in order.
    """
    batches, separator, sizes = text.partition("@")
    return Profile(_three(batches, text, _batch), _three(sizes, text, _size) if separator else None)


def profiles_from(
    texts: Sequence[str], *, min_batch: int | None, opt_batch: int | None, max_batch: int | None
) -> tuple[Profile, ...]:
    """Return the profiles of a command line: those given whole, or one of the three numbers.

    Without any number the range is 1 to 16 images, fastest at 8; a number that is left out keeps to those given.

    Raises:
        InputError: both ways are used, or a profile cannot be.
    """
    given = (min_batch, opt_batch, max_batch)
    if texts:
        if any(number is not None for number in given):
            raise InputError("--profile and --min-batch, --opt-batch, --max-batch say the same; give only one.")
        return tuple(dict.fromkeys(parse_profile(text) for text in texts))
    low = 1 if min_batch is None else min_batch
    high = max(16, low, opt_batch or 0) if max_batch is None else max_batch
    best = max(low, min(8, high)) if opt_batch is None else opt_batch
    return (Profile((low, best, high)),)


def check_sizes(profiles: Sequence[Profile], *, fixed: Size | None, divisor: int) -> None:
    """Compare the profiles with the sizes that a file takes.

    Args:
        profiles: the profiles.
        fixed: (H, W) of a file with one size, else None.
        divisor: heights and widths must be multiples of it.

    Raises:
        InputError: sizes for a file that has one only, none for a file that has not, or sizes the network refuses.
    """
    for profile in profiles:
        if fixed is not None:
            if profile.sizes is not None and set(profile.sizes) != {fixed}:
                height, width = fixed
                raise InputError(
                    f"the profile asks for other sizes than the file's only one, {height}x{width}; leave out what "
                    "follows @, or compile a file whose height and width are dynamic."
                )
            continue
        if profile.sizes is None:
            raise InputError(
                "the height and width of the file are dynamic and the profile gives no range for them; write it as "
                f"{_FORMAT}."
            )
        for side in {side for size in profile.sizes for side in size}:
            if side % divisor:
                raise InputError(
                    f"the profile has a side of {side} pixels, and the network takes multiples of {divisor}; use "
                    f"{side // divisor * divisor or divisor} or {(side // divisor + 1) * divisor}."
                )


def _three(words: str, whole: str, read: Callable[[str], ValueT | None]) -> tuple[ValueT, ValueT, ValueT]:
    parts = words.split(":")
    values = [value for part in (parts * 3 if len(parts) == 1 else parts) if (value := read(part)) is not None]
    if len(values) != 3 or len(parts) not in (1, 3):
        raise InputError(f"--profile {whole} is no profile; write {_FORMAT}.")
    return values[0], values[1], values[2]


def _batch(word: str) -> int | None:
    return int(word) if re.fullmatch(r"[0-9]{1,9}", word) else None


def _size(word: str) -> Size | None:
    match = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", word)
    return None if match is None else (int(match[1]), int(match[2] or match[1]))
