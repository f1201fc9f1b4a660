"""One version of one model, loaded, warm and behind its queue."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aps_deploy.serving.batcher import Batcher
from aps_deploy.serving.canary_record import CanaryRecord
from aps_deploy.serving.door import check_certificate
from aps_deploy.serving.engine import OnnxEngine
from aps_deploy.serving.errors import InvalidRequestError
from aps_deploy.serving.execution import Outputs
from aps_deploy.serving.model_config import (
    ModelConfig,
    batch_policy,
    complete_config,
    config_to_dict,
    device_of,
    labels_of,
    num_instances,
    requires_certificate,
)
from aps_deploy.serving.settings import ServeSettings
from aps_deploy.serving.signature import Signature, signature_of
from aps_deploy.serving.statistics import ModelStatistics
from aps_deploy.serving.tensors import OutputTensor, RequestedOutput, classified
from aps_deploy.serving.warm_up import warm_up

logger = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
"""Triton's name of what serves ONNX files."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A version of a model in memory, warm, not yet behind a queue.

    Attributes:
        name: the model's name.
        version: the version's number.
        config: its complete configuration.
        signature: its tensors.
        folder: the model's folder in a repository; None for a single file.
        labels: class names of outputs, by output.
        engines: one session per instance.
        joins: whether requests may share runs.
    """

    name: str
    version: int
    config: ModelConfig
    signature: Signature
    folder: Path | None
    labels: Mapping[str, Sequence[str]]
    engines: Sequence[OnnxEngine]
    joins: bool


def load_model(
    name: str, version: int, file: Path, folder: Path | None, config: ModelConfig | None, settings: ServeSettings
) -> LoadedModel:
    """Load and warm up one version of a model; takes seconds, and may run on any thread.

    Args:
        name: the model's name.
        version: the version's number.
        file: the ONNX file.
        folder: the model's folder in a repository, where labels are; None for a single file.
        config: what its ``config.pbtxt`` says; None where there is none.
        settings: the server's.

    Raises:
        InputError: the file cannot be loaded, the configuration does not fit it, or a certificate that is asked for
            is missing, failed or is of another file.
        ApsError: the model fails on its first run.
    """
    if requires_certificate(config, settings):
        check_certificate(file)
    count = num_instances(config, settings)
    threads = settings.threads or max(1, (os.cpu_count() or 1) // count)
    device = device_of(config, settings)
    engines = [OnnxEngine(file, device=device, num_threads=threads) for _ in range(count)]
    complete = complete_config(config, name, engines[0], settings)
    signature = signature_of(engines[0], name, complete.max_batch_size)
    labels = {**_own_labels(engines[0]), **labels_of(complete, folder, signature)}
    independent = all([warm_up(engine, signature) for engine in engines])  # each of them is to be warm
    if settings.batching == "exact" and signature.max_rows > 1 and not independent:
        logger.warning(
            "%s: its answers depend on the other images of a batch, so requests are not joined; "
            "--batching always joins them all the same",
            name,
        )
    joins = settings.batching == "always" or (settings.batching == "exact" and independent)
    return LoadedModel(name, version, complete, signature, folder, labels, engines, joins)


def _own_labels(engine: OnnxEngine) -> dict[str, tuple[str, ...]]:
    names = engine.metadata.class_names
    return {} if names is None else {engine.outputs[0].name: names}


class ServedModel:
    """A loaded version of a model behind its queue; made on the event loop's thread.

    Args:
        loaded: the version in memory.
        settings: the server's.

    Attributes:
        canary: what the canary saw of it; None on a server without one.
    """

    def __init__(self, loaded: LoadedModel, settings: ServeSettings) -> None:
        self.name = loaded.name
        self.version = str(loaded.version)
        self.config = loaded.config
        self.signature = loaded.signature
        self.folder = loaded.folder
        self.labels = loaded.labels
        self.engine = loaded.engines[0]
        self.statistics = ModelStatistics()
        self.canary = None if settings.canary_s is None else CanaryRecord()
        policy = batch_policy(loaded.config, settings, joins=loaded.joins)
        self.batcher = Batcher(loaded.engines, policy, self.statistics, self.name)

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """Return the protocol's model metadata; ``versions`` are those that are ready."""
        return {
            "name": self.name,
            "versions": list(versions),
            "platform": PLATFORM,
            **self.signature.tensor_metadata(),
        }

    def config_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values."""
        return config_to_dict(self.config)

    def statistics_dict(self) -> dict[str, Any]:
        """Return the statistics as plain values."""
        return {"name": self.name, "version": self.version, **self.statistics.to_dict()}

    def submit(
        self,
        tensors: Mapping[str, npt.NDArray[Any]],
        *,
        deadline_ns: int | None = None,
        arrived_ns: int | None = None,
        is_background: bool = False,
    ) -> asyncio.Future[Outputs]:
        """Check one request's tensors, queue it and return the future of its outputs; see `Batcher.submit`.

        Raises:
            InvalidRequestError: the tensors do not fit the model.
            UnavailableError: the queue is full.
        """
        num_rows = self.signature.count_rows(tensors)
        for name, spec in self.signature.inputs.items():
            self.engine.check_image_size(spec, tensors[name].shape)
        ordered = {name: tensors[name] for name in self.signature.inputs}
        return self.batcher.submit(
            ordered, num_rows, deadline_ns=deadline_ns, arrived_ns=arrived_ns, is_background=is_background
        )

    def check_outputs(self, requested: Sequence[RequestedOutput]) -> None:
        """Do nothing where the model has these outputs.

        Raises:
            InvalidRequestError: it has not.
        """
        for output in requested:
            if output.name not in self.signature.outputs:
                raise InvalidRequestError(
                    f"unexpected inference output '{output.name}' for model '{self.name}'; its outputs are "
                    f"{', '.join(self.signature.outputs)}."
                )

    def select_outputs(self, outputs: Outputs, requested: Sequence[RequestedOutput]) -> list[OutputTensor]:
        """Return the requested outputs of a run, classified where that was asked for; all of them for no request.

        Raises:
            InvalidRequestError: an output cannot be classified.
        """
        values_of = dict(zip(self.signature.outputs, outputs, strict=True))
        chosen = requested or [RequestedOutput(name) for name in values_of]
        once = {output.name: output for output in chosen}  # asked for twice it is answered once, as by Triton
        return [self._output(output, values_of[output.name]) for output in once.values()]

    def _output(self, requested: RequestedOutput, values: npt.NDArray[Any]) -> OutputTensor:
        if requested.num_classes:
            labels = self.labels.get(requested.name)
            return classified(
                requested.name, values, requested.num_classes, batches=self.signature.batches, labels=labels
            )
        return OutputTensor(requested.name, self.signature.outputs[requested.name].datatype, values.shape, values)
