"""Network inputs as pictures again, in a form that JSON and HTML can hold: base64 PNG."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
import numpy.typing as npt

from aps_deploy.preprocessing import Preprocessing

Pixels = npt.NDArray[np.uint8]


def picture_of(image: npt.NDArray[np.float32], preprocessing: Preprocessing | None) -> str:
    """Return a preprocessed image (3, H, W) as a base64 PNG for people.

    The normalisation is undone; without one the values are stretched over the range of brightness.
    """
    values = image.astype(np.float64)
    if preprocessing is None:
        low, high = float(values.min()), float(values.max())
        values = (values - low) / (high - low if high > low else 1.0)
    else:
        mean, std = (np.asarray(each).reshape(3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
        values = values * std + mean
        if preprocessing.channel_order == "BGR":
            values = values[::-1]
    return png_of(np.round(255 * values.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0))


def png_of(pixels: Pixels) -> str:
    """Return (H, W, 3) uint8 pixels as a base64 PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def pixels_of(png: str) -> Pixels | None:
    """Return the (H, W, 3) uint8 pixels of a base64 PNG, or None where it is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(png, validate=True)), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        return None
