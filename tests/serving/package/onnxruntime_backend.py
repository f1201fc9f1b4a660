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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        config = json.loads(arguments["model_config"])
        assert [entry["name"] for entry in config["input"]] == [entry.name for entry in self.session.get_inputs()]
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        import triton_python_backend_utils as backend

        responses = []
        for request in requests:
            given = {name: backend.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            values = self.session.run(self.outputs, given)
            named = zip(self.outputs, values, strict=True)
            responses.append(backend.InferenceResponse([backend.Tensor(name, value) for name, value in named]))
        return responses
