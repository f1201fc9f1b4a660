"""Model of Triton's Python backend: encoded images in, the network's input out, by the code of `predict`.

`aps-deploy package --with-preprocessing` copies this file as ``model.py`` into the repository, with the two modules of
`aps_deploy` that it needs and ``preprocessing.json`` beside it. Triton's interpreter must have numpy and Pillow.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

MAX_PIXELS = 50_000_000
"""Largest image that is decoded, as in `aps-deploy serve`."""


class TritonPythonModel:
    """What Triton's Python backend looks for in ``model.py``."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Read how an image becomes the network's input, and the names of both tensors."""
        folder = Path(arguments["model_repository"], arguments["model_version"])
        # The modules stand beside this file, so that the server needs no package of ours.
        sys.path.insert(0, str(folder))
        from aps_deploy.preprocessing import Preprocessing

        self._preprocessing = Preprocessing.from_dict(json.loads((folder / "preprocessing.json").read_text("utf-8")))
        config = json.loads(arguments["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._type = {"TYPE_FP16": "float16", "TYPE_FP32": "float32"}[config["output"][0]["data_type"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request: the prepared images, or why one of them cannot be read."""
        import triton_python_backend_utils as backend

        responses = []
        for request in requests:
            encoded = backend.get_input_tensor_by_name(request, self._input).as_numpy()
            try:
                prepared = backend.Tensor(self._output, self._prepare(encoded))
                responses.append(backend.InferenceResponse(output_tensors=[prepared]))
            except ValueError as error:
                refusal = backend.TritonError(str(error), backend.TritonError.INVALID_ARG)
                responses.append(backend.InferenceResponse(output_tensors=[], error=refusal))
        return responses

    def _prepare(self, encoded: Any) -> Any:
        """Return images (N, 3, image_size, image_size) for N encoded ones, an array (N, 1) of bytes."""
        import numpy as np

        from aps_deploy.errors import InputError
        from aps_deploy.preprocessing import decode_image

        prepared = []
        for number, data in enumerate(encoded.reshape(-1)):
            try:
                image = decode_image(
                    io.BytesIO(data), f"image {number} of the request", formats=("JPEG", "PNG"), max_pixels=MAX_PIXELS
                )
            except InputError as error:
                raise ValueError(str(error)) from None
            prepared.append(self._preprocessing.apply(image))
        return np.stack(prepared).astype(self._type)
