"""The command `aps-deploy export`: a checkpoint becomes an ONNX file, or an engine.

Imports neither torch nor onnx nor TensorRT, so that the help is there at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from aps_deploy import options
from aps_deploy.console import progress_line
from aps_deploy.errors import InputError
from aps_deploy.export import options as export_options


def export(
    context: typer.Context,
    source: export_options.Source,
    output: options.Output,
    engine: export_options.Engine = "onnx",
    polyphase: export_options.Polyphase = None,
    precision: export_options.Precision = "fp32",
    calibration: export_options.Calibration = None,
    calibration_method: export_options.CalibrationMethod = None,
    circular_padding: export_options.CircularPad = "wrap",
    keep_fp32: export_options.KeepFp32 = None,
    image_size: export_options.ImageSize = None,
    dynamic_size: export_options.DynamicSize = False,
    opset: export_options.Opset = None,
    target: export_options.Target = "current",
    min_batch: export_options.MinBatch = None,
    opt_batch: export_options.OptBatch = None,
    max_batch: export_options.MaxBatch = None,
    profile: export_options.Profiles = None,
    tf32: export_options.Tf32 = False,
    workspace_mib: export_options.WorkspaceMib = None,
    optimization_level: export_options.OptimizationLevel = None,
    distributive_independence: export_options.Independence = None,
    version_compatible: export_options.VersionCompatible = False,
    strip_weights: export_options.StripWeights = False,
    refit: export_options.Refit = "none",
    hardware_compatibility: export_options.HardwareCompatibility = "none",
    timing_cache: export_options.TimingCache = None,
    compute_capability: export_options.ComputeCapabilities = None,
    engine_cache: export_options.EngineCache = None,
) -> None:
    """Export a checkpoint to an ONNX file or an engine.

    The file needs no plugin; a JSON document beside it holds its hash and what it was made from. An engine made from an
    ONNX file is made from exactly its bytes, so what `verify` proved of them it was compiled from.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name in export_options.OF_ONNX}
    given["keep_fp32"] = keep_fp32 or ()
    if polyphase is None:
        del given["polyphase"]  # which form is best depends on what is made of it
    if target == "tensorrt-8":
        why = "--target tensorrt-8 decides how the file is written"
        options.refuse_given(context, why, export_options.OF_LEGACY)
        if engine != "onnx":
            raise InputError(
                f"--target tensorrt-8 writes an ONNX file for TensorRT 8.5 to 9, which compile it on the device, and "
                f"--engine {engine} compiles for newer ones; leave one of the two out."
            )
    if engine == "onnx":
        of_onnx = (*export_options.OF_EVERY_EXPORT, *export_options.OF_ONNX)
        options.refuse_others(context, "--engine onnx compiles nothing", of_onnx)
        _export_onnx(source, output, given)
        return
    if Path(source).suffix.lower() == ".onnx":
        fitting = tuple(name for name in context.params if name not in export_options.OF_ONNX)
        options.refuse_others(context, "an engine made from an ONNX file computes as the file says", fitting)
        given = {}
    from aps_deploy.export.engines.engine_export import export_engine
    from aps_deploy.export.engines.profiles import profiles_from
    from aps_deploy.export.engines.settings import EngineSettings

    settings = EngineSettings(
        kind=engine,
        profiles=profiles_from(profile or [], min_batch=min_batch, opt_batch=opt_batch, max_batch=max_batch),
        tf32=tf32,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        compute_capabilities=tuple(compute_capability or ()),
        strip_weights=strip_weights,
        refit=refit,
        workspace_mib=workspace_mib,
        optimization_level=optimization_level,
        distributive_independence=distributive_independence,
        timing_cache=timing_cache,
    )
    artifact = export_engine(source, output, settings, cache=engine_cache, report=progress_line(), **given)
    _warn(artifact.warnings)
    found = artifact.document["engine"]
    typer.echo(f"{artifact.path} (sha256 {artifact.sha256[:16]}), described by {artifact.sidecar_path}")
    typer.echo(
        f"{found['num_kernels']} kernels, {found['precision']['precision']} as read from the "
        f"{found['precision']['read_from']}{'; from the engine cache' if artifact.from_cache else ''}"
    )
    if found.get("plugins"):
        typer.echo(f"{sum(found['plugins']['kernels'].values())} of them are this project's, from TensorRT plugins")


def _export_onnx(checkpoint: str, output: Path, given: dict[str, Any]) -> None:
    from aps_deploy.export import export_checkpoint

    artifact = export_checkpoint(checkpoint, output, **given)
    _warn(artifact.warnings)
    typer.echo(f"{artifact.path} (sha256 {artifact.sha256[:16]}), described by {artifact.sidecar_path}")


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        typer.echo(f"Warning: {warning}", err=True)
