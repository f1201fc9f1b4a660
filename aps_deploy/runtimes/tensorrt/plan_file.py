"""A plan with the document beside it, and every reason why it cannot run here that shows before it is loaded.

A plan holds no preprocessing and no class names, and says little of itself in plain bytes: all that is in the document
that export wrote beside it. Without the document a plan is not run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.opening import PLAN_SUFFIXES
from aps_deploy.runtimes.sidecar import read_sidecar, sidecar_path
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.plan_header import PlanHeader, read_plan_header
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, EngineKind, Toolkit


@dataclasses.dataclass(frozen=True)
class PlanFile:
    """A plan whose bytes are those that its document describes.

    Attributes:
        path: the file.
        sha256: of its bytes.
        header: what its first bytes say.
        metadata: what the ONNX file it was compiled from says of itself.
        engine: what the document says of the engine: ``gpu``, ``profiles``, ``settings``, ``precision`` ...
        onnx_sha256: of the ONNX file it was compiled from.
        onnx_file: name of that file, where it holds the weights that the plan lacks.
    """

    path: Path
    sha256: str
    header: PlanHeader
    metadata: ModelMetadata
    engine: Mapping[str, Any]
    onnx_sha256: str | None
    onnx_file: str | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was built, as the document says."""
        return _object(self.engine, "settings")

    @property
    def runs_code_of_its_own(self) -> bool:
        """Whether it carries a runtime library that is loaded with it: a version-compatible plan of TensorRT does."""
        return self.header.kind == "trt" and self.settings.get("version_compatible") is True

    @property
    def has_weights(self) -> bool:
        """Whether its weights are inside; else they are in the ONNX file it was compiled from."""
        return self.engine.get("has_weights") is not False


def read_plan_file(path: str | os.PathLike[str]) -> PlanFile:
    """Return a plan with what the document beside it says; reads the whole file once, for its hash.

    Raises:
        InputError: plan or document is missing or damaged, the document describes another file, or the plan changed
            since it was exported.
    """
    header = read_plan_header(path)
    file, beside = Path(path), sidecar_path(path)
    document = read_sidecar(file)
    described = None if document is None else str(document.get("file", ""))
    if document is None or Path(described or "").suffix.lower() not in PLAN_SUFFIXES:
        lacks = f"describes {described}" if document is not None else _lacks(beside)
        raise InputError(
            f"{file} needs the document that export wrote beside it, for the preprocessing and the class names, and "
            f"{beside.name} {lacks}; copy it from where the engine was made, or export the engine again."
        )
    sha256 = sha256_of(file)
    if str(document["sha256"]).lower() != sha256:
        raise InputError(
            f"{file} changed since it was exported: its SHA-256 is not the one in {beside.name}; export it again."
        )
    try:
        metadata = ModelMetadata.from_dict(_object(document, "metadata"))
    except InputError as error:
        raise InputError(f"{beside}: {error}") from error
    engine, source = _object(document, "engine"), _text(document, "onnx_sha256")
    return PlanFile(file, sha256, header, metadata, engine, source, _text(document, "onnx_file"))


def _lacks(beside: Path) -> str:
    return "is no document of aps-deploy" if beside.is_file() else "is not there"


def onnx_beside(plan: PlanFile) -> Path | None:
    """Return the ONNX file that a plan was compiled from, where it stands beside it; it is known by its hash alone.

    The plan's own name is looked at first, so that other files are read only where that one is not it.
    """
    own = plan.path.with_suffix(".onnx")
    others = sorted(path for path in plan.path.parent.glob("*.onnx") if path != own)
    for candidate in (own, *others):
        if candidate.is_file() and sha256_of(candidate) == plan.onnx_sha256:
            return candidate
    return None


def fixed_side(plan: PlanFile) -> int | None:
    """Return the side in pixels of the only square size a plan takes, by its document; None where there are others."""
    sides = set()
    for profile in plan.engine.get("profiles") or ():
        shapes = profile.values() if isinstance(profile, dict) else ()
        sides |= {side for shape in shapes if isinstance(shape, list) and len(shape) == 4 for side in shape[2:]}
    return sides.pop() if len(sides) == 1 else None


def check_kind(plan: PlanFile, kind: EngineKind) -> None:
    """Do nothing where a plan is one of this toolkit.

    Raises:
        InputError: the other toolkit made it.
    """
    if plan.header.kind != kind:
        made_by, runtime = TOOLKITS[plan.header.kind].title, TOOLKITS[plan.header.kind].runtime
        raise InputError(
            f"{plan.path} is an engine of {made_by}, which {TOOLKITS[kind].title} does not run; use "
            f"--runtime {runtime}."
        )


def check_fits(plan: PlanFile, toolkit: Toolkit) -> None:
    """Do nothing where a loaded toolkit and this machine's GPU are those that a plan was made for.

    Raises:
        InputError: the plan is of another version or for another GPU.
    """
    title, path = toolkit.info.title, plan.path
    ours, theirs = _numbers(toolkit.version), _numbers(plan.header.version)
    is_compatible = plan.settings.get("version_compatible") is True and ours >= theirs and ours[0] == theirs[0]
    if ours != theirs and not is_compatible:
        raise InputError(
            f"{path} was made by {title} {plan.header.version} and {toolkit.version} is installed, which cannot run "
            "it; export it again here, or install that version."
        )
    reason = None if toolkit.gpu is None else _other_gpu(plan, toolkit.gpu)
    if reason is not None:
        raise InputError(f"{path} {reason}; export it again on this machine.")


def _other_gpu(plan: PlanFile, gpu: Gpu) -> str | None:
    """Return in words why a plan does not run on a GPU, as far as its document tells; None where it may."""
    here = f"this machine has {gpu.name} of compute capability {gpu.compute_capability}"
    built_on = _object(plan.engine, "gpu")
    name, capability = str(built_on.get("name")), str(built_on.get("compute_capability"))
    targets = [capability if each == "current" else str(each) for each in plan.engine.get("compute_capabilities") or ()]
    if targets and gpu.compute_capability not in targets:
        return f"was compiled for compute capability {', '.join(targets)}, and {here}"
    if plan.header.kind != "trt" or not built_on:
        return None
    level = plan.settings.get("hardware_compatibility")
    if level == "ampere-plus":
        if _numbers(gpu.compute_capability) < (8, 0):
            return f"was compiled for compute capability 8.0 and newer, and {here}"
    elif capability != gpu.compute_capability:
        return f"was compiled on {name} of compute capability {capability}, and {here}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:4] if part.isdigit())


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return None if value is None else str(value)


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}
