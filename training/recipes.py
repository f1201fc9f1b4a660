"""Named sets of hyper-parameters, and how a run's settings override them.

`cifar10` and `imagenet` are the values of the authors' released training scripts (Chaman and Dokmanic, CVPR 2021);
`fast` is for people in a hurry: an eighth of the epochs, one cycle of the learning rate, and bf16 where the processor
has it. `imagenet-modern` is what ImageNet is trained with today: random crops of any size, a warm-up and a cosine,
smoothed labels, and a moving average of the weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import CIFAR10, IMAGENET
from aps_deploy.training.settings import PrecisionName, ScheduleName, TrainSettings, check_schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every hyper-parameter of a run, with a value; the fields mean what they mean in `TrainSettings`."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float
    label_smoothing: float = 0.0
    schedule: ScheduleName
    step_epochs: int = 1
    milestones: str | None = None
    step_factor: float = 0.1
    warmup_share: float = 0.25
    ema_decay: float = 0.0
    accumulate: int = 1
    flip: bool = True
    crop_padding: int = 0
    crop_padding_mode: Literal["zeros", "reflect", "circular"] = "zeros"
    circular_data_aug: bool = False
    circular_shift: int
    holdout: int
    train_split: float | None = None
    image_size: int
    resize: int | None = None
    random_resized_crop: bool = False
    max_unreadable_images: int = 0
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: PrecisionName = "float32"
    workers: int = 2
    seed: int = 0

    def num_held_out(self, num_images: int) -> int:
        """Return how many of `num_images` training images are set aside for validation."""
        if self.train_split is None:
            return self.holdout
        return num_images - round(num_images * self.train_split)


RECIPES: dict[str, Recipe] = {
    "cifar10": Recipe(
        epochs=250, batch_size=256, learning_rate=0.1, weight_decay=5e-4, schedule="step", step_epochs=100,
        circular_shift=3, holdout=5000, image_size=32, mean=CIFAR10.mean, std=CIFAR10.std,
    ),
    "imagenet": Recipe(
        epochs=90, batch_size=256, learning_rate=0.1, weight_decay=1e-4, schedule="step", step_epochs=30,
        circular_shift=32, holdout=0, image_size=224, resize=256, mean=IMAGENET.mean, std=IMAGENET.std, workers=4,
        max_unreadable_images=100,
    ),
    # Linear rise over 5 epochs, then cosine to zero; the rate is that of torchvision's newer reference recipe.
    "imagenet-modern": Recipe(
        epochs=100, batch_size=1024, learning_rate=0.5, nesterov=True, weight_decay=5e-5, label_smoothing=0.1,
        schedule="one-cycle", warmup_share=0.05, ema_decay=0.9999, random_resized_crop=True, circular_shift=32,
        holdout=0, image_size=224, resize=256, mean=IMAGENET.mean, std=IMAGENET.std, precision="auto", workers=8,
        max_unreadable_images=100,
    ),
    "fast": Recipe(
        epochs=30, batch_size=128, learning_rate=0.15, nesterov=True, weight_decay=5e-4, label_smoothing=0.1,
        schedule="one-cycle", crop_padding=4, crop_padding_mode="reflect", circular_shift=3, holdout=0, image_size=32,
        mean=CIFAR10.mean, std=CIFAR10.std, precision="auto",
    ),
}  # fmt: skip


def recipe_name(settings: TrainSettings, family: str) -> str:
    """Return the name of a run's recipe: the one chosen, else that of the architecture's family."""
    return settings.recipe or ("imagenet" if family == "imagenet" else "cifar10")


def recipe_for(settings: TrainSettings, family: str) -> Recipe:
    """Return the recipe of a run with the values that `settings` overrides.

    Args:
        settings: The run's settings; fields at None keep the recipe's value.
        family: Family of the architecture, `cifar` or `imagenet`, which decides where no recipe is named.

    Raises:
        InputError: settings that the recipe has no use for, or an image that would be cropped larger than it is.
    """
    overrides = {
        field.name: value
        for field in dataclasses.fields(Recipe)
        if (value := getattr(settings, field.name, None)) is not None
    }
    if settings.milestones is not None:
        overrides["schedule"] = "milestones"
    chosen = RECIPES[recipe_name(settings, family)]
    if chosen.resize is not None and settings.resize is None:
        # A larger crop of an image that is no larger would be black at its borders.
        overrides["resize"] = round(chosen.resize * overrides.get("image_size", chosen.image_size) / chosen.image_size)
    recipe = dataclasses.replace(chosen, **overrides)
    if settings.scale_learning_rate:
        rate = recipe.learning_rate * recipe.batch_size / chosen.batch_size
        recipe = dataclasses.replace(recipe, learning_rate=rate)
    if recipe.resize is not None and recipe.resize < recipe.image_size:
        raise InputError(f"--resize {recipe.resize} is smaller than the image size {recipe.image_size}.")
    check_schedule(settings, recipe.schedule)
    return recipe
