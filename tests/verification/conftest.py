"""One small trained-looking network, its four exported forms and images that make its predictions vary."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from aps_deploy.export import Artifact
from aps_deploy.models import ResNet, create_model, save_checkpoint
from aps_deploy.preprocessing import Preprocessing
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)

IMAGE_SIZE = 16
FORMS = ("where", "gather", "one-pass", "custom-op")
PREPROCESSING = Preprocessing(IMAGE_SIZE, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_network(name: str = "resnet20_aps3", *, seed: int = 0, num_classes: int = 7, **arguments: object) -> ResNet:
    """Return a network whose batch norms are not the identity, so that logits differ between images and classes."""
    torch.manual_seed(seed)
    model = create_model(name, num_classes=num_classes, **arguments)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
            assert module.running_var is not None and module.running_mean is not None
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0.0, 0.1)
    nn.init.normal_(model.fc.weight, 0.0, 0.5)
    return model.eval()


def make_images(count: int, size: int = IMAGE_SIZE, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return smooth random images (count, 3, size, size), of unlike brightness and colour."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, 3, size, size))
    smooth = sum(np.roll(noise, (dy, dx), axis=(2, 3)) for dy in (0, 1) for dx in (0, 1)) / 2
    return (smooth + generator.standard_normal((count, 3, 1, 1))).astype(np.float32)


@pytest.fixture(scope="session")
def network() -> ResNet:
    return make_network()


@pytest.fixture(scope="session")
def images() -> npt.NDArray[np.float32]:
    return make_images(8)


@pytest.fixture(scope="session")
def export_again() -> Callable[..., Artifact]:
    """`export_checkpoint`, which loads and traces each checkpoint once: tracing is the slow part."""
    from aps_deploy.export import export_checkpoint, onnx_export

    load, trace = functools.cache(onnx_export.load_checkpoint), functools.cache(onnx_export.trace_onnx)

    def export(*arguments: Any, **options: Any) -> Artifact:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_export, "load_checkpoint", load)
            patch.setattr(onnx_export, "trace_onnx", trace)
            return export_checkpoint(*arguments, image_size=IMAGE_SIZE, **options)

    return export


@pytest.fixture(scope="session")
def exports(
    network: ResNet, export_again: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The network's checkpoint (``checkpoint``) and its exported files, by form."""
    folder = tmp_path_factory.mktemp("exports")
    names = [f"class {index}" for index in range(7)]
    checkpoint = save_checkpoint(folder / "net.safetensors", network, preprocessing=PREPROCESSING, class_names=names)
    forms = {form: export_again(checkpoint, folder / f"{form}.onnx", polyphase=form).path for form in FORMS}
    return {"checkpoint": checkpoint, **forms}


@pytest.fixture(scope="session")
def precise(
    network: ResNet, export_again: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A network's checkpoint and its files by precision, in the ``where`` form; few runtimes have bf16.

    Its logits are 1.0 on average, as those of the packaged network are: the absolute gates of half precision are made
    for logits of that size.
    """
    folder = tmp_path_factory.mktemp("precise")
    calm = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in calm.fc.parameters():
            parameter /= 200
    checkpoint = save_checkpoint(folder / "calm.safetensors", calm, preprocessing=PREPROCESSING)
    files = {"checkpoint": checkpoint}
    for precision in ("fp32", "fp16", "int8"):
        calibration = make_images(64, seed=1) if precision == "int8" else None
        target = folder / f"{precision}.onnx"
        files[precision] = export_again(checkpoint, target, precision=precision, calibration=calibration).path
    return files
