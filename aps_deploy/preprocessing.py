"""From an image file to the network's input, with Pillow and numpy alone, so that serving needs no torch.

The numbers are torchvision's, bit for bit: ``Resize`` (Pillow's antialiased resampling of the shorter side),
``CenterCrop``, ``ToTensor`` and ``Normalize``, each repeated here with its own rounding. As torchvision's default
loader does, an EXIF orientation is ignored and an image of any mode is converted to RGB.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from aps_deploy.errors import InputError, near_matches

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ChannelOrder = Literal["RGB", "BGR"]

_RESAMPLING: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input: resize, center crop, scale to 0..1, normalise.

    Attributes:
        image_size: side of the square center crop, in pixels; a smaller image is padded with black.
        resize: length the shorter side is resized to before the crop, in pixels; None leaves the image's size.
        mean: per-channel mean of the values scaled to 0..1, in the channel order.
        std: per-channel standard deviation, in the channel order.
        channel_order: order of the channels the network takes.
        interpolation: resampling of the resize, antialiased by Pillow.
    """

    image_size: int
    resize: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: ChannelOrder = "RGB"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        for name in ("image_size", "resize"):
            value = getattr(self, name)
            optional = name == "resize" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"preprocessing: {name} is {value!r}; it must be a positive number of pixels.")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise InputError(f"preprocessing: mean {self.mean} and std {self.std} must have one value per channel (3).")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
            raise InputError(f"preprocessing: mean {self.mean} and std {self.std} must be finite, and std positive.")
        if self.channel_order not in get_args(ChannelOrder):
            raise InputError(f"preprocessing: channel_order is {self.channel_order!r}; accepted: RGB, BGR.")
        if self.interpolation not in _RESAMPLING:
            raise InputError(
                f"preprocessing: interpolation is {self.interpolation!r}; accepted: {', '.join(_RESAMPLING)}."
            )

    def for_size(self, image_size: int) -> Preprocessing:
        """Return the preprocessing that crops to another size, in pixels, and resizes by as much.

        The picture keeps its scale within the crop.
        """
        if self.image_size == image_size:
            return self
        ratio = image_size / self.image_size
        resize = None if self.resize is None else round(self.resize * ratio)
        return dataclasses.replace(self, image_size=image_size, resize=resize)

    def apply(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Return the network's input for one image.

        Args:
            image: a Pillow image of any mode; anything but RGB is converted.

        Returns:
            A (3, image_size, image_size) float32 array.
        """
        return self.normalize(self.crop(image))

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the RGB image after resize and center crop, before any scaling: what a person should look at."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        if self.resize is not None:
            image = resize_shorter_side(image, self.resize, self.interpolation)
        return center_crop(image, self.image_size)

    def normalize(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Return an RGB image of any size as a normalised (3, H, W) float32 array, without resize or crop."""
        pixels = np.asarray(image, dtype=np.uint8)
        if self.channel_order == "BGR":
            pixels = pixels[:, :, ::-1]
        # One division and no multiplication by 1/255: the two differ in the last bit, and ToTensor divides.
        scaled = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        mean = np.asarray(self.mean, dtype=np.float32).reshape(-1, 1, 1)
        std = np.asarray(self.std, dtype=np.float32).reshape(-1, 1, 1)
        result: npt.NDArray[np.float32] = (scaled - mean) / std
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing in a dictionary made by `to_dict`; unknown keys are ignored.

        Raises:
            InputError: a field is missing or has a value out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in document.items() if name in known})
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"preprocessing cannot be read from {document!r} ({error}); needed: image_size, resize, mean, std."
            ) from error


CIFAR10 = Preprocessing(
    image_size=32,
    resize=None,
    mean=(0.49141738, 0.48219556, 0.44662726),
    std=(0.24703224, 0.24348514, 0.26158786),
)
IMAGENET = Preprocessing(image_size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PRESETS: dict[str, Preprocessing] = {"cifar10": CIFAR10, "imagenet": IMAGENET}
"""Preprocessings by name, for model files that carry none."""


def preset(name: str) -> Preprocessing:
    """Return the preprocessing of that name.

    Raises:
        InputError: there is no such preprocessing.
    """
    if name.lower() not in PRESETS:
        known = f"{near_matches(name.lower(), PRESETS)}; accepted: {', '.join(PRESETS)}"
        raise InputError(f"unknown preprocessing {name!r}{known}.")
    return PRESETS[name.lower()]


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Return the image in a file, decoded, as RGB.

    Modes are converted as torchvision's default loader does (``convert("RGB")``: alpha is dropped, 16-bit grey is
    clipped by Pillow); an EXIF orientation is ignored, as it is there.

    Raises:
        InputError: the file is missing, truncated, or no image Pillow can read.
    """
    file = Path(path)
    try:
        return decode_image(file, f"image {file}")
    except FileNotFoundError:
        raise InputError(f"image {file} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"image {file} is a folder; give the name of an image file.") from None


def decode_image(
    file: Path | BinaryIO, name: str, *, formats: tuple[str, ...] | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Return an encoded image, decoded, as RGB; see `load_image`.

    Args:
        file: path or open file.
        name: what messages call it.
        formats: Pillow's names of the formats that are tried; None for all it knows.
        max_pixels: largest width times height that is decoded; None leaves Pillow's limit.

    Raises:
        InputError: it is truncated, too large, or no image Pillow can read.
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
    """
    try:
        with Image.open(file, formats=formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise InputError(f"{name} has {image.width}x{image.height} pixels; at most {max_pixels} are decoded.")
            return image.convert("RGB")
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large to decode ({error}).") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        # Pillow's decoders raise any of these on damaged data (SyntaxError: broken PNG chunks).
        reason = str(error).split(" '", maxsplit=1)[0].split(" <", maxsplit=1)[0]
        accepted = " or ".join(formats) if formats else "JPEG, PNG, WebP or BMP"
        raise InputError(
            f"{name} cannot be read ({reason}); accepted are whole image files such as {accepted}."
        ) from error


def resize_shorter_side(image: Image.Image, size: int, interpolation: Interpolation = "bilinear") -> Image.Image:
    """Return the image with its shorter side ``size`` pixels long and its proportions kept.

    The longer side is cut to a whole number, not rounded, as torchvision's ``Resize(size)`` does.
    """
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(size * long / short)
    new_width, new_height = (size, new_long) if width <= height else (new_long, size)
    if (new_width, new_height) == (width, height):
        return image
    return image.resize((new_width, new_height), _RESAMPLING[interpolation])


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the ``size`` x ``size`` center of the image, with black added around a smaller one.

    Offsets are rounded half to even, and the odd pixel of padding goes right and below, as torchvision's
    ``CenterCrop(size)`` does.
    """
    width, height = image.size
    if size > width or size > height:
        left = (size - width) // 2 if size > width else 0
        top = (size - height) // 2 if size > height else 0
        canvas = Image.new(image.mode, (max(size, width), max(size, height)))
        canvas.paste(image, (left, top))
        image, (width, height) = canvas, canvas.size
        if (width, height) == (size, size):
            return image
    top = round((height - size) / 2.0)
    left = round((width - size) / 2.0)
    return image.crop((left, top, left + size, top + size))
