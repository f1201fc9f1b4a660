"""From settings to the objects of a run: network, optimizer, schedule, arithmetic."""

from __future__ import annotations

import torch

from aps_deploy.errors import InputError
from aps_deploy.models import ModelSpec, ResNet, create_model, resolve_arch
from aps_deploy.training.precision import Arithmetic
from aps_deploy.training.process import Process
from aps_deploy.training.recipes import Recipe
from aps_deploy.training.schedule import Schedule
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.step import Trainer


def architecture_name(settings: TrainSettings) -> str:
    """Return the registered name of the architecture that the settings describe, our way or the authors' way.

    Raises:
        InputError: no architecture is named, or there is none of that name.
    """
    if settings.arch is None:
        raise InputError("--arch is missing; `aps-deploy models` lists the architectures.")
    return resolve_arch(settings.arch, filter_size=settings.filter_size, recipe=settings.recipe)


def build_model(settings: TrainSettings, name: str, *, num_classes: int | None) -> ResNet:
    """Return a freshly initialised network; options at None keep `create_model`'s defaults."""
    choices = {
        "criterion": settings.criterion,
        "selection": settings.selection,
        "pool_only": settings.pool_only,
        "padding": settings.padding,
    }
    given = {key: value for key, value in choices.items() if value is not None}
    return create_model(name, num_classes=num_classes, **given)  # type: ignore[arg-type]


def build_trainer(
    model: ResNet,
    recipe: Recipe,
    arithmetic: Arithmetic,
    *,
    num_images: int,
    channels_last: bool | None,
    compile_model: bool,
    process: Process,
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
    """
    if channels_last is None:
        channels_last = arithmetic.device.type == "cuda"
    model = model.to(arithmetic.device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    schedule = Schedule(
        recipe.schedule,
        recipe.learning_rate,
        recipe.epochs,
        steps_per_epoch=-(-num_images // recipe.batch_size),
        step_epochs=recipe.step_epochs,
        step_factor=recipe.step_factor,
        warmup_share=recipe.warmup_share,
    )
    return Trainer(
        model=model,
        forward=torch.compile(model) if compile_model else model,
        optimizer=optimizer,
        scaler=arithmetic.scaler(),
        arithmetic=arithmetic,
        schedule=schedule,
        recipe=recipe,
        channels_last=channels_last,
        process=process,
    )


def check_image_size(image_size: int, architecture: ModelSpec) -> None:
    """Refuse an image size the architecture cannot take.

    Raises:
        InputError: names the next valid size.
    """
    divisor, smallest = architecture.size_divisor, architecture.min_size
    if image_size % divisor or image_size < smallest:
        valid = max(-(-image_size // divisor) * divisor, smallest)
        raise InputError(
            f"--image-size {image_size} does not fit {architecture.name}: sides must be multiples of {divisor}, at "
            f"least {smallest}; the next valid size is {valid}."
        )
