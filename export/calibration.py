"""The images on which the ranges of an int8 file are measured."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.export.precisions import Precision
from aps_deploy.export.quantisation import CALIBRATION_METHODS, CalibrationMethod, resolve_method
from aps_deploy.images import load_folder
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import Preprocessing

Images = npt.NDArray[np.float32]
CalibrationSource = str | os.PathLike[str] | Images

MAX_IMAGES = 512
"""Images used of a larger folder, spread over its classes: ranges hardly move beyond."""
ADVISED_IMAGES = 256
"""Fewer are used with a warning."""
MIN_IMAGES = 32
"""Fewer are refused: their ranges would say more about the choice of images than about the network."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Images and the way their ranges are taken.

    Attributes:
        images: (N, 3, H, W) float32, preprocessed.
        method: see `quantisation.quantised`.
    """

    images: Images
    method: CalibrationMethod

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about these images, in sentences; empty where there is nothing to say."""
        if len(self.images) >= ADVISED_IMAGES:
            return ()
        return (
            f"the int8 ranges come from {len(self.images)} images, fewer than the {ADVISED_IMAGES} advised; "
            "give more images with --calibration.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a file says of its calibration, as plain JSON values."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()
        return {"method": self.method, "images": len(self.images), "sha256": digest}


def check_request(precision: Precision, source: CalibrationSource | None, method: str | None) -> None:
    """Refuse a calibration where none is used, and int8 without one; nothing is read yet.

    Raises:
        InputError: what was asked for does not go together, or the folder or the method does not exist.
    """
    if precision != "int8":
        given = "--calibration" if source is not None else "--calibration-method" if method is not None else ""
        if given:
            raise InputError(f"{given} is for int8 files only, and the precision is {precision}; leave it out.")
        return
    if source is None:
        raise InputError(
            "--precision int8 measures its ranges on images, and none are given; name a folder of them with "
            f"--calibration DIR (or the packaged images: {', '.join(packaged_images())})."
        )
    if method is not None:
        resolve_method(method)
    if not isinstance(source, np.ndarray):
        _folder(source)


def load_calibration(
    source: CalibrationSource, method: str | None, preprocessing: Preprocessing | None, *, height: int, width: int
) -> Calibration:
    """Return the images to calibrate on, at most `MAX_IMAGES` of a folder.

    Args:
        source: a folder of images with or without class folders, the name of packaged images, or the preprocessed
            images themselves, float32 (N, 3, height, width).
        method: one of `CALIBRATION_METHODS`; None takes the first.
        preprocessing: how an image becomes the exported file's input; not needed for an array.
        height: of the file's input, in pixels.
        width: of the file's input, in pixels.

    Raises:
        InputError: the images cannot be read, are too few, or are not prepared for this input.
    """
    chosen = CALIBRATION_METHODS[0] if method is None else resolve_method(method)
    if isinstance(source, np.ndarray):
        images, name = source, "the calibration array"
        if images.dtype != np.float32 or images.shape[1:] != (3, height, width) or not np.isfinite(images).all():
            raise InputError(
                f"calibration images of shape {images.shape} and dtype {images.dtype} are not accepted; give finite "
                f"float32 (N, 3, {height}, {width})."
            )
    elif preprocessing is None:
        raise InputError(
            f"the images of {source} cannot be prepared: the checkpoint says no preprocessing, or not for "
            f"{height}x{width}; export square images, or calibrate from Python with an array."
        )
    else:
        folder = _folder(source)
        images, name = load_folder(folder, preprocessing, MAX_IMAGES).images, str(folder)
    if len(images) < MIN_IMAGES:
        raise InputError(
            f"{name} holds {len(images)} images, too few to calibrate int8 on; give at least {MIN_IMAGES}, better "
            f"{ADVISED_IMAGES} or more."
        )
    return Calibration(images, chosen)


def _folder(source: str | os.PathLike[str]) -> Path:
    if Path(source).is_dir():
        return Path(source)
    packaged = packaged_images()
    if os.fspath(source) in packaged:
        return packaged[os.fspath(source)]
    raise InputError(
        f"--calibration {source} is not a folder; give a folder of images, or the packaged images: "
        f"{', '.join(packaged)}."
    )
