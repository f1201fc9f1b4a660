"""The runtimes there are, which of them this machine has, and how to install the others.

The one place that knows the names, the optional packages and the install commands. It asks whether a package can be
found and never imports it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
import sys
from typing import Literal, get_args

from aps_deploy.errors import InputError, near_matches

RuntimeName = Literal[
    "torch",
    "torch-compiled",
    "onnx-reference",
    "onnxruntime",
    "onnxruntime-kernels",
    "onnxruntime-tensorrt",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
]
FileKind = Literal["checkpoint", "onnx", "plan"]
Device = Literal["cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class RuntimeInfo:
    """One runtime: what it is called, what it reads and what it needs.

    Attributes:
        name: the name commands and certificates use.
        title: the name people use.
        aliases: other accepted spellings.
        module: package that must be importable.
        distributions: names under which that package is distributed, to find its version.
        reads: kind of file it runs.
        devices: where it can run.
        install_hint: command that installs it.
        is_extra: whether it runs only where it is asked for: what it needs is not on every machine.
    """

    name: RuntimeName
    title: str
    aliases: tuple[str, ...]
    module: str
    distributions: tuple[str, ...]
    reads: FileKind
    devices: tuple[Device, ...]
    install_hint: str
    is_extra: bool = False


@dataclasses.dataclass(frozen=True)
class RuntimeStatus:
    """Whether a runtime can be used here, and its version or what is missing."""

    name: RuntimeName
    available: bool
    reason: str


RUNTIMES: dict[str, RuntimeInfo] = {
    info.name: info
    for info in (
        RuntimeInfo(
            name="torch",
            title="PyTorch",
            aliases=("pytorch",),
            module="torch",
            distributions=("torch",),
            reads="checkpoint",
            devices=("cpu", "cuda"),
            install_hint="pip install torch torchvision",
        ),
        RuntimeInfo(
            name="onnxruntime",
            title="ONNX Runtime",
            aliases=("ort", "onnx-runtime"),
            module="onnxruntime",
            distributions=("onnxruntime-gpu", "onnxruntime"),
            reads="onnx",
            devices=("cpu", "cuda"),
            install_hint="pip install onnxruntime-gpu (on Linux x86_64 and Windows) or pip install onnxruntime",
        ),
        RuntimeInfo(
            name="onnx-reference",
            title="onnx ReferenceEvaluator",
            aliases=("reference", "onnx_reference"),
            module="onnx",
            distributions=("onnx",),
            reads="onnx",
            devices=("cpu",),
            install_hint="pip install onnx",
        ),
        RuntimeInfo(
            name="torch-compiled",
            title="PyTorch, compiled",
            aliases=("compiled", "torch-compile"),
            module="torch",
            distributions=("torch",),
            reads="checkpoint",
            devices=("cpu", "cuda"),
            install_hint="pip install torch torchvision",
            is_extra=True,
        ),
        RuntimeInfo(
            name="openvino",
            title="OpenVINO",
            aliases=("ov",),
            module="openvino",
            distributions=("openvino",),
            reads="onnx",
            devices=("cpu",),
            install_hint='pip install "aps-deploy[openvino]"',
            is_extra=True,
        ),
        RuntimeInfo(
            name="onnxruntime-kernels",
            title="ONNX Runtime with the CPU kernels",
            aliases=("ort-kernels", "kernels"),
            module="onnxruntime",
            distributions=("onnxruntime-gpu", "onnxruntime"),
            reads="onnx",
            devices=("cpu",),
            install_hint="pip install onnxruntime-gpu (on Linux x86_64 and Windows) or pip install onnxruntime",
            is_extra=True,
        ),
        RuntimeInfo(
            name="onnxruntime-tensorrt",
            title="ONNX Runtime with TensorRT",
            aliases=("ort-tensorrt", "ort-trt"),
            module="onnxruntime",
            distributions=("onnxruntime-gpu", "onnxruntime"),
            reads="onnx",
            devices=("cuda",),
            install_hint="pip install onnxruntime-gpu, and TensorRT 10, which its provider links",
            is_extra=True,
        ),
        RuntimeInfo(
            name="tensorrt",
            title="TensorRT",
            aliases=("trt",),
            module="tensorrt",
            distributions=("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
            reads="plan",
            devices=("cuda",),
            install_hint='pip install "aps-deploy[tensorrt]"',
            is_extra=True,
        ),
        RuntimeInfo(
            name="tensorrt-rtx",
            title="TensorRT for RTX",
            aliases=("trt-rtx", "rtx"),
            module="tensorrt_rtx",
            distributions=("tensorrt-rtx-cu13", "tensorrt-rtx"),
            reads="plan",
            devices=("cuda",),
            install_hint='pip install "aps-deploy[rtx]"',
            is_extra=True,
        ),
    )
}
"""Every runtime by name; the first that reads a kind of file is that kind's default, but a plan says whose it is."""


def available_runtimes() -> list[RuntimeStatus]:
    """Return every runtime with whether it is installed and its version, or how to install it."""
    return [runtime_status(info) for info in RUNTIMES.values()]


def runtime_status(info: RuntimeInfo) -> RuntimeStatus:
    """Return whether one runtime is installed, without importing it."""
    if not _is_installed(info.module):
        return RuntimeStatus(info.name, False, f"{info.module} is not installed; {info.install_hint}")
    version = _version(info.distributions)
    return RuntimeStatus(info.name, True, f"{info.title} {version}" if version else info.title)


def resolve_runtime(name: str) -> RuntimeInfo:
    """Return the runtime of that name or alias, in any case.

    Raises:
        InputError: there is no such runtime.
    """
    wanted = name.strip().lower()
    for info in RUNTIMES.values():
        if wanted in (info.name, *info.aliases):
            return info
    raise InputError(f"unknown runtime {name!r}{near_matches(wanted, RUNTIMES)}; accepted: {', '.join(RUNTIMES)}.")


def default_runtime(kind: FileKind) -> RuntimeInfo:
    """Return the runtime that reads this kind of file when none is asked for."""
    return next(info for info in RUNTIMES.values() if info.reads == kind)


def require_runtime(info: RuntimeInfo) -> None:
    """Do nothing where the runtime is installed.

    Raises:
        InputError: it is not; the message carries the install command.
    """
    if not _is_installed(info.module):
        raise InputError(f"{info.title} is needed but {info.module} is not installed; {info.install_hint}.")


def check_device(device: str | None, info: RuntimeInfo) -> Device | None:
    """Return the device as one of the accepted values; None stays None (choose what works).

    Raises:
        InputError: there is no such device, or this runtime cannot use it.
    """
    if device is None or device == "auto":
        return None
    for accepted in get_args(Device):
        if device == accepted:
            if accepted not in info.devices:
                raise InputError(f"{info.title} cannot run on {device!r}; accepted: {', '.join(info.devices)}.")
            return accepted  # type: ignore[no-any-return]
    raise InputError(f"unknown device {device!r}; accepted: {', '.join(get_args(Device))}.")


@functools.cache
def num_cuda_devices() -> int:
    """Return how many CUDA devices the driver reports: 0 without a driver.

    Asked of the driver itself, so that neither torch nor ONNX Runtime is loaded, and ONNX Runtime need not try its
    CUDA provider (which complains at length on standard error) on a machine that has no GPU.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _is_installed(module: str) -> bool:
    try:
        specification = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        # ValueError: the name is in sys.modules without a specification, or set to None there.
        return False
    # A folder left behind by an uninstalled package is found as an empty namespace package.
    return specification is not None and specification.origin is not None


def _version(distributions: tuple[str, ...]) -> str | None:
    # Imported here: with its mail parser it takes longer than all of this package's modules that `predict` needs.
    from importlib.metadata import PackageNotFoundError, version

    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
