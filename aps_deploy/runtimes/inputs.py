"""What a model takes, and the sentence for images it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.metadata import ModelMetadata


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a model takes: (batch, channels, height, width), None where any size will do.

    Attributes:
        name: name of the input in the file.
        batch: fixed number of images per run.
        channels: number of channels.
        height: fixed height in pixels.
        width: fixed width in pixels.
        dtype: element type the file takes; images are converted to it from float32.
    """

    name: str = "images"
    batch: int | None = None
    channels: int | None = 3
    height: int | None = None
    width: int | None = None
    dtype: npt.DTypeLike = np.float32


def check_images(images: object, spec: InputSpec, metadata: ModelMetadata, source: str) -> None:
    """Do nothing where the model takes these images.

    Raises:
        InputError: it does not; the message says what was seen, what is accepted and the next valid size.
    """
    if not isinstance(images, np.ndarray):
        raise InputError(
            f"{source}: images are of type {type(images).__name__}; accepted: a numpy float32 array (N, 3, H, W)."
        )
    if images.dtype != np.float32:
        raise InputError(
            f"{source}: images have dtype {images.dtype}; accepted: float32, normalised as the model's preprocessing "
            "says."
        )
    if images.ndim != 4:
        raise InputError(f"{source}: images have shape {images.shape}; accepted: (N, 3, H, W).")
    count, channels, height, width = images.shape
    if count < 1:
        raise InputError(f"{source}: there are no images; give at least one.")
    if spec.channels is not None and channels != spec.channels:
        raise InputError(
            f"{source}: images have shape {images.shape}, so {channels} channels; accepted: {spec.channels}, "
            "as (N, channels, height, width)."
        )
    check_size(height, width, spec, metadata, source)


def check_size(height: int, width: int, spec: InputSpec, metadata: ModelMetadata, source: str) -> None:
    """Do nothing where images of this height and width, in pixels, fit the model.

    Raises:
        InputError: they do not; the message says what is accepted and the next valid size.
    """
    fixed = (spec.height or height, spec.width or width)
    if fixed != (height, width):
        raise InputError(f"{source}: images are {height}x{width}; this file takes only {fixed[0]}x{fixed[1]}.")
    divisor, smallest = metadata.size_divisor, metadata.min_size
    valid = tuple(_next_multiple(max(side, smallest, 1), divisor) for side in (height, width))
    if valid != (height, width):
        multiple = f"multiples of {divisor}" if divisor > 1 else ""
        least = f"at least {smallest}" if smallest > divisor else ""
        raise InputError(
            f"{source}: images are {height}x{width}, but height and width must be "
            f"{' and '.join(part for part in (multiple, least) if part)}; "
            f"the next valid size is {valid[0]}x{valid[1]}."
        )


def _next_multiple(size: int, divisor: int) -> int:
    return -(-size // divisor) * divisor


def fixed_size(dimension: object) -> int | None:
    """Return a dimension of an ONNX shape where it is a number, or None where it is a name or unknown."""
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def image_input_spec(name: str, shape: tuple[object, ...] | None, dtype: str, producer: str, source: str) -> InputSpec:
    """Return what an ONNX file's input takes.

    Args:
        name: the input's name.
        shape: its dimensions, numbers or names; None where the file does not say.
        dtype: its element type, such as ``float32``.
        producer: the tool that made the file, or an empty string; for messages.
        source: the file's name, for messages.

    Raises:
        InputError: the input cannot take a batch of images.
    """
    made_by = f" (made by {producer})" if producer else ""
    if dtype not in ("float32", "float16"):
        raise InputError(
            f"{source}{made_by}: its input {name!r} takes {dtype}; accepted are files that take float32 or "
            "float16 images."
        )
    if shape is not None and len(shape) != 4:
        raise InputError(
            f"{source}{made_by}: its input {name!r} has {len(shape)} dimensions; accepted are files that take images "
            "as (N, channels, height, width)."
        )
    batch, channels, height, width = (None,) * 4 if shape is None else map(fixed_size, shape)
    return InputSpec(name, batch, channels, height, width, np.dtype(dtype))
