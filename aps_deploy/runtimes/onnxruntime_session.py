"""ONNX files in ONNX Runtime, on the CPU or through its CUDA provider. Needs neither torch nor onnx."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.availability import Device, num_cuda_devices
from aps_deploy.runtimes.inputs import InputSpec, image_input_spec
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.runtimes.session import BaseSession

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

_CUDA_OPTIONS: dict[str, str] = {
    # TF32 rounds every product to 10 bits of mantissa: off, as everywhere in this project.
    "use_tf32": "0",
    # EXHAUSTIVE, the default, times the algorithms and may pick another one in every session.
    "cudnn_conv_algo_search": "HEURISTIC",
}

_DTYPE_OF = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeSession(BaseSession):
    """An ONNX file in ONNX Runtime.

    Args:
        model: path of the file, or the bytes of a serialised model.
        device: ``cpu``, ``cuda``, or None: CUDA where its provider truly starts, else the CPU.
        num_threads: threads used inside one operator; None leaves ONNX Runtime's choice, one per core.
        source: name for messages; the path where there is one.

    Raises:
        InputError: the file is no ONNX file, takes no images, or CUDA was asked for and is not there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        device: Device | None = None,
        num_threads: int | None = None,
        source: str | None = None,
    ) -> None:
        name = source or (os.fspath(model) if not isinstance(model, bytes) else "the model in memory")
        self._session = _start(model, device, _options(num_threads), name)
        used = tuple(self._session.get_providers())
        description = self._session.get_modelmeta()
        super().__init__(
            runtime="onnxruntime",
            device="cuda" if _CUDA in used else "cpu",
            providers=used,
            metadata=ModelMetadata.from_properties(description.custom_metadata_map),
            input_spec=_input_spec(self._session, name),
            output_names=tuple(output.name for output in self._session.get_outputs()),
            source=name,
        )

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(None, {self.input_spec.name: images})
        except _failures() as error:
            raise ApsError(
                f"ONNX Runtime failed on {self.source} with images of shape {images.shape} ({one_line(error)})."
            ) from error
        # Where a graph output is also the input, ONNX Runtime may hand out the caller's own memory.
        return [np.array(value) if np.may_share_memory(value, images) else value for value in outputs]

    def _release(self) -> None:
        del self._session


def _options(num_threads: int | None) -> Any:
    import onnxruntime

    if num_threads is not None and num_threads < 1:
        raise InputError(f"the number of threads is {num_threads}; it must be at least 1.")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    # Only what ends the process: warnings about graph clean-ups are of no use, and an error is raised as well as
    # logged.
    options.log_severity_level = 4
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    return options


def _start(model: str | os.PathLike[str] | bytes, device: Device | None, options: Any, name: str) -> Any:
    """Return a session on the wanted device; what it truly runs on is what the session itself reports."""
    import onnxruntime

    if not isinstance(model, bytes) and not Path(model).is_file():
        raise InputError(f"{name} does not exist.")
    content = model if isinstance(model, bytes) else os.fspath(model)
    if device != "cpu" and _CUDA in onnxruntime.get_available_providers() and num_cuda_devices() > 0:
        with _cuda_libraries():
            session = _create(content, options, [(_CUDA, _CUDA_OPTIONS), _CPU], name)
        if _CUDA in session.get_providers():
            return session
    if device == "cuda":
        raise InputError(
            f"{name}: the provider {_CUDA} was asked for and does not start here ({_reason()}); available: {_CPU}; "
            'use the device cpu, or install the libraries with pip install "aps-deploy[gpu]".'
        )
    return _create(content, options, [_CPU], name)


def _create(content: str | bytes, options: Any, providers: list[Any], name: str) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except _failures() as error:
        raise InputError(
            f"{name} is not an ONNX file that ONNX Runtime can load ({one_line(error)}); export it again."
        ) from error


def _reason() -> str:
    import onnxruntime

    if _CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA support"
    if num_cuda_devices() == 0:
        return "the driver reports no CUDA device"
    return "its CUDA or cuDNN libraries are missing or too old"


@contextlib.contextmanager
def _cuda_libraries() -> Iterator[None]:
    """Load the CUDA libraries of the pip packages first; without this the provider looks only on the system path."""
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        # It prints what it could not find; the session reports whether that mattered.
        onnxruntime.preload_dlls(directory="")
    yield


def _failures() -> tuple[type[Exception], ...]:
    """Return every exception ONNX Runtime raises; they have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*kinds, RuntimeError, ValueError)


def _input_spec(session: Any, name: str) -> InputSpec:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(entry.name) for entry in inputs)
        raise InputError(f"{name} takes {len(inputs)} inputs ({names}); accepted are image classifiers with one input.")
    entry = inputs[0]
    return image_input_spec(
        entry.name,
        tuple(entry.shape) if entry.shape is not None else None,
        _DTYPE_OF.get(entry.type, entry.type),
        session.get_modelmeta().producer_name,
        name,
    )
