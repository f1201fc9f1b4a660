"""Image files as one array that is never whole in memory: decoded in parts, when they are asked for.

A verification reads its images several times. Decoded pixels are kept as bytes, a quarter of float32, where all of
them fit a stated budget; otherwise every reading decodes again. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from aps_deploy.preprocessing import Preprocessing, load_image

KEPT_BYTES = 2**29
"""Decoded pixels that are kept at most: 512 MiB, 170,000 images of 32 x 32 pixels or 3,500 of 224 x 224."""

_MAX_WORKERS = 16


class StreamedImages:
    """Preprocessed images (N, 3, image_size, image_size) float32, equal to `load_images` bit for bit.

    Indexing with a slice or an array of positions gives an array; the whole is never made.

    Args:
        paths: the N image files.
        preprocessing: what to do with each.
        kept_bytes: decoded pixels are kept where all of them take no more than this.
        num_workers: threads that decode; None takes one per core, at most 16.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        preprocessing: Preprocessing,
        *,
        kept_bytes: int = KEPT_BYTES,
        num_workers: int | None = None,
    ) -> None:
        self._paths = tuple(paths)
        self._preprocessing = preprocessing
        self._workers = num_workers if num_workers is not None else min(_MAX_WORKERS, os.cpu_count() or 1)
        # A normalised value depends on nothing but its byte and its channel, so 3 x 256 of them are all there are.
        every_byte = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        self._values = preprocessing.normalize(Image.fromarray(every_byte))[:, 0]
        self._channels = (2, 1, 0) if preprocessing.channel_order == "BGR" else (0, 1, 2)
        side = preprocessing.image_size
        self._size = (side, side, 3)
        keep = len(self._paths) * side * side * 3 <= kept_bytes
        self._kept = np.empty((len(self._paths), *self._size), np.uint8) if keep else None
        self._is_decoded = np.zeros(len(self._paths), bool)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, image_size, image_size)."""
        return (len(self._paths), 3, *self._size[:2])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp], /) -> npt.NDArray[np.float32]:
        """Return the images at these positions.

        Raises:
            InputError: an image cannot be read; the first in order is named.
        """
        positions = np.arange(len(self))[rows]
        pixels = self._pixels(positions)
        images = np.empty((len(positions), 3, *self._size[:2]), np.float32)
        for channel, source in enumerate(self._channels):
            # Every byte is a valid position; "clip" only spares the check.
            images[:, channel] = self._values[channel].take(pixels[..., source], mode="clip")
        return images

    def _pixels(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
        if self._kept is None:
            pixels = np.empty((len(positions), *self._size), np.uint8)
            self._decode(positions, pixels, np.arange(len(positions)))
            return pixels
        missing = np.unique(positions[~self._is_decoded[positions]])
        self._decode(missing, self._kept, missing)
        self._is_decoded[missing] = True
        return self._kept[positions]

    def _decode(
        self, positions: npt.NDArray[np.intp], target: npt.NDArray[np.uint8], places: npt.NDArray[np.intp]
    ) -> None:
        """Decode the images at ``positions`` into the rows ``places`` of ``target``."""

        def decode(number: int) -> None:
            image = load_image(self._paths[positions[number]])
            target[places[number]] = np.asarray(self._preprocessing.crop(image))

        if self._workers <= 1 or len(positions) <= 1:
            for number in range(len(positions)):
                decode(number)
            return
        # Pillow decodes and resizes without holding the interpreter lock, so threads are enough.
        pool = ThreadPoolExecutor(max_workers=min(self._workers, len(positions)))
        try:
            for _ in pool.map(decode, range(len(positions))):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
