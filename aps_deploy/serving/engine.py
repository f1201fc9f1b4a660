"""A model file as the server sees it: named tensors in, named tensors out, in the file's own types.

Here an ONNX file in ONNX Runtime; engines are in `aps_deploy.serving.plan_engine`. `aps_deploy.runtimes` offers images
and float32 logits instead; both start their sessions the same way.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.plugins.cpu.library import KERNELS
from aps_deploy.runtimes.availability import RUNTIMES, check_device
from aps_deploy.runtimes.inputs import InputSpec, check_size, fixed_size
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.runtimes.onnxruntime_session import (
    onnxruntime_errors,
    session_options,
    start_session,
    start_with_kernels,
)
from aps_deploy.runtimes.opening import PLAN_SUFFIXES
from aps_deploy.runtimes.sidecar import check_sidecar
from aps_deploy.serving.datatypes import datatype_of_onnxruntime
from aps_deploy.serving.errors import InvalidRequestError
from aps_deploy.serving.settings import OnnxRuntime

Tensors = Mapping[str, npt.NDArray[Any]]
Platform = Literal["onnxruntime_onnx", "tensorrt_plan"]
"""What serves a file, by the older of Triton's two names; `aps_deploy.serving.model_config` has the newer ones."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a file.

    Attributes:
        name: its name in the file.
        datatype: the protocol's element type, such as ``FP32``.
        shape: its dimensions; -1 where any will do. None where the file does not say.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None

    @property
    def has_free_batch(self) -> bool:
        """Whether the first dimension is known to take any number of rows."""
        return self.shape is not None and self.shape[0] < 0


class FileDescription(Protocol):
    """A model file, as much as its configuration needs.

    Attributes:
        source: the file's name.
        inputs: what it takes.
        outputs: what it returns.
        metadata: what the file says about itself; empty for a file of another tool.
        platform: what serves it.
        is_on_gpu: whether it computes on a GPU.
    """

    source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: ModelMetadata
    platform: Platform

    @property
    def is_on_gpu(self) -> bool: ...  # noqa: D102 (described above)


class ModelEngine(FileDescription, Protocol):
    """A model file, loaded.

    Attributes:
        providers: what computes, as the runtime reports it.
    """

    providers: tuple[str, ...]

    def run(self, tensors: Tensors) -> list[npt.NDArray[Any]]:
        """Return the outputs, in the file's order, for one tensor per input.

        Raises:
            ApsError: the runtime failed; `InvalidRequestError` where the tensors are to blame.
        """
        ...

    def check_image_size(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Do nothing where images of this shape fit the network.

        Raises:
            InputError: they do not.
        """
        ...


def open_engine(
    path: str | os.PathLike[str],
    *,
    runtime: OnnxRuntime = "onnxruntime",
    device: str | None = None,
    num_threads: int | None = None,
) -> ModelEngine:
    """Return a model file, loaded: an engine (``.plan``, ``.engine``), or else an ONNX file.

    Args:
        path: the file.
        runtime: what runs an ONNX file; an engine runs in the toolkit that made it.
        device: ``cpu``, ``cuda`` or None: CUDA where it works.
        num_threads: threads of one run on a CPU.

    Raises:
        InputError: it cannot be loaded here.
    """
    if Path(path).suffix.lower() in PLAN_SUFFIXES:
        from aps_deploy.serving.plan_engine import PlanEngine

        return PlanEngine(path, device=device)
    return OnnxEngine(path, runtime=runtime, device=device, num_threads=num_threads)


class OnnxEngine:
    """An ONNX file, loaded.

    Args:
        path: the file.
        runtime: ``onnxruntime``, or ``onnxruntime-kernels``, where the project's CPU kernels compute the custom
            operators; nothing else takes their place.
        device: ``cpu``, ``cuda`` or None: CUDA where its provider truly starts.
        num_threads: threads of one run.

    Attributes:
        inputs: what it takes.
        outputs: what it returns.
        metadata: what the file says about itself; empty for a file of another tool.
        providers: what computes, as ONNX Runtime reports it; the CPU kernels last.

    Raises:
        InputError: the file is missing, no ONNX file, changed since it was exported, or has an input or output of a
            type the protocol does not know; or the kernels are not there, or have nothing to do in it.
    """

    platform: Platform = "onnxruntime_onnx"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        runtime: OnnxRuntime = "onnxruntime",
        device: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.source = os.fspath(path)
        if not Path(path).is_file():
            raise InputError(f"{self.source} does not exist; give the path of an ONNX file.")
        check_sidecar(path)
        where = check_device(device, RUNTIMES[runtime])
        uses_kernels = runtime == "onnxruntime-kernels"
        start = start_with_kernels if uses_kernels else start_session
        self._session = start(path, where, session_options(num_threads), self.source)
        self._failures = onnxruntime_errors()
        self.inputs = tuple(_spec(entry, self.source) for entry in self._session.get_inputs())
        self.outputs = tuple(_spec(entry, self.source) for entry in self._session.get_outputs())
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata = ModelMetadata.from_properties(properties, self.source)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        if uses_kernels:
            self.providers += (KERNELS,)
        # A graph whose sizes are free can meet tensors that it cannot compute: the client's mistake.
        is_free = any(size < 0 for spec in self.inputs for size in (spec.shape or (-1,))[1:])
        self._error_class = InvalidRequestError if is_free else ApsError

    @property
    def is_on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return "CUDAExecutionProvider" in self.providers

    def run(self, tensors: Tensors) -> list[npt.NDArray[Any]]:
        """Return the outputs, in the file's order, for one tensor per input.

        Raises:
            InvalidRequestError: ONNX Runtime failed, and the file leaves sizes free that the tensors choose.
            ApsError: ONNX Runtime failed on tensors of the only shape there is.
        """
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(None, tensors)
        except self._failures as error:
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in tensors.items())
            raise self._error_class(f"ONNX Runtime failed on {shapes} ({one_line(error)}).") from error
        # Where a graph output is also an input, ONNX Runtime may hand out the caller's own memory.
        given = list(tensors.values())
        return [
            np.array(value) if any(np.may_share_memory(value, one) for one in given) else value for value in outputs
        ]

    def check_image_size(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Do nothing where images of this shape fit the network, which the file itself may not say.

        Raises:
            InputError: height or width is no multiple of the total stride, or too small.
        """
        if len(shape) == 4:
            check_size(shape[2], shape[3], InputSpec(spec.name), self.metadata, spec.name)


def _spec(entry: Any, source: str) -> TensorSpec:
    datatype = datatype_of_onnxruntime(entry.type)
    if datatype is None:
        raise InputError(f"{source}: {entry.name!r} is a {entry.type}; accepted are tensors of numbers or booleans.")
    shape = tuple(fixed_size(dimension) or -1 for dimension in entry.shape) if entry.shape else None
    return TensorSpec(entry.name, datatype, shape)
