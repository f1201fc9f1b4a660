"""From a checkpoint or an ONNX file to ``model.plan`` beside ``model.json``.

The plan is what the toolkit made, byte for byte: any TensorRT tool loads it. What it was made from, and what was found
in it, stands in the document beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aps_deploy
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.artifact import checked_target
from aps_deploy.export.engines.build_progress import Report
from aps_deploy.export.engines.building import BuiltEngine, build_engine
from aps_deploy.export.engines.cache import EngineCache, cache_key
from aps_deploy.export.engines.kernels import num_kernels
from aps_deploy.export.engines.plugins import PluginBuild, plugin_build
from aps_deploy.export.engines.precision_readback import check_precisions, read_precisions
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.export.engines.source import OnnxSource, advice_on_form, check_input_types, read_source
from aps_deploy.files import atomic_path
from aps_deploy.runtimes.sidecar import sidecar_path
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, EngineKind, Toolkit, check_toolkit, load_toolkit

# The form with the fewest kernels.
DEFAULT_FORM = "one-pass"


@dataclass(frozen=True)
class EngineArtifact:
    """An exported engine.

    Attributes:
        path: the plan.
        sidecar_path: the JSON document beside it.
        sha256: of the plan's bytes.
        document: what stands in the document.
        from_cache: whether it was found in the engine cache and not compiled.
        warnings: what the user should know about it, in sentences.
    """

    path: Path
    sidecar_path: Path
    sha256: str
    document: Mapping[str, Any]
    from_cache: bool
    warnings: tuple[str, ...] = ()


def export_engine(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    settings: EngineSettings,
    *,
    cache: str | os.PathLike[str] | None = None,
    report: Report | None = None,
    **onnx_options: Any,
) -> EngineArtifact:
    """Compile a checkpoint, a packaged name or an ONNX file; write the plan with the document beside it.

    Plan and document are each whole or absent; where the engine is not what was asked for, nothing is written.

    Args:
        source: a checkpoint, exported to ONNX first, or an ONNX file, whose bytes are compiled as they are.
        path: the file to write, ending in ``.plan``.
        settings: how to build.
        cache: folder of plans to look in first and to add to; None uses none.
        report: told what the builder is doing, and how far it is.
        onnx_options: for a checkpoint, the keyword arguments of `export_checkpoint`; ``polyphase`` is ``one-pass``
            where it is not given.

    Raises:
        InputError: an input that cannot be read or compiled, an option that does not fit, a toolkit that is missing.
        ApsError: the build fails, or a layer came out in another precision than the ONNX file asks for.
    """
    target = checked_target(path, ".plan")
    # These are said before a checkpoint is read and exported, which takes its time.
    _check_weights_stay_somewhere(source, settings)
    check_toolkit(settings.kind)
    kept = None if cache is None else EngineCache(Path(cache))
    if Path(source).suffix.lower() == ".onnx":
        onnx_source = read_source(source)
        warnings = advice_on_form(onnx_source)
    else:
        onnx_source, warnings = _exported(source, onnx_options)
    check_input_types(onnx_source)
    toolkit = load_toolkit(settings.kind)
    chosen = check_settings(settings, toolkit)
    plugins = plugin_build(onnx_source.model, chosen, toolkit)
    key = cache_key(onnx_source.sha256, chosen, toolkit, plugins)
    found = None if kept is None else kept.find(key)
    if found is None:
        plan, engine = _built(onnx_source, chosen, toolkit, plugins, report)
        if kept is not None:
            kept.keep(key, plan, engine)
    else:
        plan, engine = found
    document = plan_document(target, plan, engine, onnx_source)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(sidecar_path(target)) as beside, atomic_path(target) as temporary:
        temporary.write_bytes(plan)
        beside.write_text(text + "\n", encoding="utf-8")
    warnings += tuple(engine["warnings"])
    return EngineArtifact(target, sidecar_path(target), document["sha256"], document, found is not None, warnings)


def describe_engine(built: BuiltEngine, toolkit: Toolkit, source: OnnxSource) -> dict[str, Any]:
    """Return what a document says of an engine, after reading its precisions back.

    Raises:
        ApsError: a layer computes in another precision than the ONNX file asks for, or no kernel can be read at all.
    """
    from aps_deploy.export.forms import inlined

    if not built.kernels:
        raise ApsError(
            f"{toolkit.info.title} {toolkit.version} did not list the engine's kernels, so its precisions cannot be "
            "read back; nothing was written: use a version this project was tried with (constraints.txt)."
        )
    read = read_precisions(inlined(source.model), built.kernels, built.source)
    check_precisions(read)
    low_best_high = ("min", "opt", "max")
    return {
        "toolkit": toolkit.info.kind,
        "version": toolkit.version,
        "gpu": None if toolkit.gpu is None else toolkit.gpu.to_dict(),
        "compute_capabilities": list(built.settings.compute_capabilities),
        "profiles": [dict(zip(low_best_high, map(list, shapes), strict=True)) for shapes in built.input_shapes],
        "settings": built.settings.to_dict(),
        "precision": read.to_dict(),
        "num_kernels": num_kernels(built.kernels),
        "has_weights": not built.settings.strip_weights,
        "plugins": None if built.plugins is None else built.plugins.to_dict(),
        "types": dict(built.types),
        "warnings": list(read.warnings()),
    }


def plan_document(target: Path, plan: bytes, engine: Mapping[str, Any], source: OnnxSource) -> dict[str, Any]:
    """Return the JSON document that stands beside a plan.

    Args:
        target: the final path of the plan.
        plan: its bytes.
        engine: of `describe_engine`.
        source: the ONNX file it was compiled from.
    """
    kind: EngineKind = engine["toolkit"]
    types = engine["types"]
    tools = {**source.tools, "aps_deploy": aps_deploy.__version__, TOOLKITS[kind].module: engine["version"]}
    return {
        "file": target.name,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": source.sha256,
        # The plan asks for that file by name where it lacks its weights.
        **({} if engine.get("has_weights", True) else {"onnx_file": source.name}),
        "checkpoint_sha256": source.metadata.checkpoint_sha256,
        "layer_precisions": engine["precision"]["layers"],
        "tools": tools,
        "engine": {name: value for name, value in engine.items() if name not in ("types", "warnings")},
        "tensors": {
            "inputs": [_tensor(entry, types) for entry in source.model.graph.input if entry.name in types],
            "outputs": [_tensor(entry, types) for entry in source.model.graph.output],
        },
        "metadata": dict(source.document),
    }


def _tensor(entry: Any, types: Mapping[str, str]) -> dict[str, Any]:
    """Return an input or output: its name, its type in the engine, its sizes in the ONNX file, -1 where free."""
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in entry.type.tensor_type.shape.dim]
    return {"name": entry.name, "type": types[entry.name], "shape": sizes}


def _built(
    source: OnnxSource,
    settings: EngineSettings,
    toolkit: Toolkit,
    plugins: PluginBuild | None,
    report: Report | None,
) -> tuple[bytes, dict[str, Any]]:
    built = build_engine(
        source.content,
        settings,
        toolkit,
        name=source.name,
        size_divisor=source.metadata.size_divisor,
        report=report,
        plugins=plugins,
    )
    return built.plan, describe_engine(built, toolkit, source)


def _check_weights_stay_somewhere(source: str | os.PathLike[str], settings: EngineSettings) -> None:
    """Refuse a plan without weights whose ONNX file, which has them, would be gone when it is written.

    Raises:
        InputError: it is one.
    """
    if settings.strip_weights and Path(source).suffix.lower() != ".onnx":
        raise InputError(
            f"--strip-weights leaves the weights in an ONNX file that goes along with the plan, and {source} is none; "
            f"make one with `aps-deploy export {source} -o NAME.onnx`, and compile that."
        )


def _exported(checkpoint: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[OnnxSource, tuple[str, ...]]:
    """Return the ONNX file of a checkpoint, made in a folder that is gone afterwards, and its warnings."""
    from aps_deploy.export.onnx_export import export_checkpoint

    export: Callable[..., Any] = export_checkpoint
    with tempfile.TemporaryDirectory(prefix="aps-deploy-engine-") as folder:
        artifact = export(checkpoint, Path(folder, "model.onnx"), **{"polyphase": DEFAULT_FORM, **options})
        return read_source(artifact.path), artifact.warnings
