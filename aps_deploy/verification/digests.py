"""What images were verified with, as hashes: of all of them together, and of each."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from aps_deploy.errors import InputError
from aps_deploy.runtimes.batching import ImageSource, batches
from aps_deploy.verification.comparing import Progress


@dataclasses.dataclass(frozen=True)
class ImagesDigest:
    """Hashes of preprocessed images: of their float32 values in C order, as this machine stores them.

    Attributes:
        sha256: of all images, hexadecimal.
        each: SHA-256 of every image, in order; empty where they were not asked for.
    """

    sha256: str
    each: tuple[bytes, ...] = ()


def digest_images(
    images: ImageSource, *, each: bool = False, batch_size: int = 64, progress: Progress | None = None
) -> ImagesDigest:
    """Return the hashes of images (N, 3, H, W), read once in parts.

    Args:
        images: float32, preprocessed.
        each: whether every image is hashed by itself too.
        batch_size: images per part.
        progress: called after every part.

    Raises:
        InputError: an image cannot be read, or holds NaN or infinite values.
    """
    whole = hashlib.sha256()
    single: list[bytes] = []
    for rows in batches(len(images), batch_size):
        part = np.ascontiguousarray(images[rows])
        if not np.isfinite(part).all():
            raise InputError("the images hold NaN or infinite values; give finite, preprocessed images.")
        whole.update(part.tobytes())
        if each:
            single += [hashlib.sha256(image.tobytes()).digest() for image in part]
        if progress is not None:
            progress("reading images", rows.stop, len(images))
    return ImagesDigest(whole.hexdigest(), tuple(single))
