"""TensorRT and TensorRT for RTX: two packages with nearly one interface, found and loaded here.

The only place that knows their names, versions and install commands. Everything else works on the loaded module that a
`Toolkit` carries, and asks it what it offers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from typing import Any, Literal

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.availability import RuntimeName
from aps_deploy.runtimes.tensorrt.gpu import Gpu, first_gpu

EngineKind = Literal["trt", "trt-rtx"]


@dataclass(frozen=True)
class ToolkitInfo:
    """One of the two toolkits.

    Attributes:
        kind: the name `--engine` takes.
        title: the name people use.
        runtime: name of the runtime that runs its plans.
        module: package to import.
        extra: extra of this project that installs it.
        first: oldest version accepted, as (major, minor).
        end: first major version that is too new.
        needs_gpu: whether its builder runs only where there is a GPU.
    """

    kind: EngineKind
    title: str
    runtime: RuntimeName
    module: str
    extra: str
    first: tuple[int, int]
    end: int
    needs_gpu: bool

    @property
    def versions(self) -> str:
        """The accepted versions, in words."""
        major, minor = self.first
        return (
            f"{major}.{minor} to {self.end - 1}.x" if self.end - 1 > major else f"{major}.{minor} or a later {major}.x"
        )

    @property
    def install_hint(self) -> str:
        """The command that installs it."""
        return f"pip install 'aps-deploy[{self.extra}]'"


TOOLKITS: dict[EngineKind, ToolkitInfo] = {
    # 10.9 is the first whose parser takes ahead-of-time plugins; 11 is the newest whose interface was read.
    "trt": ToolkitInfo("trt", "TensorRT", "tensorrt", "tensorrt", "tensorrt", (10, 9), 12, needs_gpu=True),
    "trt-rtx": ToolkitInfo(
        "trt-rtx", "TensorRT for RTX", "tensorrt-rtx", "tensorrt_rtx", "rtx", (1, 4), 2, needs_gpu=False
    ),
}


@dataclass(frozen=True)
class Toolkit:
    """A loaded toolkit.

    Attributes:
        info: which of the two.
        module: the imported package.
        version: its version, such as ``1.7.1.116``.
        gpu: the GPU of this machine, or None.
    """

    info: ToolkitInfo
    module: Any
    version: str
    gpu: Gpu | None

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX."""
        return self.info.kind == "trt-rtx"

    @property
    def compute_capabilities(self) -> dict[str, str]:
        """The compute capabilities to compile for, such as ``8.6``, with the toolkit's names; TensorRT names none."""
        members = getattr(self.module, "ComputeCapability", None)
        names = () if members is None else tuple(members.__members__)
        return {re.sub(r"SM(\d+)(\d)", r"\1.\2", name): name for name in names if name not in ("NONE", "CURRENT")}

    def has_flag(self, name: str) -> bool:
        """Return whether the builder knows a flag."""
        return name in self.module.BuilderFlag.__members__


def check_toolkit(kind: EngineKind, *, wanted_by: str | None = None, builds: bool = True) -> ToolkitInfo:
    """Return the toolkit of that name after looking, without importing it, whether it could work here.

    Args:
        kind: which of the two.
        wanted_by: what asks for it, for messages; None says ``--engine KIND``.
        builds: whether it is to compile; else it is to run a plan, which none does without a GPU.

    Raises:
        InputError: the package is not installed, or it needs a GPU and there is none.
    """
    info = TOOLKITS[kind]
    if not _is_installed(info.module):
        raise InputError(
            f"{wanted_by or f'--engine {kind}'} needs {info.title}, and its package {info.module} is not installed; "
            f"{info.install_hint}."
        )
    if not builds and first_gpu() is None:
        raise InputError(
            f"{wanted_by or info.title} needs a GPU, and no CUDA device is found (no GPU or driver); run it where "
            "there is one, or run the ONNX file with --runtime onnxruntime."
        )
    if builds and info.needs_gpu and first_gpu() is None:
        raise InputError(
            f"--engine {kind} compiles for the GPU of this machine, and no CUDA device is found (no GPU or driver); "
            "run it where there is one, or use --engine trt-rtx, which compiles without."
        )
    return info


def load_toolkit(kind: EngineKind, *, wanted_by: str | None = None, builds: bool = True) -> Toolkit:
    """Return the toolkit of that name, imported; see `check_toolkit` for the arguments.

    Raises:
        InputError: it is not installed, its version is not accepted, or it needs a GPU and there is none.
        ApsError: it is installed and cannot be loaded.
    """
    info = check_toolkit(kind, wanted_by=wanted_by, builds=builds)
    try:
        module = importlib.import_module(info.module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ApsError(
            f"{info.title} is installed but cannot be loaded ({reason}); reinstall it: {info.install_hint}."
        ) from error
    version = str(getattr(module, "__version__", "unknown"))
    check_version(info, version, wanted_by=wanted_by)
    return Toolkit(info, module, version, first_gpu())


def check_version(info: ToolkitInfo, version: str, *, wanted_by: str | None = None) -> None:
    """Do nothing where the version is one this project works with.

    Raises:
        InputError: it is older or newer.
    """
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    if len(numbers) < 2 or tuple(numbers) < info.first or numbers[0] >= info.end:
        raise InputError(
            f"{info.title} {version} is installed, and {wanted_by or f'--engine {info.kind}'} works with "
            f"{info.versions}; install one of these: {info.install_hint}."
        )


def _is_installed(module: str) -> bool:
    try:
        specification = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return specification is not None and specification.origin is not None
