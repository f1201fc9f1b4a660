"""From a JPEG or PNG to classes: what `aps-deploy predict` does, for one image in a request's body."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.predict import Prediction, predictions_from_outputs
from aps_deploy.preprocessing import decode_image
from aps_deploy.runtimes.session import INDICES, LOGITS
from aps_deploy.serving.datatypes import DTYPES
from aps_deploy.serving.errors import InvalidRequestError, UnsupportedContentError
from aps_deploy.serving.execution import Outputs
from aps_deploy.serving.model import ServedModel

_FORMATS = ("JPEG", "PNG")


def image_tensors(model: ServedModel, data: bytes, max_pixels: int) -> dict[str, npt.NDArray[Any]]:
    """Return the model's input for an encoded image; takes milliseconds, and may run on any thread.

    Args:
        model: what the image is for.
        data: the bytes of a JPEG or PNG file.
        max_pixels: largest image that is decoded.

    Raises:
        InvalidRequestError: the model takes no images, or says not how to prepare them.
        UnsupportedContentError: the image cannot be read, or is too large.
    """
    preprocessing = model.engine.metadata.preprocessing
    specs = list(model.signature.inputs.values())
    if len(specs) != 1 or len(specs[0].shape or ()) != 4 or specs[0].datatype not in ("FP16", "FP32"):
        raise InvalidRequestError(f"model '{model.name}' takes no images; send tensors to its infer route.")
    if preprocessing is None:
        raise InvalidRequestError(
            f"the file of model '{model.name}' carries no preprocessing; send prepared tensors to its infer route."
        )
    try:
        image = decode_image(io.BytesIO(data), "the image", formats=_FORMATS, max_pixels=max_pixels)
    except InputError as error:
        raise UnsupportedContentError(str(error)) from None
    (spec,) = specs
    return {spec.name: preprocessing.apply(image)[np.newaxis].astype(DTYPES[spec.datatype].newbyteorder("="))}


def classification(model: ServedModel, outputs: Outputs, *, top_k: int) -> dict[str, Any]:
    """Return the classes of one image as plain JSON values.

    Raises:
        ApsError: the model returned no finite (1, classes) logits.
    """
    named = dict(zip(model.signature.outputs, outputs, strict=True))
    # A file of another tool calls its first output what it likes.
    logits = named.get(LOGITS, outputs[0]).astype(np.float32, copy=False)
    read = {LOGITS: logits, **({INDICES: named[INDICES]} if INDICES in named else {})}
    (prediction,) = predictions_from_outputs(read, ["the image"], model.engine.metadata, model.name, top_k=top_k)
    return {"model_name": model.name, "model_version": model.version, **_plain(prediction)}


def _plain(prediction: Prediction) -> dict[str, Any]:
    chosen = prediction.polyphase_indices
    return {
        "scores": [
            {"index": score.index, "name": score.name, "probability": score.probability, "logit": score.logit}
            for score in prediction.scores
        ],
        "polyphase_indices": None if chosen is None else list(chosen),
    }
