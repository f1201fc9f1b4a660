"""What this build of ONNX Runtime can run on, for the marks of tests."""

from __future__ import annotations

import onnxruntime
import pytest

# The package `onnxruntime` has none, whatever the driver reports; `onnxruntime-gpu` has.
needs_cuda_provider = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this build of ONNX Runtime has no CUDA provider",
)
