"""The trained networks inside the package are what their card says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aps_deploy.demo.samples import sample_folder
from aps_deploy.files import read_json, sha256_of
from aps_deploy.images import load_folder
from aps_deploy.models import load_checkpoint, packaged_models
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.verification import shift_set

STRIDED, APS = "resnet20.cifar10", "resnet20_aps3.cifar10"
FOLDER = Path(packaged_models()[APS]).parent
CARD: dict[str, dict[str, Any]] = {line["name"]: line for line in read_json(FOLDER / "models.json")}


def test_the_package_brings_two_networks() -> None:
    assert sorted(packaged_models()) == sorted(CARD) == [STRIDED, APS]


@pytest.mark.parametrize("name", [STRIDED, APS])
def test_the_card_is_of_these_bytes(name: str) -> None:
    path, line = packaged_models()[name], CARD[name]
    assert line["sha256"] == sha256_of(path)
    assert line["test_images"] == 10_000 and line["accuracy_percent"] >= 88
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert line["sha256"] in text and f"| {line['accuracy_percent']:.2f} % |" in text
    for command in line["commands"]:
        assert command in text
    model = load_checkpoint(name)
    assert model.checkpoint.sha256 == line["sha256"] and model.preprocessing == CIFAR10
    assert model.class_names is not None and len(model.class_names) == 10


@pytest.mark.parametrize("name", [STRIDED, APS])
def test_the_accuracy_is_that_of_the_card(name: str) -> None:
    model = load_checkpoint(name)
    data = load_folder(sample_folder(), CIFAR10, class_names=model.class_names)
    assert data.labels is not None
    with torch.inference_mode():
        classes = model(torch.from_numpy(data.images)).argmax(dim=1).numpy()
    accuracy = CARD[name]["accuracy_percent"] / 100
    # 256 images drawn from the 10,000: four standard errors.
    error = 4 * math.sqrt(accuracy * (1 - accuracy) / len(data))
    assert abs((classes == data.labels).mean() - accuracy) < error


def test_only_one_of_them_keeps_its_bits() -> None:
    images = torch.from_numpy(load_folder(sample_folder(), CIFAR10, limit=8).images)
    shifts = shift_set(20, height=32, width=32, seed=5).offsets
    same = {}
    for name in (STRIDED, APS):
        model = load_checkpoint(name)
        with torch.inference_mode():
            expected = model(images).numpy()
            moved = [model(images.roll(shift, (2, 3))).numpy() for shift in shifts]
        same[name] = np.mean([logits.tobytes() == expected.tobytes() for logits in moved])
    # The strided one keeps them where both shifts are multiples of its total stride.
    assert same[APS] == 1 and same[STRIDED] < 0.5
