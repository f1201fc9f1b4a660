"""Stand-ins for a session: plain functions of the images, whose shift behaviour is known by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]


class FakeRunner:
    """Runs a function of the images as a session would, and counts the calls."""

    def __init__(self, function: Callable[[Images], npt.NDArray[Any]]) -> None:
        self.function = function
        self.calls: list[int] = []

    def run(self, images: Images) -> dict[str, npt.NDArray[Any]]:
        self.calls.append(len(images))
        return {"logits": self.function(images)}


def integer_images(count: int, height: int = 6, width: int = 8, seed: int = 0) -> Images:
    """Return images of small whole numbers, whose float32 sums are exact in every order."""
    values = np.random.default_rng(seed).integers(0, 16, (count, 3, height, width))
    return values.astype(np.float32)


def invariant(images: Images) -> npt.NDArray[np.float32]:
    """Return channel sums of whole numbers: unchanged, to the bit, by every circular shift."""
    return images.sum(axis=(2, 3), dtype=np.float32)


def corner(images: Images) -> npt.NDArray[np.float32]:
    """Return one pixel: changed by every shift that moves another value there."""
    return np.ascontiguousarray(images[:, :, 0, 0])
