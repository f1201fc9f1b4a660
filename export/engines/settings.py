"""How an engine is built: every choice in one frozen object, checked against the toolkit before anything is built."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from aps_deploy.errors import InputError, known_name
from aps_deploy.export.engines.profiles import Profile
from aps_deploy.runtimes.tensorrt.toolkit import EngineKind, Toolkit

HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]
Refit = Literal["none", "identical", "any"]

DEFAULT_PROFILE = Profile((1, 8, 16))

TURING = "7.5"
_TURING = f", or {TURING} for a file whose classifier is not float32"

# 16 TiB, more than any GPU has.
_MAX_WORKSPACE_MIB = 1 << 24


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How an engine is built.

    Attributes:
        kind: which toolkit builds it.
        profiles: shapes it is compiled for, at least one range.
        tf32: whether float32 products may round their inputs to TF32; off, because selections of a TF32 network are
            compared with those of a float32 one.
        version_compatible: whether newer versions of the same toolkit may load it, at some cost in speed.
        hardware_compatibility: TensorRT only: which other GPUs may run it.
        compute_capabilities: TensorRT for RTX only: GPUs to compile for, such as ``8.6``, or ``current``; empty takes
            the toolkit's own choice, one plan for all it supports from 8.0 on.
        strip_weights: leave the weights out of the plan, to be put in from the ONNX file where it is deployed.
        refit: whether the weights of the finished plan can be replaced: by the same ones (``identical``) or ``any``.
        workspace_mib: most scratch memory of one layer, in MiB; None leaves the toolkit's choice, all there is.
        optimization_level: how long the compiler searches, 0 to 5; None leaves its default, 3.
        distributive_independence: compute every image of a batch by the same operations, so that no answer depends on
            its neighbours; None turns it on where the builder offers it.
        timing_cache: TensorRT only: file that keeps the measured times of kernels between builds.
    """

    kind: EngineKind
    profiles: tuple[Profile, ...] = (DEFAULT_PROFILE,)
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    compute_capabilities: tuple[str, ...] = ()
    strip_weights: bool = False
    refit: Refit = "none"
    workspace_mib: int | None = None
    optimization_level: int | None = None
    distributive_independence: bool | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InputError("an engine needs at least one profile; give --min-batch, --opt-batch and --max-batch.")
        known_name(self.hardware_compatibility, get_args(HardwareCompatibility), "hardware compatibility")
        known_name(self.refit, get_args(Refit), "refit mode")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= _MAX_WORKSPACE_MIB:
            raise InputError(
                f"--workspace-mib {self.workspace_mib} is no memory of a GPU; accepted: 1 to {_MAX_WORKSPACE_MIB}."
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"--optimization-level {self.optimization_level} does not exist; give 0 to 5.")
        if self.kind == "trt-rtx":
            _refuse(self.hardware_compatibility != "none", "--hardware-compatibility", _RTX_HARDWARE)
            _refuse(self.timing_cache is not None, "--timing-cache", _RTX_TIMING)
        else:
            _refuse(bool(self.compute_capabilities), "--compute-capability", _TRT_TARGETS)

    def to_dict(self) -> dict[str, Any]:
        """Return what has a part in the plan, as plain JSON values; where the timing cache lies has none."""
        document = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del document["timing_cache"]
        document["profiles"] = [profile.to_dict() for profile in self.profiles]
        document["compute_capabilities"] = list(self.compute_capabilities)
        return document


_RTX_HARDWARE = "TensorRT for RTX makes one plan for many GPUs; name them with --compute-capability, or leave both out"
_RTX_TIMING = "TensorRT for RTX measures no kernels when it builds, so it keeps no times; leave it out"
_TRT_TARGETS = "TensorRT compiles for the GPU it runs on; use --hardware-compatibility, or --engine trt-rtx"


def _refuse(given: bool, option: str, why: str) -> None:
    if given:
        raise InputError(f"{option} does not fit this engine: {why}.")


def compute_capability_names(toolkit: Toolkit) -> dict[str, str]:
    """Return the compute capabilities a plan can be compiled for, by the names users give, such as ``8.6``."""
    found = toolkit.compute_capabilities
    return {**found, "current": "CURRENT"} if found and toolkit.gpu is not None else found


def check_settings(settings: EngineSettings, toolkit: Toolkit) -> EngineSettings:
    """Return the settings with what was left open decided, after comparing them with what the toolkit offers.

    Raises:
        InputError: an option that this version of the toolkit, or this machine, does not have.
    """
    targets = compute_capability_names(toolkit)
    for name in settings.compute_capabilities:
        if name not in targets:
            hint = "; there is no GPU here to be the current one" if name == "current" else ""
            raise InputError(
                f"{toolkit.info.title} {toolkit.version} compiles for no compute capability {name!r}{hint}; choose "
                f"from {', '.join(each for each in targets if each != TURING)}{_TURING if TURING in targets else ''}."
            )
    offered = toolkit.has_flag("DISTRIBUTIVE_INDEPENDENCE")
    if settings.distributive_independence and not offered:
        raise InputError(
            f"{toolkit.info.title} {toolkit.version} has no --distributive-independence; install a newer version, or "
            "leave it out."
        )
    independent = offered if settings.distributive_independence is None else settings.distributive_independence
    refit: Refit = "identical" if settings.strip_weights and settings.refit == "none" else settings.refit
    return dataclasses.replace(settings, distributive_independence=independent, refit=refit)
