"""The image that a model's canary shifts: the one given, the one packaged with the model, or one inside the package."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import Preprocessing, load_image
from aps_deploy.serving.canary_record import Promise, promise_of
from aps_deploy.serving.datatypes import DTYPES
from aps_deploy.serving.engine import TensorSpec
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.signature import example_shape


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the canary of one model shifts.

    Attributes:
        input_name: the model's only input.
        image: (rows, 3, H, W), prepared, in the input's type; several equal rows for a file with a fixed batch.
        step: shifts are multiples of it, in pixels.
        promise: what must not change.
    """

    input_name: str
    image: npt.NDArray[Any]
    step: int
    promise: Promise


def subject_of(model: ServedModel, picture: Image.Image | None) -> Subject | None:
    """Return what to shift; None for a model that takes no RGB images, or takes them without a shift to try.

    Takes milliseconds, and may run on any thread.

    Args:
        model: the model.
        picture: the image to prepare; None for the model's own or a packaged one.
    """
    specs = list(model.signature.inputs.values())
    if len(specs) != 1 or len(specs[0].shape or ()) != 4 or specs[0].datatype not in ("FP16", "FP32"):
        return None
    (spec,) = specs
    rows, channels, height, width = example_shape(model.engine, spec)
    step = model.engine.metadata.shift_step
    if channels != 3 or max(height, width) <= step:
        return None
    stored = _packaged_with(model, spec) if picture is None else None
    if stored is None:
        stored = _prepared(model.engine.metadata.preprocessing, picture or _packaged_picture(), height, width)
    image = np.repeat(stored[np.newaxis], rows, axis=0).astype(DTYPES[spec.datatype].newbyteorder("="))
    metadata, on_cpu = model.engine.metadata, model.engine.providers[0] == "CPUExecutionProvider"
    promise = promise_of(metadata, *image.shape[2:], on_cpu=on_cpu)
    return Subject(spec.name, image, step, promise)


def _packaged_with(model: ServedModel, spec: TensorSpec) -> npt.NDArray[Any] | None:
    """Return the prepared image of the model's own warm-up, where its folder holds one; see `aps-deploy package`."""
    if model.folder is None or not model.signature.batches:
        return None
    dtype = DTYPES[spec.datatype]
    for sample in model.config.model_warmup:
        given = sample.inputs.get(spec.name)
        # A name with a path in it could lead out of the repository.
        if given is None or not given.input_data_file or Path(given.input_data_file).name != given.input_data_file:
            continue
        dims, file = tuple(given.dims), model.folder / "warmup" / given.input_data_file
        if len(dims) != 3 or not file.is_file() or file.stat().st_size != math.prod(dims) * dtype.itemsize:
            continue
        return np.fromfile(file, dtype).reshape(dims)
    return None


def _packaged_picture() -> Image.Image:
    return load_image(min(packaged_images()["cifar10"].rglob("*.jpg")))


def _prepared(
    preprocessing: Preprocessing | None, picture: Image.Image, height: int, width: int
) -> npt.NDArray[np.float32]:
    """Return the picture as the model takes it; resized and scaled by a guess where the file does not say how."""
    if preprocessing is not None and (height, width) == (preprocessing.image_size, preprocessing.image_size):
        return preprocessing.apply(picture)
    guess = preprocessing or Preprocessing(height, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return guess.normalize(picture.resize((width, height), Image.Resampling.BICUBIC))
