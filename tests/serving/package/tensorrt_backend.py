"""Stands in for Triton's TensorRT backend, which needs a GPU: answers zeros of the shapes that the configuration names.

What is judged is what the server's core makes of the configuration, the file's name and the warm-up data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        file = Path(arguments["model_repository"], arguments["model_version"], "model.plan")
        assert file.read_bytes().startswith(b"ftrt")
        self.config = json.loads(arguments["model_config"])

    def execute(self, requests: list[Any]) -> list[Any]:
        import numpy as np
        import triton_python_backend_utils as backend

        responses = []
        for request in requests:
            rows = len(backend.get_input_tensor_by_name(request, self.config["input"][0]["name"]).as_numpy())
            tensors = [
                backend.Tensor(
                    entry["name"],
                    np.zeros([rows, *map(int, entry["dims"])], backend.triton_string_to_numpy(entry["data_type"])),
                )
                for entry in self.config["output"]
            ]
            responses.append(backend.InferenceResponse(tensors))
        return responses
