"""From an ONNX file's bytes to a plan: the builder's configuration, the build, and what its failures mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.engines.build_progress import Report, new_progress_monitor
from aps_deploy.export.engines.kernels import Kernel, kernels_from_inspector, kernels_from_log
from aps_deploy.export.engines.network import fixed_size, image_input, new_network, parse_onnx, tensor_types
from aps_deploy.export.engines.plugins import PluginBuild, check_plugin_layers, register_plugins
from aps_deploy.export.engines.profiles import check_sizes
from aps_deploy.export.engines.settings import TURING, EngineSettings, compute_capability_names
from aps_deploy.export.engines.timing_cache import attach_timing_cache, save_timing_cache
from aps_deploy.runtimes.tensorrt.log import ToolkitLog, new_logger
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

INSPECTOR = "engine inspector"
BUILDER_LOG = "builder log"

_HARDWARE_LEVELS = {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}

# What a message of the builder says, and what to do about it.
_REASONS = (
    ("within workspace limit", "a layer needs more scratch memory than allowed", "raise --workspace-mib"),
    (
        "not supported. In compileGraph",
        f"the classifier is a float32 matrix product, which it does not have for compute capability {TURING} (Turing)",
        f"leave {TURING} out of --compute-capability",
    ),
    (
        "graph_jit.cpp",
        "it has to run code on a GPU to prepare replaceable weights",
        "leave --refit and --strip-weights out, or build where there is a GPU",
    ),
    (
        "Unable to load library: libnvinfer_lean",
        "the lean runtime that a version-compatible plan carries is not installed",
        "install it, or leave --version-compatible out",
    ),
    ("cudaError", "it found no GPU it can use", "build where there is one, with a driver for this version"),
    ("out of memory", "the GPU's memory is too small", "give a smaller --max-batch or --workspace-mib"),
)


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """A plan in memory.

    Attributes:
        plan: its bytes.
        settings: how it was built, with nothing left open.
        kernels: what it runs, from ``source``.
        source: ``engine inspector`` or ``builder log``.
        input_shapes: for each profile the smallest, best and largest shape (N, C, H, W) of the images.
        log: everything the builder said.
        types: numpy's names of the types of inputs and outputs, by their names.
        plugins: what it takes from plugins; None where it takes nothing.
    """

    plan: bytes
    settings: EngineSettings
    kernels: tuple[Kernel, ...]
    source: str
    input_shapes: tuple[tuple[tuple[int, ...], ...], ...]
    log: ToolkitLog
    types: Mapping[str, str]
    plugins: PluginBuild | None = None


def build_engine(
    content: bytes,
    settings: EngineSettings,
    toolkit: Toolkit,
    *,
    name: str = "the ONNX file",
    size_divisor: int = 1,
    report: Report | None = None,
    plugins: PluginBuild | None = None,
) -> BuiltEngine:
    """Return the plan compiled from the bytes of an ONNX file.

    Args:
        content: the file.
        settings: how to build; of `check_settings`.
        toolkit: of `load_toolkit`.
        name: what to call the file in an error.
        size_divisor: heights and widths of a dynamic file must be multiples of it.
        report: told what the builder is doing, and how far it is.
        plugins: of `plugin_build`.

    Raises:
        InputError: the parser refuses the file, or a profile does not fit it.
        ApsError: the builder fails, or leaves a plugin out.
    """
    log = ToolkitLog()
    logger = new_logger(toolkit, log)
    builder = toolkit.module.Builder(logger)
    network = new_network(toolkit, builder)
    if plugins is not None:
        register_plugins(plugins, toolkit)
    # Held until the build is done: the network points into the parser's memory.
    parser = parse_onnx(toolkit, logger, network, content, name)
    if plugins is not None:
        check_plugin_layers(plugins, toolkit, network)
    config = builder.create_builder_config()
    configure(toolkit, config, settings)
    shapes = add_profiles(builder, config, image_input(network, name), settings, size_divisor)
    monitor = None if report is None else new_progress_monitor(toolkit, report)
    if monitor is not None:
        config.progress_monitor = monitor
    timing = attach_timing_cache(config, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ApsError(failure_sentence(toolkit, log))
    save_timing_cache(timing, settings)
    del parser, monitor
    data = bytes(plan)
    kernels, source = read_kernels(
        toolkit, logger, data, log, carries_code=settings.version_compatible and not toolkit.is_rtx
    )
    return BuiltEngine(data, settings, kernels, source, shapes, log, tensor_types(network), plugins)


def configure(toolkit: Toolkit, config: Any, settings: EngineSettings) -> None:
    """Put the settings into a builder configuration, profiles and timing cache apart.

    Raises:
        InputError: the builder refuses a value.
    """
    module = toolkit.module
    for flag, wanted in builder_flags(toolkit, settings).items():
        member = module.BuilderFlag.__members__[flag]
        (config.set_flag if wanted else config.clear_flag)(member)
    # The list of kernels that precisions are read back from.
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.hardware_compatibility != "none":
        level = _HARDWARE_LEVELS[settings.hardware_compatibility]
        if level not in module.HardwareCompatibilityLevel.__members__:
            raise InputError(
                f"{toolkit.info.title} {toolkit.version} has no --hardware-compatibility "
                f"{settings.hardware_compatibility}; choose ampere-plus, or install a newer version."
            )
        config.hardware_compatibility_level = getattr(module.HardwareCompatibilityLevel, level)
    if settings.compute_capabilities:
        _set_targets(toolkit, config, settings)


def builder_flags(toolkit: Toolkit, settings: EngineSettings) -> dict[str, bool]:
    """Return the builder's flags by name, each with whether it is set; flags that are not named stay as they are."""
    flags = {
        # On unless cleared, in every version.
        "TF32": settings.tf32,
        "VERSION_COMPATIBLE": settings.version_compatible,
        # TensorRT for RTX comes without the lean runtime that would be put into the plan.
        "EXCLUDE_LEAN_RUNTIME": settings.version_compatible and toolkit.is_rtx,
        "STRIP_PLAN": settings.strip_weights,
        "REFIT_IDENTICAL": settings.refit == "identical",
        "REFIT": settings.refit == "any",
    }
    if toolkit.has_flag("DISTRIBUTIVE_INDEPENDENCE"):
        flags["DISTRIBUTIVE_INDEPENDENCE"] = bool(settings.distributive_independence)
    return flags


def _set_targets(toolkit: Toolkit, config: Any, settings: EngineSettings) -> None:
    names = compute_capability_names(toolkit)
    config.num_compute_capabilities = len(settings.compute_capabilities)
    for index, target in enumerate(settings.compute_capabilities):
        if not config.set_compute_capability(getattr(toolkit.module.ComputeCapability, names[target]), index):
            raise InputError(f"{toolkit.info.title} {toolkit.version} refuses the compute capability {target}.")


def add_profiles(
    builder: Any, config: Any, images: Any, settings: EngineSettings, size_divisor: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Add the profiles to a builder configuration; return the three shapes of each.

    Raises:
        InputError: a profile does not fit the file.
    """
    fixed = fixed_size(images)
    check_sizes(settings.profiles, fixed=fixed, divisor=size_divisor)
    if images.shape[0] > 0 and any(set(profile.batches) != {images.shape[0]} for profile in settings.profiles):
        raise InputError(
            f"the file takes batches of {images.shape[0]} only, and the profile says otherwise; give --min-batch, "
            f"--opt-batch and --max-batch {images.shape[0]}, or export it with a dynamic batch."
        )
    found = []
    for profile in settings.profiles:
        shapes = profile.shapes(int(images.shape[1]), fixed)
        ranges = builder.create_optimization_profile()
        ranges.set_shape(images.name, *shapes)
        if config.add_optimization_profile(ranges) < 0:
            raise InputError(f"the builder refuses the profile {shapes[0]} to {shapes[2]}; give smaller shapes.")
        found.append(shapes)
    return tuple(found)


def read_kernels(
    toolkit: Toolkit, logger: Any, plan: bytes, log: ToolkitLog, *, carries_code: bool = False
) -> tuple[tuple[Kernel, ...], str]:
    """Return the kernels of a plan and what they were read from.

    The engine inspector where this machine can load the plan; else the list in the builder's own log.

    Args:
        toolkit: of `load_toolkit`.
        logger: the toolkit's.
        plan: the bytes, as the builder gave them.
        log: what the logger writes into.
        carries_code: whether the lean runtime is inside, a library that the toolkit loads only where it is told to.
    """
    if toolkit.gpu is not None:
        runtime = toolkit.module.Runtime(logger)
        if carries_code:
            runtime.engine_host_code_allowed = True  # just built here
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            text = engine.create_engine_inspector().get_engine_information(toolkit.module.LayerInformationFormat.JSON)
            kernels = kernels_from_inspector(text)
            # A plan without weights, or names only, tells the inspector less than the builder knew.
            if any(kernel.inputs for kernel in kernels):
                return kernels, INSPECTOR
    return kernels_from_log(log), BUILDER_LOG


def failure_sentence(toolkit: Toolkit, log: ToolkitLog) -> str:
    """Return why a build failed, in one sentence."""
    text = " ".join(" ".join(log.errors).split())
    for sign, meaning, advice in _REASONS:
        if sign in text:
            return f"{toolkit.info.title} {toolkit.version} could not build the engine: {meaning}; {advice}."
    last = log.errors[-1].splitlines()[0][:200].rstrip(".") if log.errors else "it gave no reason"
    return (
        f"{toolkit.info.title} {toolkit.version} could not build the engine ({last}); run the command again with -vv "
        "before it to see the builder's log."
    )
