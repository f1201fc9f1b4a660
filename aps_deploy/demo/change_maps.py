"""How often predictions change under each shift, for the demonstration's picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aps_deploy.runtimes import open_session
from aps_deploy.verification import Consistency, measure_consistency, shift_set

_BATCH_SIZE = 64

Map = npt.NDArray[np.float64]


def change_maps(
    files: Mapping[str, Path],
    images: npt.NDArray[np.float32],
    watched: Mapping[str, Consistency],
    *,
    total_stride: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Map], int]:
    """Return a map for each file, and how many images are behind the maps.

    A shift by the product of the strides moves every feature map by whole pixels, so what shifts do repeats with it.
    Where the few images that were watched under every shift bear that out, all images are tried under the shifts of
    one period, and the period is repeated; else the maps of the few images are returned.

    Args:
        files: ONNX file by title.
        images: (N, 3, side, side) float32, all of them.
        watched: what a few images did under every shift, by title.
        total_stride: product of the strides, in pixels.
        progress: told how far it is.

    Returns:
        (side, side) shares in 0..1 of images whose prediction changes under the shift (dy, dx), by title; N, or the
        number of watched images.
    """
    side = images.shape[2]
    few = {title: found.heat_map(side, side) for title, found in watched.items()}
    if not all(repeats(shares, total_stride) for shares in few.values()):
        return few, next(iter(watched.values())).num_images
    period = shift_set("group", height=side, width=side, size_divisor=total_stride)
    maps = {}
    for title, path in files.items():
        with open_session(path, runtime="onnxruntime") as session:
            found = measure_consistency(session, images, period, batch_size=_BATCH_SIZE, progress=progress)
        corner = found.heat_map(side, side)[:total_stride, :total_stride]
        maps[title] = np.tile(corner, (side // total_stride, side // total_stride))
    return maps, len(images)


def repeats(shares: Map, period: int) -> bool:
    """Return whether a (H, W) map of shares is its own corner of ``period`` x ``period``, over and over."""
    height, width = shares.shape
    if height % period or width % period:
        return False
    tiled = np.tile(shares[:period, :period], (height // period, width // period))
    return bool(np.array_equal(shares, tiled))
