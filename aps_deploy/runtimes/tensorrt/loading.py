"""From the bytes of a plan to a loaded engine, and one sentence where the runtime refuses it."""

from __future__ import annotations

import threading
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.runtimes.tensorrt.log import ErrorLog, ToolkitLog, new_logger
from aps_deploy.runtimes.tensorrt.plan_file import PlanFile
from aps_deploy.runtimes.tensorrt.refitting import refit
from aps_deploy.runtimes.tensorrt.runtime_cache import RuntimeCache, cache_file
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

_OTHER_GPU = "was not compiled for the GPU of this machine"

# What a message of the runtime says, and what it means. The first that is found counts, so a damaged file comes first:
# after any failure the runtime complains about the driver as well where there is none.
_REASONS = (
    ("header.size == blobSize", "is damaged: its length is not the one it states", "export it again"),
    ("magicTag", "is damaged or no engine of this toolkit", "export it again"),
    ("readHeader", "is damaged: its first bytes cannot be read", "export it again"),
    ("serialization version", "was made by another version", "export it again here"),
    ("compute capability", _OTHER_GPU, "export it again on this machine"),
    ("not compatible with this version", "was made by another version", "export it again here"),
    ("cudaError 35", "cannot run with this driver, which is missing or too old", "install a newer driver"),
    (
        "cudaError",
        "cannot be loaded, because CUDA fails on this machine",
        "run nvidia-smi to see whether the GPU works",
    ),
    ("memory", "does not fit into the GPU's memory", "free some of it"),
)

# Bits of TensorRT for RTX's EngineInvalidityDiagnostics, by name, the most telling first.
_DIAGNOSTICS = (
    ("MALFORMED_ENGINE", "is damaged", "export it again"),
    ("VERSION_MISMATCH", "was made by another version", "export it again here"),
    ("UNSUPPORTED_CC", _OTHER_GPU, "export it again on this machine"),
    ("OLD_CUDA_DRIVER", "needs a newer driver", "install a newer driver"),
    ("OLD_CUDA_RUNTIME", "needs a newer CUDA runtime", "install a newer version of the toolkit"),
    ("INSUFFICIENT_GPU_MEMORY", "does not fit into the GPU's memory", "free some of it"),
    (
        "CUDA_ERROR",
        "cannot be loaded, because CUDA fails on this machine",
        "run nvidia-smi to see whether the GPU works",
    ),
)


class LoadedEngine:
    """An engine with what must outlive it.

    Args:
        plan: the file it comes from.
        toolkit: of `load_toolkit`.
        weights: of `weights_for`: the ONNX file of a plan without weights.

    Raises:
        InputError: the runtime refuses the plan.
        ApsError: the weights cannot be put into the engine.
    """

    def __init__(self, plan: PlanFile, toolkit: Toolkit, weights: bytes | None = None) -> None:
        self.toolkit = toolkit
        self.log = ErrorLog()
        self._logger = new_logger(toolkit, self.log)
        self._runtime = toolkit.module.Runtime(self._logger)
        if plan.runs_code_of_its_own:
            # Its lean runtime is a library inside the plan. The hash in the document was compared before.
            self._runtime.engine_host_code_allowed = True
        self.engine = deserialised(self._runtime, plan.path.read_bytes(), toolkit, self.log, str(plan.path))
        if weights is not None:
            refit(self.engine, weights, toolkit, self._logger, self.log, plan)
        self._cache_file = cache_file(plan.sha256, toolkit)
        self._cache: RuntimeCache | None = None
        self._lock = threading.Lock()

    def new_context(self, profile: int, stream: int) -> Any:
        """Return an execution context in one of the engine's profiles.

        Args:
            profile: number of the profile.
            stream: handle of the CUDA stream the change of profile is queued on.
        """
        context = self._create_context()
        if context is not None and self.engine.num_optimization_profiles > 1:
            context.set_optimization_profile_async(profile, stream)
        return context

    def keep_kernels(self) -> None:
        """Keep what TensorRT for RTX compiled for this GPU for later processes; call it after a shape's first run."""
        if self._cache is not None:
            self._cache.keep()

    def _create_context(self) -> Any:
        if not self.toolkit.is_rtx:
            return self.engine.create_execution_context()
        strategies = self.toolkit.module.DynamicShapesKernelSpecializationStrategy
        configuration = self.engine.create_runtime_config()
        # Kernels for a shape before its first run, never in the background: the same answer from first run to last.
        configuration.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        cache = self._runtime_cache(configuration)
        if cache is not None:
            configuration.set_runtime_cache(cache.cache)
        return self.engine.create_execution_context(configuration)

    def _runtime_cache(self, configuration: Any) -> RuntimeCache | None:
        """Return the cache that all contexts share, read with the first of them: reading it needs CUDA at work."""
        with self._lock:
            path, self._cache_file = self._cache_file, None  # asked for once
            cache = None if path is None else configuration.create_runtime_cache()
            if path is not None and cache is not None:
                self._cache = RuntimeCache(cache, path)
            return self._cache


def deserialised(runtime: Any, content: bytes, toolkit: Toolkit, log: ToolkitLog, name: str) -> Any:
    """Return the engine in the bytes of a plan.

    Args:
        runtime: the toolkit's runtime.
        content: the plan.
        toolkit: the toolkit.
        log: what the runtime's logger writes into.
        name: of the file, for messages.

    Raises:
        InputError: the runtime refuses the plan.
    """
    if hasattr(runtime, "get_engine_validity"):
        validity, bits = runtime.get_engine_validity(content)
        reason = _diagnosed(toolkit, int(bits)) if validity == toolkit.module.EngineValidity.INVALID else None
        if reason is not None:
            raise InputError(_sentence(name, *reason, toolkit))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise InputError(refusal(toolkit, log, name))
    return engine


def refusal(toolkit: Toolkit, log: ToolkitLog, name: str) -> str:
    """Return why the runtime refused a plan, in one sentence."""
    text = " ".join(" ".join(log.errors).split())
    for sign, meaning, advice in _REASONS:
        if sign in text:
            return _sentence(name, meaning, advice, toolkit)
    last = log.errors[-1].splitlines()[0][:200].rstrip(".") if log.errors else "it gave no reason"
    return f"{toolkit.info.title} {toolkit.version} cannot load {name} ({last}); export it again on this machine."


def _sentence(name: str, meaning: str, advice: str, toolkit: Toolkit) -> str:
    """Return why a plan is refused; a GPU that the toolkit does not know at all gets other advice than another GPU."""
    known = toolkit.compute_capabilities
    if meaning == _OTHER_GPU and toolkit.gpu is not None and known and toolkit.gpu.compute_capability not in known:
        return (
            f"{name} cannot run on {toolkit.gpu.name} of compute capability {toolkit.gpu.compute_capability}: "
            f"{toolkit.info.title} {toolkit.version} compiles for {', '.join(known)}; run the ONNX file with --runtime "
            "onnxruntime, or compile it with --engine trt."
        )
    return f"{name} {meaning}; {advice}."


def _diagnosed(toolkit: Toolkit, bits: int) -> tuple[str, str] | None:
    members = toolkit.module.EngineInvalidityDiagnostics.__members__
    for sign, meaning, advice in _DIAGNOSTICS:
        if sign in members and bits & int(members[sign]):
            return meaning, advice
    return None
