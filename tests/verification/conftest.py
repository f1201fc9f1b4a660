"""One small trained-looking network, its three exported forms and images that make its predictions vary."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from aps_deploy.models import ResNet, create_model, save_checkpoint
from aps_deploy.preprocessing import Preprocessing
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)

IMAGE_SIZE = 16
FORMS = ("where", "gather", "custom-op")
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
def exports(network: ResNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network's checkpoint (``checkpoint``) and its exported files, by form."""
    from aps_deploy.export import export_checkpoint, onnx_export

    folder = tmp_path_factory.mktemp("exports")
    names = [f"class {index}" for index in range(7)]
    checkpoint = save_checkpoint(folder / "net.safetensors", network, preprocessing=PREPROCESSING, class_names=names)
    files = {"checkpoint": checkpoint}
    # Tracing is the slow part and the same for all three.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "load_checkpoint", functools.cache(onnx_export.load_checkpoint))
        patch.setattr(onnx_export, "trace_onnx", functools.cache(onnx_export.trace_onnx))
        for form in FORMS:
            export_checkpoint(checkpoint, folder / f"{form}.onnx", polyphase=form, image_size=IMAGE_SIZE)
            files[form] = folder / f"{form}.onnx"
    return files
