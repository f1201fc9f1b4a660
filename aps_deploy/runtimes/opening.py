"""From a file's name to the session that runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aps_deploy.errors import InputError, near_matches
from aps_deploy.packaged import packaged_models
from aps_deploy.runtimes.availability import (
    RUNTIMES,
    FileKind,
    RuntimeInfo,
    check_device,
    default_runtime,
    require_runtime,
    resolve_runtime,
)
from aps_deploy.runtimes.session import Session
from aps_deploy.runtimes.sidecar import check_sidecar

if TYPE_CHECKING:
    import onnx
    import torch

CHECKPOINT_SUFFIXES = (".safetensors",)
ONNX_SUFFIXES = (".onnx",)
PLAN_SUFFIXES = (".plan", ".engine")
_TORCH_PICKLES = (".pt", ".pth", ".tar", ".ckpt", ".bin")


def open_session(
    path: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    *,
    runtime: str | None = None,
    device: str | None = None,
    num_threads: int | None = None,
) -> Session:
    """Return a session that runs a model.

    Args:
        path: a checkpoint (``.safetensors`` or a packaged name such as ``resnet20_aps3.cifar10``), an ``.onnx``
            file, an engine (``.plan``, ``.engine``), an ONNX model in memory, or a network made by `create_model`.
        runtime: ``torch`` or ``torch-compiled`` for checkpoints and networks, ``onnxruntime``,
            ``onnxruntime-kernels``, ``onnxruntime-tensorrt``, ``onnx-reference`` or ``openvino`` for ONNX files,
            ``tensorrt`` or ``tensorrt-rtx`` for engines; None takes the default of the kind of file.
        device: ``cpu``, ``cuda``, or None: CUDA where the runtime truly starts on it, else the CPU.
        num_threads: threads of one run; None leaves the runtime's choice. PyTorch's hold for the whole process, and
            the ReferenceEvaluator has none to set.

    Raises:
        InputError: the file is missing, of a kind nothing here runs, damaged or changed since it was exported; the
            runtime is unknown, not installed or does not run this kind of file; the device is not there.
    """
    if not isinstance(path, (str, os.PathLike)):
        return _open_object(path, runtime, device, num_threads)
    name = os.fspath(path)
    kind = file_kind(name)
    info = _runtime_for(kind, runtime, name)
    where = check_device(device, info)
    if kind == "plan":
        from aps_deploy.runtimes.tensorrt_session import TensorRtSession

        # What is wrong with the plan comes before what this machine lacks, and it says which toolkit is needed.
        return TensorRtSession(name, runtime=info.name)
    if kind == "onnx":
        if not Path(name).is_file():
            raise InputError(f"{name} does not exist; give the path of an ONNX file or a checkpoint.")
        check_sidecar(name)
    require_runtime(info)
    if info.reads == "checkpoint":
        from aps_deploy.runtimes.torch_session import TorchSession

        return TorchSession(name, device=where, num_threads=num_threads, is_compiled=info.name == "torch-compiled")
    if info.name in ("onnxruntime", "onnxruntime-kernels", "onnxruntime-tensorrt"):
        from aps_deploy.runtimes.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(name, runtime=info.name, device=where, num_threads=num_threads)
    if info.name == "openvino":
        from aps_deploy.runtimes.openvino_session import OpenVinoSession

        return OpenVinoSession(name, num_threads=num_threads)
    from aps_deploy.runtimes.onnx_reference_session import OnnxReferenceSession

    return OnnxReferenceSession(name)


def file_kind(path: str | os.PathLike[str]) -> FileKind:
    """Return whether a path or packaged name is a checkpoint, an ONNX file or an engine, judged by its name.

    Raises:
        InputError: it is none of them; the message lists the accepted kinds.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix in PLAN_SUFFIXES:
        return "plan"
    if suffix in ONNX_SUFFIXES:
        return "onnx"
    if suffix in CHECKPOINT_SUFFIXES or file.name in packaged_models():
        return "checkpoint"
    if file.is_dir():
        raise InputError(f"{path} is a folder; give a model file: {_accepted()}.")
    hint = ""
    if suffix in _TORCH_PICKLES:
        hint = f"; turn a PyTorch checkpoint into one with `aps-deploy import {path} -o NAME.safetensors`"
    close = near_matches(file.name, packaged_models())
    raise InputError(f"{path} is no model this can run{close}; accepted: {_accepted()}{hint}.")


def _accepted() -> str:
    names = packaged_models()
    packaged = f", a packaged model ({', '.join(names)})" if names else ""
    return f"a checkpoint (.safetensors){packaged}, an ONNX file (.onnx) or an engine (.plan, .engine)"


def _runtime_for(kind: FileKind | Literal["network"], runtime: str | None, name: str) -> RuntimeInfo:
    wanted: FileKind = "checkpoint" if kind == "network" else kind
    if runtime is None:
        return _maker_of(name) if wanted == "plan" else default_runtime(wanted)
    info = resolve_runtime(runtime)
    if info.reads != wanted:
        raise InputError(f"{info.title} does not run {name}; {_advice(info, wanted)}.")
    return info


def _maker_of(name: str) -> RuntimeInfo:
    from aps_deploy.runtimes.tensorrt.plan_header import read_plan_header
    from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS

    return RUNTIMES[TOOLKITS[read_plan_header(name).kind].runtime]


def _advice(info: RuntimeInfo, kind: FileKind) -> str:
    if info.reads == "plan":
        engine = "trt" if info.name == "tensorrt" else "trt-rtx"
        return f"it runs engines: compile one with `aps-deploy export FILE -o NAME.plan --engine {engine}`"
    if kind == "checkpoint":
        return "export the checkpoint first with `aps-deploy export`"
    accepted = ", ".join(each.name for each in RUNTIMES.values() if each.reads == kind)
    return f"accepted for {'ONNX files' if kind == 'onnx' else 'engines'}: {accepted}"


def _open_object(model: Any, runtime: str | None, device: str | None, num_threads: int | None) -> Session:
    if hasattr(model, "forward_with_selection"):
        from aps_deploy.runtimes.torch_session import TorchSession

        info = _runtime_for("network", runtime, "a network in memory")
        compiled = info.name == "torch-compiled"
        return TorchSession(model, device=check_device(device, info), num_threads=num_threads, is_compiled=compiled)
    if not hasattr(model, "SerializeToString"):
        raise InputError(
            f"an object of type {type(model).__name__} is no model this can run; accepted: a path, "
            "an onnx.ModelProto, or a network made by create_model."
        )
    info = _runtime_for("onnx", runtime, "an ONNX model in memory")
    where = check_device(device, info)
    require_runtime(info)
    if info.name in ("onnxruntime", "onnxruntime-kernels", "onnxruntime-tensorrt"):
        from aps_deploy.runtimes.onnxruntime_session import OnnxRuntimeSession

        content = model.SerializeToString()
        return OnnxRuntimeSession(content, runtime=info.name, device=where, num_threads=num_threads)
    if info.name == "openvino":
        from aps_deploy.runtimes.openvino_session import OpenVinoSession

        return OpenVinoSession(model, num_threads=num_threads)
    from aps_deploy.runtimes.onnx_reference_session import OnnxReferenceSession

    return OnnxReferenceSession(model)
