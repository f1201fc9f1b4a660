"""Settings refuse what does not fit, naming the flags, and recipes carry the authors' values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.errors import InputError
from aps_deploy.training.recipes import RECIPES, recipe_for
from aps_deploy.training.settings import TrainSettings, continued, flag, parse_milestones

COMPLETE: dict[str, Any] = {"arch": "resnet20", "data": "data", "out_dir": "out"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_dir": None}, "--out-dir is missing"),
        ({"data": None}, "--data is missing"),
        ({"arch": None}, "--arch is missing"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch_size": -1}, "--batch-size is -1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"learning_rate": float("inf")}, "--learning-rate is inf"),
        ({"momentum": 1.0}, "--momentum is 1.0"),
        ({"weight_decay": float("nan")}, "--weight-decay is nan"),
        ({"label_smoothing": 1.0}, "--label-smoothing is 1.0"),
        ({"recipe": "slow"}, "--recipe slow .* cifar10, imagenet, imagenet-modern, fast"),
        ({"resume": True, "weights": "w"}, "--resume and --weights"),
        ({"evaluate": True}, "--evaluate needs a checkpoint"),
        ({"nesterov": True, "momentum": 0.0}, "--nesterov needs a momentum"),
        ({"schedule": "one-cycle", "step_epochs": 3}, "--step-epochs .* one-cycle"),
        ({"schedule": "step", "warmup_share": 0.5}, "--warmup-share .* step"),
        ({"schedule": "step", "milestones": "3,5"}, "--milestones belongs to --schedule milestones, not step"),
        ({"schedule": "milestones"}, "--schedule milestones needs the epochs of the drops"),
        ({"milestones": "5,3"}, "--milestones is '5,3'; it must list epochs that rise"),
        ({"milestones": "0,3"}, "--milestones is '0,3'"),
        ({"milestones": "3,x"}, "--milestones is '3,x'"),
        ({"train_split": 0.0}, "--train-split is 0.0"),
        ({"train_split": 1.5}, "--train-split is 1.5"),
        ({"train_split": 0.9, "holdout": 5}, "--train-split and --holdout exclude each other"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0; it must be below 1"),
        ({"seed": 2**32}, r"--seed is 4294967296; it must be below 2\*\*32"),
    ],
)
def test_conflicts_name_the_flags(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        TrainSettings(**{**COMPLETE, **changes})
    assert raised.value.exit_code == 2


def test_recipes_are_the_authors() -> None:
    cifar, imagenet = RECIPES["cifar10"], RECIPES["imagenet"]
    assert (cifar.epochs, cifar.batch_size, cifar.learning_rate, cifar.weight_decay) == (250, 256, 0.1, 5e-4)
    assert (cifar.schedule, cifar.step_epochs, cifar.step_factor, cifar.momentum) == ("step", 100, 0.1, 0.9)
    assert (cifar.nesterov, cifar.label_smoothing, cifar.flip, cifar.crop_padding) == (False, 0.0, True, 0)
    assert (cifar.circular_data_aug, cifar.circular_shift, cifar.holdout) == (False, 3, 5000)
    assert (imagenet.epochs, imagenet.batch_size, imagenet.learning_rate, imagenet.weight_decay) == (90, 256, 0.1, 1e-4)
    assert (imagenet.step_epochs, imagenet.image_size, imagenet.resize, imagenet.circular_shift) == (30, 224, 256, 32)


def test_settings_override_the_recipe() -> None:
    recipe = recipe_for(TrainSettings(**COMPLETE, recipe="fast", epochs=3, flip=False, seed=7), "cifar")
    assert (recipe.epochs, recipe.flip, recipe.seed) == (3, False, 7)
    assert recipe.learning_rate == RECIPES["fast"].learning_rate


def test_milestones_choose_their_schedule() -> None:
    recipe = recipe_for(TrainSettings(**COMPLETE, milestones="100, 150", step_factor=0.5), "cifar")
    assert (recipe.schedule, recipe.milestones, recipe.step_factor) == ("milestones", "100, 150", 0.5)
    assert parse_milestones("100, 150") == (100, 150)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "fast", "step_epochs": 10}, "--step-epochs belongs to --schedule step, not one-cycle"),
        ({"recipe": "cifar10", "warmup_share": 0.5}, "--warmup-share belongs to --schedule one-cycle, not step"),
        ({"milestones": "3,5", "step_epochs": 2}, "--step-epochs belongs to --schedule step, not milestones"),
        ({"resize": 30, "recipe": "fast"}, "--resize 30 is smaller than the image size 32"),
        ({"resize": 200, "recipe": "imagenet"}, "--resize 200 is smaller than the image size 224"),
    ],
)
def test_a_recipe_refuses_what_it_has_no_use_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe_for(TrainSettings(**COMPLETE, **changes), "cifar")


def test_the_resize_follows_the_size_of_the_crop() -> None:
    assert recipe_for(TrainSettings(**COMPLETE, image_size=448), "imagenet").resize == 512
    assert recipe_for(TrainSettings(**COMPLETE, image_size=448, resize=448), "imagenet").resize == 448


def test_the_family_chooses_the_recipe() -> None:
    assert recipe_for(TrainSettings(**COMPLETE), "cifar") == RECIPES["cifar10"]
    assert recipe_for(TrainSettings(**COMPLETE), "imagenet") == RECIPES["imagenet"]


def test_continued_settings() -> None:
    started = TrainSettings(**COMPLETE, epochs=3, seed=1)
    again = continued(TrainSettings(out_dir=Path("elsewhere"), resume=True, data=Path("moved")), started.to_dict())
    assert (again.out_dir, again.data, again.epochs, again.seed) == (Path("elsewhere"), Path("moved"), 3, 1)
    with pytest.raises(InputError, match=flag("seed")):
        continued(TrainSettings(out_dir=Path("out"), resume=True, seed=2), started.to_dict())


def test_settings_import_no_torch() -> None:
    code = "import sys, aps_deploy.training.settings; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert result.stdout.strip() == "False"
