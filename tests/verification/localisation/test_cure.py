"""A file that a lower precision ruins, and the advice of its certificate followed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aps_deploy.export import export_checkpoint
from aps_deploy.images import ImageSet, load_folder
from aps_deploy.models import TrainedModel, load_checkpoint, save_checkpoint
from aps_deploy.packaged import packaged_images
from aps_deploy.verification import Certificate, verify

NAME = "resnet20_aps3.cifar10"
NUM_IMAGES = 8


@pytest.fixture(scope="module")
def pictures() -> ImageSet:
    return load_folder(packaged_images()["cifar10"], load_checkpoint(NAME).preprocessing, NUM_IMAGES + 64)


def _with_one_loud_channel() -> TrainedModel:
    """Return the packaged network, one channel inside each block of layer1 made 1,024 times as loud.

    The next convolution undoes it: the same network in float32, but all other channels fall into one step of an int8
    scale of the whole map.
    """
    model = load_checkpoint(NAME)
    with torch.no_grad():
        for block in model.layer1:
            block.bn1.weight[0] *= 1024
            block.bn1.bias[0] *= 1024
            block.conv2.weight[:, 0] /= 1024
    return model


def test_the_layers_that_int8_ruins_are_named_and_keeping_them_cures_the_file(
    pictures: ImageSet, tmp_path: Path
) -> None:
    model = _with_one_loud_channel()
    assert model.preprocessing is not None
    checkpoint = save_checkpoint(
        tmp_path / "loud.safetensors", model, preprocessing=model.preprocessing, class_names=model.class_names
    )

    def certify(*keep_fp32: str) -> Certificate:
        file = export_checkpoint(
            checkpoint,
            tmp_path / "loud.onnx",
            precision="int8",
            calibration=pictures.images[NUM_IMAGES:],
            calibration_method="minmax",
            keep_fp32=keep_fp32,
        )
        return verify(file.path, checkpoint, pictures.images[:NUM_IMAGES], shifts=2)

    ruined = certify()
    assert ruined.check("parity_cosine").status == "failed"
    advice = ruined.details["localisation"]["keep_fp32"]
    # The readers of the loud channels, and no other layer.
    assert sorted(advice) == [f"layer1.{block}.bn2/Conv" for block in range(3)]
    for layer in advice:
        assert f"--keep-fp32 {layer}" in ruined.check("parity_cosine").reason

    cured = certify(*advice)
    assert cured.passed
    assert cured.file["precision_found"] == "int8"
