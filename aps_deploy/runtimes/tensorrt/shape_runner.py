"""One shape of images through an engine: fixed memory, one execution context, and a CUDA graph from the second run on.

The memory a graph reads and writes must never move, and the values an execution context prepares for a shape must not
change under it. So each shape has a context, device tensors and pinned host tensors of its own.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.device_span import device_work
from aps_deploy.runtimes.tensorrt.loading import LoadedEngine
from aps_deploy.runtimes.tensorrt.shape_ranges import Shape

if TYPE_CHECKING:
    import torch

_LOGGER = logging.getLogger(__name__)

# PyTorch records one graph at a time in a process.
_CAPTURE = threading.Lock()

# TensorRT's names of the types that inputs and outputs of a classifier have, and PyTorch's.
_TORCH_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def torch_dtype_name(dtype: Any) -> str:
    """Return PyTorch's name of a TensorRT type.

    Raises:
        ApsError: PyTorch has none.
    """
    if dtype.name not in _TORCH_DTYPES:
        raise ApsError(f"the engine has a tensor of type {dtype.name}, which PyTorch cannot hold; export it again.")
    return _TORCH_DTYPES[dtype.name]


class ShapeRunner:
    """An engine prepared for one shape of images.

    Args:
        loaded: the engine.
        profile: number of the profile that takes the shape.
        shape: of the images, (N, C, H, W).
        input_name: the engine's input.
        output_names: its outputs, in order.
        stream: the CUDA stream it runs on; never the default one, on which nothing can be captured.

    Raises:
        ApsError: the engine refuses the shape, or the GPU has no memory for it.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        profile: int,
        shape: Shape,
        *,
        input_name: str,
        output_names: tuple[str, ...],
        stream: Any,
    ) -> None:
        self._loaded, self._shape, self._stream = loaded, shape, stream
        self._context = loaded.new_context(profile, stream.cuda_stream)
        if self._context is None:
            raise ApsError(f"TensorRT made no execution context for images of shape {shape}{self._last_error()}.")
        if not self._context.set_input_shape(input_name, shape):
            raise ApsError(f"the engine refuses images of shape {shape} in its profile {profile}{self._last_error()}.")
        missing = self._context.infer_shapes()
        if missing:
            raise ApsError(f"the engine wants more than images: {', '.join(map(str, missing))}.")
        self._input, self._pinned_input = self._memory(input_name)
        pairs = [self._memory(name) for name in output_names]
        self._outputs = tuple(device for device, _ in pairs)
        self._pinned_outputs = tuple(host for _, host in pairs)
        for name, tensor in zip((input_name, *output_names), (self._input, *self._outputs), strict=True):
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise ApsError(f"the engine has no tensor {name}{self._last_error()}.")
        self._graph: Any = None
        self._num_runs = 0
        self._may_capture = True

    @property
    def is_captured(self) -> bool:
        """Whether runs are replays of a CUDA graph."""
        return self._graph is not None

    def run(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the outputs for images of the runner's shape, as arrays that belong to the caller.

        Raises:
            ApsError: the engine or CUDA failed.
        """
        import torch

        self._pinned_input.numpy()[...] = images
        try:
            with torch.cuda.stream(self._stream), device_work("cuda", self._stream):
                self._input.copy_(self._pinned_input, non_blocking=True)
                self._compute()
                for host, device in zip(self._pinned_outputs, self._outputs, strict=True):
                    host.copy_(device, non_blocking=True)
            self._stream.synchronize()
        except RuntimeError as error:
            raise self._cuda_error(error) from error
        self._finish_run()
        return [_owned(host) for host in self._pinned_outputs]

    def run_tensors(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs for images on the GPU, as tensors on it that belong to the caller.

        The work is queued behind what the caller's current stream holds, and what is queued there later waits for it;
        the host waits for nothing but the first run of a shape.

        Args:
            images: of the runner's shape.

        Raises:
            ApsError: the engine or CUDA failed.
        """
        import torch

        caller = torch.cuda.current_stream()
        try:
            # Memory of the caller's stream: whoever uses it next waits behind this run.
            outputs = [torch.empty(tuple(held.shape), dtype=held.dtype, device="cuda") for held in self._outputs]
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                self._input.copy_(images, non_blocking=True)
                self._compute()
                for output, held in zip(outputs, self._outputs, strict=True):
                    output.copy_(held, non_blocking=True)
            caller.wait_stream(self._stream)
            if self._num_runs == 0:
                self._stream.synchronize()
        except RuntimeError as error:
            raise self._cuda_error(error) from error
        self._finish_run()
        return outputs

    def _finish_run(self) -> None:
        """Count a run; after the first, what was compiled for the shape is kept."""
        self._num_runs += 1
        if self._num_runs == 1:
            self._loaded.keep_kernels()

    def _cuda_error(self, error: RuntimeError) -> ApsError:
        reason = str(error).splitlines()[0].rstrip(".")
        return ApsError(f"CUDA failed on images of shape {self._shape} ({reason}).")

    def _compute(self) -> None:
        """Queue the engine: by itself in the first run, whose lazy preparations no graph may hold, then as a graph."""
        if self._graph is None and self._num_runs > 0 and self._may_capture:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise ApsError(f"the engine failed on images of shape {self._shape}{self._last_error()}.")

    def _capture(self) -> None:
        """Record the run as a CUDA graph; where that cannot be done, the engine is queued each time."""
        import torch

        self._may_capture = False  # tried once
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.cuda_stream):
            return
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use CUDA meanwhile: only this one's calls are recorded.
            with _CAPTURE, torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._enqueue()
        except (RuntimeError, ApsError) as error:
            _LOGGER.info("no CUDA graph for images of shape %s: %s", self._shape, error)
            return
        self._graph = graph

    def _memory(self, name: str) -> tuple[Any, Any]:
        """Return a tensor on the GPU and one in pinned host memory for an input or output of the engine."""
        import torch

        dtype = getattr(torch, torch_dtype_name(self._loaded.engine.get_tensor_dtype(name)))
        shape = tuple(map(int, self._context.get_tensor_shape(name)))
        if any(side < 0 for side in shape):
            raise ApsError(f"the shape of the engine's output {name} depends on values of the images: {shape}.")
        try:
            # From the stream's own memory: what another stream gave back may still be read there.
            with torch.cuda.stream(self._stream):
                device = torch.empty(shape, dtype=dtype, device="cuda")
            return device, torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ApsError(f"there is no memory for images of shape {self._shape} ({reason}).") from error

    def _last_error(self) -> str:
        errors = self._loaded.log.errors
        return f" ({' '.join(errors[-1].split())[:200].rstrip('.')})" if errors else ""


def _owned(host: Any) -> npt.NDArray[Any]:
    import torch

    # numpy has no bfloat16, and float32 holds every value of it.
    return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())
