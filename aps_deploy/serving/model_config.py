"""Triton's model configuration: read from ``config.pbtxt``, completed from the file, shown to clients.

The messages are those of `tritonclient.grpc.model_config_pb2`, imported when the first is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.serving.batcher import BatchPolicy
from aps_deploy.serving.datatypes import config_datatype
from aps_deploy.serving.engine import OnnxEngine, TensorSpec
from aps_deploy.serving.plan_engine import PlanEngine
from aps_deploy.serving.settings import ServeSettings
from aps_deploy.serving.signature import Signature

ModelConfig = Any
"""A ``ModelConfig`` message; protobuf's classes carry no types."""

CONFIG_NAME = "config.pbtxt"
DEFAULT_MODEL_FILENAME = "model.onnx"
ONNX, PLAN = "onnxruntime_onnx", "tensorrt_plan"
_BACKENDS = {ONNX: "onnxruntime", PLAN: "tensorrt"}
MODEL_FILENAMES = {ONNX: DEFAULT_MODEL_FILENAME, PLAN: "model.plan"}
"""Triton's names of the file of a version, by platform."""

CERTIFICATE_PARAMETER = "aps_require_certificate"
"""Parameter of a configuration; with the value ``true`` the model is served with a passed certificate only."""


def new_config() -> ModelConfig:
    """Return an empty configuration."""
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2.ModelConfig()


def read_config(path: Path, name: str, platform: str = ONNX) -> ModelConfig:
    """Return the configuration in a ``config.pbtxt``.

    Args:
        path: the file.
        name: the model's folder.
        platform: `ONNX`, or `PLAN` where a plan is to join the model; none is served here.

    Raises:
        InputError: it cannot be read, is for another model, or asks for a backend that is not served here.
    """
    from google.protobuf import text_format

    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), new_config())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InputError(f"{path} is no model configuration ({one_line(error)}).") from None
    if config.name and config.name != name:
        raise InputError(f"{path}: the name is '{config.name}', but the folder is '{name}'; they must be the same.")
    if config.platform not in ("", platform) or config.backend not in ("", _BACKENDS[platform]):
        raise InputError(
            f"{path}: the backend is '{config.backend or config.platform}'; accepted here: {_BACKENDS[platform]} "
            f"(platform {platform})."
        )
    if config.max_batch_size < 0:
        raise InputError(f"{path}: max_batch_size is {config.max_batch_size}; it must be 0 or more.")
    return config


def complete_config(
    config: ModelConfig | None,
    name: str,
    engine: OnnxEngine | PlanEngine,
    settings: ServeSettings,
    platform: str = ONNX,
) -> ModelConfig:
    """Return the configuration with everything filled in that the file or the settings say.

    Args:
        config: what ``config.pbtxt`` says, which is never changed; None where there is none.
        name: the model's name.
        engine: the loaded file.
        settings: the server's, which fill in how a model without ``config.pbtxt`` batches.
        platform: `ONNX` or `PLAN`.

    Raises:
        InputError: the configuration's tensors are not the file's.
    """
    complete = new_config()
    if config is None:
        can_batch = all(spec.has_free_batch for spec in (*engine.inputs, *engine.outputs))
        complete.max_batch_size = settings.max_batch if can_batch else 0
        if can_batch and settings.batching != "never":
            complete.dynamic_batching.max_queue_delay_microseconds = round(1000 * settings.batch_delay_ms)
        complete.instance_group.add(count=settings.instances)
    else:
        complete.CopyFrom(config)
    complete.name, complete.platform, complete.backend = name, platform, _BACKENDS[platform]
    complete.default_model_filename = complete.default_model_filename or MODEL_FILENAMES[platform]
    if not complete.HasField("version_policy"):
        complete.version_policy.latest.num_versions = 1
    if not complete.instance_group:
        complete.instance_group.add(count=1)
    if complete.HasField("dynamic_batching") and not complete.dynamic_batching.preferred_batch_size:
        complete.dynamic_batching.preferred_batch_size.append(max(1, complete.max_batch_size))  # as Triton fills it in
    for group in complete.instance_group:
        group.count = group.count or 1
        group.name = group.name or f"{name}_0"
        if not group.kind:
            group.kind = group.KIND_GPU if "CUDAExecutionProvider" in engine.providers else group.KIND_CPU
    _complete_tensors(complete, complete.input, engine.inputs, "input")
    _complete_tensors(complete, complete.output, engine.outputs, "output")
    return complete


def _complete_tensors(config: ModelConfig, listed: Any, specs: tuple[TensorSpec, ...], kind: str) -> None:
    known = {spec.name: spec for spec in specs}
    for entry in listed:
        if entry.name not in known:
            raise InputError(
                f"{CONFIG_NAME} of '{config.name}': the file has no {kind} '{entry.name}'; it has {', '.join(known)}."
            )
        _check_tensor(config, entry, known.pop(entry.name), kind)
    if listed and known and kind == "input":
        raise InputError(f"{CONFIG_NAME} of '{config.name}' leaves out the input {', '.join(known)}.")
    if not listed:
        for spec in specs:
            entry = listed.add(name=spec.name)
            entry.data_type = (
                entry.DESCRIPTOR.fields_by_name["data_type"]
                .enum_type.values_by_name[config_datatype(spec.datatype)]
                .number
            )
            entry.dims.extend(_dims(config, spec))


def _check_tensor(config: ModelConfig, entry: Any, spec: TensorSpec, kind: str) -> None:
    enum = entry.DESCRIPTOR.fields_by_name["data_type"].enum_type
    declared = enum.values_by_number[entry.data_type].name
    if declared != config_datatype(spec.datatype):
        raise InputError(
            f"{CONFIG_NAME} of '{config.name}': {kind} '{spec.name}' is {declared}, but the file has "
            f"{config_datatype(spec.datatype)}."
        )
    dims, own = list(entry.dims), _dims(config, spec)
    fits = len(dims) == len(own) and all(-1 in (a, b) or a == b for a, b in zip(dims, own, strict=True))
    if not fits and spec.shape is not None:
        raise InputError(f"{CONFIG_NAME} of '{config.name}': {kind} '{spec.name}' has dims {dims}, the file {own}.")


def _dims(config: ModelConfig, spec: TensorSpec) -> list[int]:
    shape = list(spec.shape or (-1,))
    return shape[1:] if config.max_batch_size > 0 else shape


def requires_certificate(config: ModelConfig | None, settings: ServeSettings) -> bool:
    """Return whether a model is served with a passed certificate only: as its configuration says, else the server."""
    if config is not None and CERTIFICATE_PARAMETER in config.parameters:
        asked: str = config.parameters[CERTIFICATE_PARAMETER].string_value
        return asked.lower() == "true" or settings.require_certificate
    return settings.require_certificate


def device_of(config: ModelConfig | None, settings: ServeSettings) -> str | None:
    """Return where a model should run: the kind of its instance group, else the server's device."""
    kinds = set() if config is None else {group.Kind.Name(group.kind) for group in config.instance_group}
    return {"KIND_CPU": "cpu", "KIND_GPU": "cuda"}.get(min(kinds, default=""), settings.device)


def num_instances(config: ModelConfig | None, settings: ServeSettings) -> int:
    """Return how many sessions of a model run side by side."""
    if config is None:
        return settings.instances
    return max(1, sum(group.count or 1 for group in config.instance_group))


def batch_policy(config: ModelConfig, settings: ServeSettings, *, joins: bool) -> BatchPolicy:
    """Return how requests are queued and joined, as a complete configuration says.

    Args:
        config: made by `complete_config`.
        settings: the server's, for what the configuration leaves open.
        joins: whether sharing a run leaves the model's answers as they are, or may change them.
    """
    batching = config.dynamic_batching
    queue = batching.default_queue_policy
    deadline_ns = None if settings.deadline_ms is None else round(settings.deadline_ms * 1e6)
    if queue.default_timeout_microseconds:
        deadline_ns = queue.default_timeout_microseconds * 1000
    return BatchPolicy(
        max_rows=max(1, config.max_batch_size),
        joins=joins and config.max_batch_size > 1 and config.HasField("dynamic_batching"),
        delay_ns=batching.max_queue_delay_microseconds * 1000,
        max_queue=queue.max_queue_size or settings.max_queue,
        deadline_ns=deadline_ns,
    )


def labels_of(config: ModelConfig, folder: Path | None, signature: Signature) -> dict[str, tuple[str, ...]]:
    """Return the labels of the outputs that name a label file.

    Raises:
        InputError: a label file is missing or outside the model's folder.
    """
    labels = {}
    for entry in config.output:
        if not entry.label_filename or folder is None or entry.name not in signature.outputs:
            continue
        path = (folder / entry.label_filename).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise InputError(f"the label file {entry.label_filename!r} of '{config.name}' is not in {folder}.")
        labels[entry.name] = tuple(path.read_text(encoding="utf-8").splitlines())
    return labels


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return the configuration as Triton shows it: the .proto's names, every plain field, integers as numbers."""
    return _message_to_dict(config)


def _message_to_dict(message: Any) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = {str(key): _plain(field.message_type.fields[1], value[key]) for key in value}
        elif field.is_repeated:
            document[field.name] = [_plain(field, entry) for entry in value]
        elif not field.has_presence or message.HasField(field.name):
            document[field.name] = _plain(field, value)
    return document


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _message_to_dict(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("latin-1") if isinstance(value, bytes) else value
