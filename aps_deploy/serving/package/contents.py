"""What a file's package can hold: whether requests may share a run, a warm-up image, an ensemble, a new version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import load_image
from aps_deploy.serving.datatypes import DTYPES
from aps_deploy.serving.engine import OnnxEngine
from aps_deploy.serving.model_config import CONFIG_NAME, ONNX, PLAN, ModelConfig, complete_config, read_config
from aps_deploy.serving.package.config import LABELS_FILE, ensemble_config, prepare_config
from aps_deploy.serving.package.settings import PackageSettings
from aps_deploy.serving.plan_engine import PlanEngine
from aps_deploy.serving.settings import ServeSettings
from aps_deploy.serving.signature import signature_of
from aps_deploy.serving.warm_up import warm_up


def check_fits(model: Path, engine: OnnxEngine | PlanEngine, settings: PackageSettings) -> None:
    """Refuse a new version that the model's clients could not use as they use the old one."""
    path = model / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{model} exists and has no {CONFIG_NAME}; give another --name.")
    if settings.prepares_images:
        raise InputError(
            f"{model} exists, so that --with-preprocessing has nothing to add; leave it out, or give another --name."
        )
    platform = PLAN if settings.is_plan else ONNX
    config = read_config(path, settings.model_name, platform)
    complete_config(config, settings.model_name, engine, ServeSettings(settings.file), platform)
    labels = model / LABELS_FILE
    names = engine.metadata.class_names or ()
    if labels.is_file() and tuple(labels.read_text(encoding="utf-8").splitlines()) != names:
        raise InputError(f"{labels} names other classes than {settings.file}; give another --name.")


def requests_may_join(engine: OnnxEngine | PlanEngine, settings: PackageSettings, notes: list[str]) -> bool:
    """Return whether requests may share a run: where the file takes any batch, and rows do not see each other.

    An ONNX file is tried; a plan needs its GPU, so its certificate is believed, which tries places in a batch.
    """
    if not _has_free_batch(engine):
        notes.append(f"{settings.file} takes a fixed batch, so requests do not share a run")
        return False
    if isinstance(engine, PlanEngine):
        if not settings.requires_certificate:
            notes.append(f"nothing proves that the answers of {settings.file} do not depend on the batch")
        return settings.requires_certificate
    joins = warm_up(engine, signature_of(engine, settings.model_name, settings.max_batch))
    if not joins:
        notes.append(f"the answers of {settings.file} depend on the batch, so requests do not share a run")
    return joins


def warm_up_image(
    engine: OnnxEngine | PlanEngine, settings: PackageSettings, notes: list[str]
) -> npt.NDArray[np.generic] | None:
    """Return a prepared image (3, S, S) in the input's type; None where the file says not how to prepare one."""
    preprocessing = engine.metadata.preprocessing
    takes_images = len(engine.inputs) == 1 and engine.inputs[0].datatype in ("FP16", "FP32")
    if preprocessing is None or not takes_images or not _has_free_batch(engine):
        if settings.image is not None:
            raise InputError(f"{settings.file} says not how to prepare an image; leave --warmup-image out.")
        notes.append("no warm-up: the file does not say how an image is prepared for it, or takes a fixed batch")
        return None
    path = settings.image or next(iter(sorted(packaged_images()["cifar10"].rglob("*.jpg"))))
    prepared = preprocessing.apply(load_image(path))
    return np.ascontiguousarray(prepared.astype(DTYPES[engine.inputs[0].datatype]))


def ensemble_configs(
    engine: OnnxEngine | PlanEngine, network: ModelConfig, settings: PackageSettings
) -> dict[str, ModelConfig]:
    """Return the configurations of the two further models, by name."""
    preprocessing = engine.metadata.preprocessing
    if preprocessing is None or len(engine.inputs) != 1 or network.max_batch_size < 1:
        raise InputError(
            f"--with-preprocessing needs a file with a free batch that says how images are prepared; {settings.file} "
            "does not."
        )
    (spec,) = engine.inputs
    shape = (3, preprocessing.image_size, preprocessing.image_size)
    configs = prepare_config(network, spec, shape), ensemble_config(network, spec)
    return {config.name: config for config in configs}


def _has_free_batch(engine: OnnxEngine | PlanEngine) -> bool:
    return all(spec.has_free_batch for spec in (*engine.inputs, *engine.outputs))
