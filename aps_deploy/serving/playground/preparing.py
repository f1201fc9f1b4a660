"""What the page must know of a model, and a picture as the model takes it.

The page shifts what it gets here, the network's input, as `aps-deploy verify` does: a shifted picture would be resized
and cropped again, and be no circular shift of the input any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.runtimes.session import LOGITS
from aps_deploy.serving.canary_record import promise_of
from aps_deploy.serving.http_inference import HEADER_LENGTH
from aps_deploy.serving.http_messages import Response
from aps_deploy.serving.model import ServedModel


def description(model: ServedModel) -> dict[str, Any]:
    """Return what a model's file says of itself, as plain JSON values.

    ``promise`` is what circular shifts by multiples of ``shift_step`` pixels may not change: ``bits`` (of the scores),
    ``class``, or ``nothing``; see `promise_of`. ``scores`` names the output with one score per class.
    """
    metadata = model.engine.metadata
    preprocessing = metadata.preprocessing
    side = 0 if preprocessing is None else preprocessing.image_size
    outputs = list(model.signature.outputs)
    # A file of another tool calls its first output what it likes.
    scores = LOGITS if LOGITS in outputs else outputs[0]
    labels = model.labels.get(scores)
    on_cpu = model.engine.providers[0] == "CPUExecutionProvider"
    return {
        "name": model.name,
        "version": model.version,
        "architecture": metadata.architecture,
        "precision": metadata.precision,
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        "labels": None if labels is None else list(labels),
        "scores": scores,
        "promise": promise_of(metadata, side, side, on_cpu=on_cpu) if side else "nothing",
        "shift_step": metadata.shift_step,
    }


def prepared_request(tensors: Mapping[str, npt.NDArray[Any]], model: ServedModel) -> Response:
    """Return a prepared picture as an inference request with raw tensors, to be sent to the infer route as it is.

    Args:
        tensors: one picture per input, (1, 3, H, W), in the input's own type.
        model: what they are for.
    """
    inputs, chunks = [], []
    for name, picture in tensors.items():
        spec = model.signature.inputs[name]
        # A file with a fixed batch takes so many rows and no fewer: the same picture in all of them.
        values = np.repeat(picture, max(1, (spec.shape or (1,))[0]), axis=0)
        data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        size = {"binary_data_size": len(data)}
        inputs.append({"name": name, "datatype": spec.datatype, "shape": list(values.shape), "parameters": size})
        chunks.append(data)
    document = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    header = json.dumps(document, separators=(",", ":")).encode()
    length = (HEADER_LENGTH, b"%d" % len(header))
    return Response(b"".join([header, *chunks]), content_type=b"application/octet-stream", headers=[length])
