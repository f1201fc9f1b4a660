"""`aps-deploy verify --runtime all`: one certificate for every runtime of this machine, and why the others have none.

An ONNX file runs in every runtime that reads ONNX files, an engine in the toolkit that made it; for an ONNX file the
toolkits are named as well, so that nobody thinks they were forgotten. Where the reference is a checkpoint, the
checkpoint itself is verified in PyTorch too, so that a reader sees whether the file or already the network is at fault.
Each certificate is whole: it can be reported, judged anew and repeated by itself.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.availability import (
    RUNTIMES,
    Device,
    RuntimeInfo,
    RuntimeName,
    check_device,
    num_cuda_devices,
    runtime_status,
)
from aps_deploy.runtimes.batching import ImageSource
from aps_deploy.runtimes.opening import file_kind
from aps_deploy.verification.certificate import Certificate, certificate_path
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.paths import verify_path
from aps_deploy.verification.preparing import facts_of
from aps_deploy.verification.references.base import Reference, ReferenceTrace
from aps_deploy.verification.references.resolving import resolve_reference
from aps_deploy.verification.verifying import why_not_opened

ALL = "all"

EVALUATOR_IMAGES = 8
EVALUATOR_SHIFTS = 16
"""The ReferenceEvaluator takes a fifth of a second for a small image: it gets so many images and shifts at most."""

_CXX = ("g++", "c++", "clang++", "cl")


@dataclasses.dataclass(frozen=True)
class Place:
    """A runtime on a device, and what is verified there.

    Attributes:
        runtime: its name.
        device: where it runs.
        file: the file, or the checkpoint that is its reference.
    """

    runtime: RuntimeName
    device: Device
    file: str

    @property
    def label(self) -> str:
        """What it is called in file names and tables, such as ``onnxruntime-cpu``."""
        return f"{self.runtime}-{self.device}"


@dataclasses.dataclass(frozen=True)
class RuntimeResult:
    """What became of one place: either a certificate or a reason why there is none.

    Attributes:
        place: where.
        certificate: None where it did not run.
        path: where the certificate was written.
        skipped: why this machine does not run it.
        error: what broke while it ran.
    """

    place: Place
    certificate: Certificate | None = None
    path: Path | None = None
    skipped: str | None = None
    error: str | None = None


def exit_code_of(results: list[RuntimeResult]) -> int:
    """Return 0 where something ran and everything that ran passed, else 1."""
    ran = [result for result in results if result.skipped is None]
    passed = all(result.certificate is not None and result.certificate.passed for result in ran)
    return 0 if ran and passed else 1


def verify_every_runtime(
    file: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None,
    data_dir: str | os.PathLike[str],
    *,
    device: str | None = None,
    num_images: int | None = None,
    shifts: str | int = "group",
    output: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    junit: str | os.PathLike[str] | None = None,
    worst_case: str | os.PathLike[str] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **others: Any,
) -> list[RuntimeResult]:
    """Verify a file in every runtime of this machine; see `verify_path` for the arguments that are not described.

    Args:
        file: an ONNX file, an engine, a checkpoint or a packaged name.
        reference: see `verify_path`; its answers to the unshifted images are made once.
        data_dir: folder of images.
        device: only this one; None takes all.
        num_images: see `verify_path`; the ReferenceEvaluator gets `EVALUATOR_IMAGES` at most.
        shifts: see `verify_path`; the ReferenceEvaluator gets `EVALUATOR_SHIFTS` drawn ones at most.
        output: name of the certificates; the runtime is put into each, ``net.onnxruntime-cpu.certificate.json``.
        report: name of the reports, likewise.
        junit: name of the JUnit files, likewise.
        worst_case: name of the worst cases, likewise.
        save_to: where the reference's answers are written.
        progress: called with where and what is being done, how much is done and how much there is.
        others: further arguments of `verify_path`.

    Raises:
        InputError: an input cannot be used anywhere, or no runtime of this machine runs the file.
    """
    facts = facts_of(file)
    judge = None if reference is None else resolve_reference(reference, facts.metadata)
    remembered = None if judge is None else remembering(judge)
    target = certificate_path(file) if output is None else Path(output)
    results = []
    for place, skipped in plan(os.fspath(file), judge, check_device(device, RUNTIMES["onnxruntime"])):
        skipped = skipped or why_not_opened(place.file, place.runtime, place.device)
        if skipped is not None:
            results.append(RuntimeResult(place, skipped=skipped))
            continue
        few = place.runtime == "onnx-reference"
        path = named_after(target, place)
        outputs = {"report": report, "junit": junit, "worst_case": worst_case}
        arguments: dict[str, Any] = {
            **others,
            "num_images": min(num_images or EVALUATOR_IMAGES, EVALUATOR_IMAGES) if few else num_images,
            "shifts": _few_shifts(shifts) if few else shifts,
            "output": path,
            # The evaluator's few images would be all that is saved.
            "save_to": None if few else save_to,
            "progress": None if progress is None else _labelled(progress, place),
            **{name: None if each is None else named_after(Path(each), place) for name, each in outputs.items()},
        }
        try:
            certificate = verify_path(
                place.file, remembered, data_dir, runtime=place.runtime, device=place.device, **arguments
            )
        except InputError:
            raise  # the file opens there, so the images or the options are at fault, everywhere
        except ApsError as error:
            results.append(RuntimeResult(place, error=str(error)))
            continue
        save_to = save_to if few else None
        results.append(RuntimeResult(place, certificate, path))
    if all(result.skipped is not None for result in results):
        reasons = "; ".join(f"{result.place.label}: {result.skipped}" for result in results)
        raise InputError(f"no runtime of this machine runs {os.fspath(file)} ({reasons}).")
    return results


def plan(file: str, judge: Reference | None, device: Device | None) -> list[tuple[Place, str | None]]:
    """Return every place a file could run in, with the reason why this machine does not have it, or None.

    Args:
        file: the verified file.
        judge: the reference; a checkpoint is verified in PyTorch as well.
        device: only this one; None takes all.
    """
    kind = file_kind(file)
    sources = {kind: file}
    if kind != "checkpoint" and judge is not None and judge.kind == "checkpoint" and _is_path(judge.name):
        sources["checkpoint"] = judge.name
    places = [
        (info, Place(info.name, where, sources.get(info.reads, file)))
        for info in RUNTIMES.values()
        if info.reads in sources or (kind == "onnx" and info.reads == "plan")
        for where in info.devices
        if device in (None, where)
    ]
    return [
        (place, why_not(info, place.device, place.file) if info.reads in sources else why_not_that_kind(info))
        for info, place in places
    ]


def why_not_that_kind(info: RuntimeInfo) -> str:
    """Return why a runtime of engines does not run an ONNX file, and the command that makes what it runs."""
    engine = "trt" if info.name == "tensorrt" else "trt-rtx"
    return f"it runs plans, not ONNX files; compile one with `aps-deploy export FILE -o NAME.plan --engine {engine}`"


def why_not(info: RuntimeInfo, device: Device, file: str) -> str | None:
    """Return why this machine does not have a runtime on a device, or it does not run the file; None where it does."""
    status = runtime_status(info)
    if not status.available:
        return status.reason
    if device == "cuda" and num_cuda_devices() == 0:
        return "the driver reports no CUDA device"
    if info.name == "onnxruntime" and device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "this build of ONNX Runtime has no CUDA support"
    if info.name == "onnxruntime-kernels":
        from aps_deploy.runtimes.onnxruntime_session import why_no_kernels

        return why_no_kernels(file)
    if info.name == "onnxruntime-tensorrt":
        from aps_deploy.runtimes.onnxruntime_session import why_no_tensorrt

        return why_no_tensorrt()
    if info.name == "torch-compiled" and device == "cpu" and not _has_compiler():
        return f"there is no C++ compiler ({', '.join(_CXX)}), which torch.compile needs on a CPU"
    return None


def named_after(path: Path, place: Place) -> Path:
    """Return the path with the place's label before what the name ends in (``.certificate.json``, ``.html``)."""
    suffix = ".certificate.json" if path.name.endswith(".certificate.json") else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffix)}.{place.label}{suffix}")


class _Remembering:
    """A reference whose answers by its own choices are made once for each number of images.

    In one call of `verify_every_runtime` folder and seed are the same, so the number says which images they are.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._traces: dict[int, ReferenceTrace] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reference, name)

    def trace(
        self, images: ImageSource, forced: npt.NDArray[np.int64] | None = None, **arguments: Any
    ) -> ReferenceTrace:
        """Return what the reference's own `trace` returns."""
        if forced is not None:
            return self._reference.trace(images, forced, **arguments)
        if len(images) not in self._traces:
            self._traces[len(images)] = self._reference.trace(images, **arguments)
        return self._traces[len(images)]


def remembering(reference: Reference) -> Reference:
    """Return the reference, with a memory of its answers; saved answers need none."""
    return reference if reference.kind in ("saved", "none") else cast(Reference, _Remembering(reference))


def _few_shifts(shifts: str | int) -> str | int:
    if shifts == "group":
        return shifts  # 15 or 63 for the CIFAR networks, 64 at most
    return min(int(shifts), EVALUATOR_SHIFTS) if str(shifts).isdigit() else EVALUATOR_SHIFTS


def _labelled(progress: Progress, place: Place) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress(f"{place.label}, {what}", done, total)


def _is_path(name: str) -> bool:
    try:
        return file_kind(name) == "checkpoint"
    except InputError:
        return False  # a network in memory


def _has_compiler() -> bool:
    names = (os.environ["CXX"].split()[0], *_CXX) if os.environ.get("CXX") else _CXX
    return any(shutil.which(name) for name in names) or sys.platform == "win32"
