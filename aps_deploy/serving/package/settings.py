"""Everything `aps-deploy package` can be told, checked before anything is written."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.runtimes.opening import PLAN_SUFFIXES

TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
"""The release whose server (2.51) the tests run; any later one reads the same repository."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SERVICE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class PackageSettings:
    """What to package, where to, and how the other server runs it.

    Attributes:
        file: the ONNX file, or a plan of TensorRT with its document.
        repository: folder of models, in Triton's layout; made where there is none.
        name: the model's name; None takes the file's.
        version: the model's version, a folder of that number.
        device: ``cpu``, ``cuda`` or None: the server's choice.
        instances: sessions per device.
        max_batch: most images in one run; a file of a fixed batch is packaged with that, a plan with its profiles'.
        batch_delay_ms: how long the first image of a batch waits for others.
        max_queue: requests that may wait; more are refused.
        deadline_ms: how long a request may wait before it is refused.
        image: image of the warm-up; None takes one from inside the package.
        requires_certificate: whether the file must have passed `aps-deploy verify`.
        prepares_images: whether to add an ensemble that takes JPEG and PNG files.
        compose: whether to write a compose file.
        kserve: whether to write an InferenceService manifest.
        storage_uri: where the cluster finds the repository, for the manifest.
        triton_image: container image of the server.
    """

    file: Path
    repository: Path
    name: str | None = None
    version: int = 1
    device: str | None = None
    instances: int = 1
    max_batch: int = 16
    batch_delay_ms: float = 0.0
    max_queue: int = 256
    deadline_ms: float = 10_000.0
    image: Path | None = None
    requires_certificate: bool = True
    prepares_images: bool = False
    compose: bool = False
    kserve: bool = False
    storage_uri: str | None = None
    triton_image: str = TRITON_IMAGE

    def __post_init__(self) -> None:
        if self.file.suffix.lower() != ".onnx" and not self.is_plan:
            raise InputError(f"{self.file} is no ONNX file and no plan; give one made by `aps-deploy export`.")
        if self.is_plan and self.device == "cpu":
            raise InputError(f"--device cpu is not for {self.file}: a plan of TensorRT runs on a GPU; leave it out.")
        if not _NAME.fullmatch(self.model_name):
            raise InputError(
                f"{self.model_name!r} cannot be a model's name; give --name with letters, digits, '_', '-' and '.'."
            )
        for name in ("version", "instances", "max_batch", "max_queue"):
            if getattr(self, name) < 1:
                flag = "model-version" if name == "version" else name.replace("_", "-")
                raise InputError(f"--{flag} is {getattr(self, name)}; accepted: at least 1.")
        if self.batch_delay_ms < 0:
            raise InputError(f"--batch-delay-ms is {self.batch_delay_ms}; accepted: 0 or more.")
        if self.deadline_ms <= 0:
            raise InputError(f"--deadline-ms is {self.deadline_ms}; accepted: more than 0.")
        if self.device not in (None, "cpu", "cuda"):
            raise InputError(f"--device {self.device} is not known; accepted are cpu and cuda.")
        if self.kserve and not self.storage_uri:
            raise InputError("--kserve needs --storage-uri, such as s3://bucket/models: where the repository will be.")
        if self.storage_uri and not self.kserve:
            raise InputError("--storage-uri is for the manifest of --kserve; give both or neither.")
        if self.kserve and not _SERVICE_NAME.fullmatch(self.service_name):
            raise InputError(f"{self.service_name!r} cannot be a service's name in a cluster; give a shorter --name.")

    @property
    def is_plan(self) -> bool:
        """Whether the file is a compiled engine."""
        return self.file.suffix.lower() in PLAN_SUFFIXES

    @property
    def needs_gpu(self) -> bool:
        """Whether the model runs nowhere but on a GPU."""
        return self.is_plan or self.device == "cuda"

    @property
    def model_name(self) -> str:
        """Name of the model and of its folder."""
        return self.file.stem if self.name is None else self.name

    @property
    def service_name(self) -> str:
        """The model's name as Kubernetes takes it (RFC 1123): small letters, digits and '-'."""
        return re.sub(r"[^a-z0-9]+", "-", self.model_name.lower()).strip("-")
