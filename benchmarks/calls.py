"""What is timed: a network in one of the runtimes, ready to be called on the same images again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from aps_deploy.export.forms import PolyphaseForm
from aps_deploy.plugins.cpu.library import why_unavailable
from aps_deploy.runtimes.metadata import METADATA_KEY, ModelMetadata
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.runtimes.onnxruntime_session import (
    session_options,
    start_session,
    start_with_kernels,
    why_no_kernels,
)

RUNTIMES = ("onnxruntime", "torch", "torch-compiled")

Call = Callable[[], object]


def onnx_session(model: onnx.ModelProto | Path, num_threads: int | None) -> Any:
    """Return an ONNX Runtime session on the CPU, opened as the product opens one; see `create_session`."""
    return create_session(model, session_options(num_threads))


def create_session(model: onnx.ModelProto | Path, options: Any) -> Any:
    """Return an ONNX Runtime session on the CPU with these options; the one place that opens one.

    Our CPU kernels compute the custom operators of a file that `with_declared_form` was called for, where they are
    built; elsewhere the file's own bodies do.
    """
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    start = start_with_kernels if why_no_kernels(content) is None else start_session
    return start(content, "cpu", options, "the benchmark's model")


def with_declared_form(model: onnx.ModelProto, form: PolyphaseForm) -> onnx.ModelProto:
    """Return ``model``, changed in place, with the metadata that tells a session the form of its selections."""
    metadata = ModelMetadata(polyphase=form, precision="fp32")
    model.metadata_props.add(key=METADATA_KEY, value=metadata.to_json())
    return model


def onnx_call(model: onnx.ModelProto | Path, images: npt.NDArray[Any], num_threads: int | None) -> Call:
    """Return a run of an ONNX model or file with one input."""
    session = onnx_session(model, num_threads)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})


def torch_call(model: torch.nn.Module, images: torch.Tensor) -> Call:
    """Return a run of a network in PyTorch as it stands."""

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


def compiled_call(model: torch.nn.Module, images: torch.Tensor) -> Call:
    """Return a run of a network compiled for images of this shape; compiled when it is first called."""
    compiled = torch.compile(model, dynamic=False)

    def call() -> object:
        # As in the session `torch-compiled`: the compiler traces autograd's view, which inference mode has not.
        with torch.no_grad():
            return compiled(images)

    return call


def torch_calls(runtime: str, models: dict[str, torch.nn.Module], images: torch.Tensor) -> dict[str, Call]:
    """Return a run of each network in ``torch`` or ``torch-compiled``."""
    if runtime == "torch":
        return {name: torch_call(model, images) for name, model in models.items()}
    # What was compiled for earlier networks of the same class counts against the compiler's limit, beyond which it
    # silently runs the code as it stands.
    torch.compiler.reset()
    return {name: compiled_call(model, images) for name, model in models.items()}


def why_not(runtime: str) -> str | None:
    """Return why a runtime cannot be measured here, as one sentence; None where it can."""
    if runtime != "torch-compiled":
        return None
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(4))
    except Exception as error:  # the compiler's errors share no base with those of the C++ compiler it starts
        return f"torch-compiled is left out: PyTorch finds no working C++ compiler here ({one_line(error)})."
    return None


def say_without_kernels() -> None:
    """Print a sentence where our CPU kernels are not used, since files of custom operators are then slower."""
    reason = why_unavailable()
    if reason is not None:
        print(f"aps_custom_op and PyTorch run without our CPU kernels here: {reason}.")


def usable(runtimes: Iterable[str]) -> Iterator[str]:
    """Yield the runtimes that can be measured here, and say why another cannot."""
    for runtime in runtimes:
        reason = why_not(runtime)
        if reason is None:
            yield runtime
        else:
            print(reason)


def set_threads(num_threads: int | None) -> None:
    """Have PyTorch run with this many threads; None leaves its choice."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def random_images(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Return the same normal numbers every time, (N, C, H, W) float32."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator)


def as_array(images: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return the images as an array that shares their memory."""
    array: npt.NDArray[np.float32] = images.numpy()
    return array
