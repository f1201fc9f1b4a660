"""``config.pbtxt`` of a packaged model, and of the ensemble that prepares its images.

The field names and their meaning are those of Triton's ``model_config.proto``.
"""

from __future__ import annotations

from typing import Any

from aps_deploy.serving.datatypes import BYTES, config_datatype
from aps_deploy.serving.engine import OnnxEngine, TensorSpec
from aps_deploy.serving.model_config import (
    CERTIFICATE_PARAMETER,
    ONNX,
    PLAN,
    ModelConfig,
    complete_config,
    new_config,
)
from aps_deploy.serving.package.settings import PackageSettings
from aps_deploy.serving.plan_engine import PlanEngine
from aps_deploy.serving.settings import ServeSettings

LABELS_FILE = "labels.txt"
WARM_UP_FILE = "image"
"""Triton looks for the data of a warm-up in the folder ``warmup`` of the model."""
ENCODED_IMAGE = "IMAGE"


def model_config(
    engine: OnnxEngine | PlanEngine,
    settings: PackageSettings,
    *,
    joins: bool,
    labels_of: str | None,
    warm_up: tuple[int, ...] | None,
) -> ModelConfig:
    """Return the configuration of the network itself.

    Args:
        engine: the loaded file.
        settings: how it shall run.
        joins: whether its answers are the same alone and in a batch, so that requests may share one.
        labels_of: the output whose elements are classes with names, if any.
        warm_up: shape of the prepared image of the warm-up, without the batch; None for no warm-up.
    """
    serving = ServeSettings(
        settings.file,
        max_batch=settings.max_batch,
        instances=settings.instances,
        batch_delay_ms=settings.batch_delay_ms,
    )
    platform = PLAN if isinstance(engine, PlanEngine) else ONNX
    config = complete_config(None, settings.model_name, engine, serving, platform)
    if isinstance(engine, PlanEngine) and config.max_batch_size:
        config.max_batch_size = engine.max_batch
        config.dynamic_batching.preferred_batch_size[:] = engine.best_batches
    for group in config.instance_group:
        # With no kind of its own Triton takes every GPU there is, and the CPU where there is none.
        kinds = {"cpu": group.KIND_CPU, "cuda": group.KIND_GPU, None: group.KIND_AUTO}
        group.kind = kinds["cuda" if settings.needs_gpu else settings.device]
        if isinstance(engine, PlanEngine) and engine.num_profiles > 1:
            group.profile.extend(map(str, range(engine.num_profiles)))  # else Triton takes the first alone
    if not joins:
        config.ClearField("dynamic_batching")
    if config.HasField("dynamic_batching"):
        queue = config.dynamic_batching.default_queue_policy
        queue.timeout_action = queue.REJECT
        queue.default_timeout_microseconds = round(settings.deadline_ms * 1000)
        queue.max_queue_size = settings.max_queue
        queue.allow_timeout_override = True  # a client's own timeout holds, as on our server
    if settings.requires_certificate:
        config.parameters[CERTIFICATE_PARAMETER].string_value = "true"
    for entry in config.output:
        if entry.name == labels_of:
            entry.label_filename = LABELS_FILE
    if warm_up is not None:
        # One image alone, and as many as a full batch: both shapes are then allocated before a client comes.
        for size in sorted({1, max(1, config.max_batch_size)}):
            sample = config.model_warmup.add(name=f"batch of {size}", batch_size=size)
            given = sample.inputs[engine.inputs[0].name]
            given.data_type = _type_number(given, engine.inputs[0].datatype)
            given.dims.extend(warm_up)
            given.input_data_file = WARM_UP_FILE
    return config


def prepare_config(network: ModelConfig, spec: TensorSpec, image_shape: tuple[int, ...]) -> ModelConfig:
    """Return the configuration of the model that decodes and prepares images: Triton's Python backend."""
    config = new_config()
    config.name, config.backend, config.max_batch_size = f"{network.name}_prepare", "python", network.max_batch_size
    _add_encoded_image(config)
    entry = config.output.add(name=spec.name, dims=image_shape)
    entry.data_type = _type_number(entry, spec.datatype)
    group = config.instance_group.add(count=1)
    group.kind = group.KIND_CPU
    config.dynamic_batching.SetInParent()
    return config


def ensemble_config(network: ModelConfig, spec: TensorSpec) -> ModelConfig:
    """Return the configuration of the ensemble: encoded image in, the network's outputs out."""
    config = new_config()
    config.name, config.platform, config.max_batch_size = f"{network.name}_image", "ensemble", network.max_batch_size
    _add_encoded_image(config)
    for output in network.output:
        entry = config.output.add(name=output.name, data_type=output.data_type, dims=output.dims)
        entry.label_filename = output.label_filename
    prepare = config.ensemble_scheduling.step.add(model_name=f"{network.name}_prepare", model_version=-1)
    prepare.input_map[ENCODED_IMAGE] = ENCODED_IMAGE
    prepare.output_map[spec.name] = "prepared"
    step = config.ensemble_scheduling.step.add(model_name=network.name, model_version=-1)
    step.input_map[spec.name] = "prepared"
    for output in network.output:
        step.output_map[output.name] = output.name
    return config


def config_text(config: ModelConfig) -> str:
    """Return a configuration as the text of ``config.pbtxt``."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config))


def _add_encoded_image(config: ModelConfig) -> None:
    entry = config.input.add(name=ENCODED_IMAGE, dims=[1])
    entry.data_type = _type_number(entry, BYTES)


def _type_number(message: Any, datatype: str) -> int:
    values = message.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name
    return int(values[config_datatype(datatype)].number)
