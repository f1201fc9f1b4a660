"""ONNX files in ONNX Runtime, on the CPU or through its CUDA or TensorRT provider. Needs neither torch nor onnx."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.plugins.cpu.library import KERNELS, library_path, why_unavailable
from aps_deploy.runtimes.availability import Device, num_cuda_devices
from aps_deploy.runtimes.device_span import device_work
from aps_deploy.runtimes.inputs import InputSpec, image_input_spec
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.runtimes.onnx_properties import read_properties
from aps_deploy.runtimes.session import BaseSession
from aps_deploy.runtimes.threads import check_threads

logger = logging.getLogger(__name__)

_TENSORRT = "TensorrtExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

# ONNX Runtime's log severities.
_WARNING, _FATAL = 2, 4

_CUDA_OPTIONS: dict[str, str] = {
    # TF32 rounds every product to 10 bits of mantissa: off, as everywhere in this project.
    "use_tf32": "0",
    # EXHAUSTIVE, the default, times the algorithms and may pick another one in every session.
    "cudnn_conv_algo_search": "HEURISTIC",
}

OnnxRuntimeName = Literal["onnxruntime", "onnxruntime-kernels", "onnxruntime-tensorrt"]

_DTYPE_OF = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeSession(BaseSession):
    """An ONNX file in ONNX Runtime.

    Args:
        model: path of the file, or the bytes of a serialised model.
        runtime: ``onnxruntime``; ``onnxruntime-kernels``, where the project's CPU kernels compute the custom operators;
            or ``onnxruntime-tensorrt``, where the TensorRT provider runs what it can of the graph, and CUDA the rest.
            Nothing else takes the place of the last two.
        device: ``cpu``, ``cuda``, or None: CUDA where its provider truly starts, else the CPU.
        num_threads: threads used inside one operator; None leaves ONNX Runtime's choice, one per core.
        source: name for messages; the path where there is one.

    Raises:
        InputError: the file is no ONNX file, takes no images, or CUDA, TensorRT or the kernels were asked for and are
            not there, or have nothing to do in it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        runtime: OnnxRuntimeName = "onnxruntime",
        device: Device | None = None,
        num_threads: int | None = None,
        source: str | None = None,
    ) -> None:
        name = source or (os.fspath(model) if not isinstance(model, bytes) else "the model in memory")
        self._session = _START[runtime](model, device, session_options(num_threads), name)
        used = tuple(self._session.get_providers())
        try:
            properties = self._session.get_modelmeta().custom_metadata_map
            spec = _input_spec(self._session, name)
            output_names = tuple(output.name for output in self._session.get_outputs())
        except UnicodeDecodeError as error:  # ONNX Runtime hands out whatever bytes stand in the file
            raise InputError(f"{name} is damaged: a name in it is no text ({error}); export it again.") from error
        super().__init__(
            runtime=runtime,
            device="cuda" if _CUDA in used or runtime == "onnxruntime-tensorrt" else "cpu",
            providers=(*used, KERNELS) if runtime == "onnxruntime-kernels" else used,
            metadata=ModelMetadata.from_properties(properties, name),
            input_spec=spec,
            output_names=output_names,
            source=name,
        )

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        try:
            # ONNX Runtime keeps its stream to itself; its call returns when the answers are in the host's memory.
            with device_work(self.device):
                outputs: list[npt.NDArray[Any]] = self._session.run(None, {self.input_spec.name: images})
        except onnxruntime_errors() as error:
            raise ApsError(
                f"ONNX Runtime failed on {self.source} with images of shape {images.shape} ({one_line(error)})."
            ) from error
        # Where a graph output is also the input, ONNX Runtime may hand out the caller's own memory.
        return [np.array(value) if np.may_share_memory(value, images) else value for value in outputs]

    def _release(self) -> None:
        del self._session


def session_options(num_threads: int | None) -> Any:
    """Return ONNX Runtime's options for a session whose results can be repeated.

    Raises:
        InputError: there cannot be so many threads.
    """
    import onnxruntime

    check_threads(num_threads)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    # Only what ends the process: warnings about graph clean-ups are of no use, and an error is raised as well as
    # logged.
    options.log_severity_level = _FATAL
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    return options


def start_session(model: str | os.PathLike[str] | bytes, device: Device | None, options: Any, name: str) -> Any:
    """Return an ONNX Runtime session on the wanted device; what it truly runs on is what the session itself reports.

    Raises:
        InputError: the file is missing or no ONNX file, or CUDA was asked for and is not there.
    """
    import onnxruntime

    if not isinstance(model, bytes) and not Path(model).is_file():
        raise InputError(f"{name} does not exist.")
    content = model if isinstance(model, bytes) else os.fspath(model)
    if device == "cpu":
        return _create_on_cpu(content, options, name)
    if _CUDA not in onnxruntime.get_available_providers():
        reason = "this build of ONNX Runtime has no CUDA support"
    elif num_cuda_devices() == 0:
        reason = "the driver reports no CUDA device"
    else:
        session, reason = _try_providers(content, options, [(_CUDA, _CUDA_OPTIONS), _CPU])
        if session is not None:
            return session
    # Also where CUDA was asked for: if the file is what fails, the message must say so.
    session = _create_on_cpu(content, options, name)
    if device == "cuda":
        # No package helps a machine without a GPU.
        advice = ', or install the libraries with pip install "aps-deploy[gpu]"' if num_cuda_devices() > 0 else ""
        raise InputError(
            f"{name}: the provider {_CUDA} was asked for and does not start here ({reason}); "
            f"available: {', '.join(session.get_providers())}; use the device cpu{advice}."
        )
    if num_cuda_devices() > 0:
        logger.warning("%s runs on the CPU although there is a CUDA device: %s", name, reason)
    return session


def start_with_kernels(model: str | os.PathLike[str] | bytes, device: Device | None, options: Any, name: str) -> Any:
    """Return an ONNX Runtime session on the CPU in which the project's kernels compute the custom operators.

    ``device`` is not asked: there is only the CPU.

    Raises:
        InputError: the file is missing or no ONNX file, the kernels are not there, or have nothing to do in it.
    """
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise InputError(f"{name} does not exist.")
    reason = why_no_kernels(model)
    if reason is not None:
        raise InputError(f"{name}: the CPU kernels were asked for, and {reason}; or use --runtime onnxruntime.")
    options.register_custom_ops_library(os.fspath(library_path() or ""))
    return _create_on_cpu(model if isinstance(model, bytes) else os.fspath(model), options, name)


def why_no_kernels(model: str | os.PathLike[str] | bytes) -> str | None:
    """Return why the CPU kernels cannot run, or have nothing to do in a file; None where they can and have.

    The kernels take float32. ONNX Runtime refuses a file that hands an operator with a kernel another type, although
    the file brings a body for it; so files of other precisions run without them.
    """
    reason = why_unavailable()
    if reason is not None:
        return reason
    try:
        metadata = ModelMetadata.from_properties(read_properties(model), "the file")
    except InputError:
        return "its metadata is damaged"
    if metadata.polyphase == "custom-op" and metadata.precision == "fp32":
        return None
    seen = f"{metadata.polyphase or 'no selections'} in {metadata.precision or 'no declared precision'}"
    return f"the file holds {seen}; they take files of `aps-deploy export --polyphase custom-op` in fp32"


def start_with_tensorrt(model: str | os.PathLike[str] | bytes, device: Device | None, options: Any, name: str) -> Any:
    """Return an ONNX Runtime session whose TensorRT provider started, as the session itself reports.

    What TensorRT does not take of the graph runs in the CUDA provider. ``device`` is not asked: there is only CUDA.

    Raises:
        InputError: the file is missing or no ONNX file, or the provider is not there or does not start.
    """
    reason = why_no_tensorrt()
    session = None
    if reason is None:
        content = model if isinstance(model, bytes) else os.fspath(model)
        session, reason = _try_providers(content, options, [_TENSORRT, (_CUDA, _CUDA_OPTIONS), _CPU])
    if session is not None:
        return session
    # If the file is what fails, the message must say so.
    start_session(model, "cpu", options, name)
    raise InputError(
        f"{name}: the provider {_TENSORRT} was asked for and does not start here ({reason}); use --runtime "
        "onnxruntime, or compile an engine with aps-deploy export --engine trt."
    )


def why_no_tensorrt() -> str | None:
    """Return why ONNX Runtime's TensorRT provider cannot start here, as far as that shows without a file."""
    import onnxruntime

    if _TENSORRT not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no TensorRT support"
    if num_cuda_devices() == 0:
        return "the driver reports no CUDA device"
    return None


def _create_on_cpu(content: str | bytes, options: Any, name: str) -> Any:
    try:
        return _create(content, options, [_CPU])
    except _not_implemented() as error:
        kind = _declared_precision(content)
        raise InputError(
            f"{name}{f' is a {kind} file, and' if kind else ':'} ONNX Runtime has no CPU kernel for one of its "
            f"operators ({one_line(error)}); use --runtime onnx-reference, which is slow and has all of them, or "
            "export another precision."
        ) from error
    except onnxruntime_errors() as error:
        raise InputError(
            f"{name} is not an ONNX file that ONNX Runtime can load ({one_line(error)}); export it again."
        ) from error


def _try_providers(content: str | bytes, options: Any, providers: list[Any]) -> tuple[Any, str]:
    """Return a session on the first of the providers and an empty reason, or None and why that did not start."""
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    try:
        with _cuda_start():
            session = _create(content, options, providers)
    except onnxruntime_errors() as error:
        # The sentence of ONNX Runtime begins with a line of its own source.
        is_missing = first == _TENSORRT and "install TensorRT" in str(error)
        return None, "its TensorRT 10 libraries do not load" if is_missing else one_line(error)
    if first in session.get_providers():
        return session, ""
    libraries = "TensorRT 10, CUDA or cuDNN" if first == _TENSORRT else "CUDA or cuDNN"
    return None, f"its {libraries} libraries are missing or too old"


def _create(content: str | bytes, options: Any, providers: list[Any]) -> Any:
    import onnxruntime

    # The wrapper's own fallback prints to standard output and, when a run fails, moves the session to the CPU unasked.
    return onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)


@contextlib.contextmanager
def _cuda_start() -> Iterator[None]:
    """Load the CUDA libraries of the pip packages, and keep ONNX Runtime quiet about a provider that fails to start.

    Without the first the provider looks only on the system's path. The second: the session reports what it runs on,
    and a page on standard error says no more.
    """
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        onnxruntime.preload_dlls(directory="")  # prints what it could not find
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)  # its default; there is no way to ask for the former one


def _not_implemented() -> type[Exception]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kind: type[Exception] = state.NotImplemented
    return kind


def _declared_precision(content: str | bytes) -> str | None:
    """Return the precision that a file states, read without ONNX Runtime, which could not load it."""
    if isinstance(content, bytes):
        return None
    try:
        return ModelMetadata.from_onnx(content).precision
    except InputError:
        return None


def onnxruntime_errors() -> tuple[type[Exception], ...]:
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
        tuple(entry.shape) or None,  # no shape at all: any will do
        _DTYPE_OF.get(entry.type, entry.type),
        session.get_modelmeta().producer_name,
        name,
    )


_START = {
    "onnxruntime": start_session,
    "onnxruntime-kernels": start_with_kernels,
    "onnxruntime-tensorrt": start_with_tensorrt,
}
