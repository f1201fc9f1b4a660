"""From settings to the objects of a run: network, optimizer, schedule, arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aps_deploy.errors import InputError
from aps_deploy.models import SelectingNetwork, create_model, packaged_models, resolve_arch
from aps_deploy.models.weights import read_weights
from aps_deploy.training.batch_norm import gather_statistics
from aps_deploy.training.precision import Arithmetic
from aps_deploy.training.process import Process
from aps_deploy.training.recipes import Recipe
from aps_deploy.training.schedule import Schedule
from aps_deploy.training.settings import TrainSettings, parse_milestones
from aps_deploy.training.step import Trainer


def architecture_name(settings: TrainSettings) -> str:
    """Return the registered name of the architecture that the settings describe, our way or the authors' way.

    Raises:
        InputError: no architecture is named, or there is none of that name.
    """
    if settings.arch is None:
        raise InputError("--arch is missing; `aps-deploy models` lists the architectures.")
    return resolve_arch(settings.arch, filter_size=settings.filter_size, recipe=settings.recipe)


def build_model(settings: TrainSettings, name: str, *, num_classes: int | None) -> SelectingNetwork:
    """Return a freshly initialised network; options at None keep `create_model`'s defaults."""
    choices = {
        "criterion": settings.criterion,
        "selection": settings.selection,
        "pool_only": settings.pool_only,
        "padding": settings.padding,
    }
    given = {key: value for key, value in choices.items() if value is not None}
    return create_model(name, num_classes=num_classes, **given)  # type: ignore[arg-type]


def check_network(settings: TrainSettings, name: str) -> None:
    """Refuse options of the network that are wrong, and weights that cannot be read, before any data is.

    Raises:
        InputError: names the option or the file.
    """
    with torch.device("meta"):
        build_model(settings, name, num_classes=None)
    if settings.weights is not None:
        read_weights(weights_file(settings.weights))


def weights_file(weights: Path) -> Path:
    """Return the file of `--weights`, which may be the name of a packaged network."""
    return packaged_models().get(str(weights), weights)


def build_trainer(
    model: SelectingNetwork,
    recipe: Recipe,
    arithmetic: Arithmetic,
    *,
    num_images: int,
    channels_last: bool | None,
    compile_model: bool,
    process: Process,
    gathers_statistics: bool = False,
) -> Trainer:
    """Return what takes the optimizer steps of a run.

    Args:
        model: The network, on any device.
        recipe: Hyper-parameters.
        arithmetic: Device and number format.
        num_images: Training images of an epoch.
        channels_last: Memory order; None turns it on for CUDA, where it was faster (on two CPU cores it was slower).
        compile_model: Run the forward pass through torch.compile.
        process: This process among those that train.
        gathers_statistics: Batch norms use the images of all processes instead of each its own.
    """
    if channels_last is None:
        channels_last = arithmetic.device.type == "cuda"
    if gathers_statistics and not process.is_alone:
        gather_statistics(model, arithmetic.device)
    model = model.to(arithmetic.device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        # One kernel for all parameters instead of several for each group.
        fused=arithmetic.device.type == "cuda",
    )
    schedule = Schedule(
        recipe.schedule,
        recipe.learning_rate,
        recipe.epochs,
        steps_per_epoch=-(-num_images // recipe.batch_size),
        step_epochs=recipe.step_epochs,
        milestones=() if recipe.milestones is None else parse_milestones(recipe.milestones),
        step_factor=recipe.step_factor,
        warmup_share=recipe.warmup_share,
    )
    forward: nn.Module = model
    if not process.is_alone:
        forward = DistributedDataParallel(model, None if arithmetic.device.type == "cpu" else [arithmetic.device])
    return Trainer(
        model=model,
        forward=torch.compile(forward) if compile_model else forward,
        optimizer=optimizer,
        scaler=arithmetic.scaler(),
        arithmetic=arithmetic,
        schedule=schedule,
        recipe=recipe,
        channels_last=channels_last,
        process=process,
        gathers_statistics=gathers_statistics,
        average=moving_average(model, recipe.ema_decay) if recipe.ema_decay else None,
    )


def moving_average(model: SelectingNetwork, decay: float) -> AveragedModel:
    """Return the exponential moving average of a network's weights and of its batch norms' statistics.

    It is the network after the first optimizer step, and after every later one d * average + (1 - d) * network, with
    the decay d of `ramped_decay`. The number of updates is in its state, so that a continuation goes on with it.
    """

    def follow(averaged: Any, current: Any, _: Any) -> None:
        # The count of the CPU: the one that is handed in was sent to the device, and reading it would wait for a GPU.
        ramped = ramped_decay(decay, int(average.n_averaged))
        get_ema_multi_avg_fn(ramped)(averaged, current, average.n_averaged)

    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    return average


def ramped_decay(decay: float, num_updates: int) -> float:
    """Return the decay of an update after `num_updates` others: min(decay, (1 + t) / (10 + t)).

    The form of TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`. With a decay of 0.9999 from the
    start, a run of some hundred steps would end with the network of its first step.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))
