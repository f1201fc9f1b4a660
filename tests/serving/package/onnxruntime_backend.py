"""Stands in for Triton's ONNX Runtime backend, which the server in `nvidia-pytriton` does not bring.

A "Python-based backend" of Triton: copied to ``backends/onnxruntime/model.py``, it lets the real server load the
packaged repositories as they are. What is judged is the server's core; the network runs in ONNX Runtime either way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        import onnxruntime

        file = Path(arguments["model_repository"], arguments["model_version"], "model.onnx")
        config = json.loads(arguments["model_config"])
        options = onnxruntime.SessionOptions()
        # Under the name that ONNX Runtime's own backend reads it by.
        chosen = config["parameters"].get("intra_op_thread_count", {"string_value": "1"})
        options.intra_op_num_threads = int(chosen["string_value"])
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        assert [entry["name"] for entry in config["input"]] == [entry.name for entry in self.session.get_inputs()]
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that Triton joined by one run, as ONNX Runtime's own backend does."""
        import numpy as np
        import triton_python_backend_utils as backend

        given = [
            [backend.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs] for request in requests
        ]
        joined = given[0] if len(given) == 1 else [np.concatenate(tensors) for tensors in zip(*given, strict=True)]
        values = self.session.run(self.outputs, dict(zip(self.inputs, joined, strict=True)))
        responses, start = [], 0
        for tensors in given:
            rows = slice(start, start + len(tensors[0])) if len(given) > 1 else slice(None)
            start += len(tensors[0])
            named = zip(self.outputs, values, strict=True)
            responses.append(backend.InferenceResponse([backend.Tensor(name, value[rows]) for name, value in named]))
        return responses
