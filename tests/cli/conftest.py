"""A small trained-looking checkpoint, its ONNX file and a few images: what every verb is tried on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from aps_deploy.cli import app

ARCH = "resnet20_aps3"
CLASSES = ("cat", "dog", "emu")

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """Run one command line in this process; a traceback fails the test at once."""

    def run(*arguments: str | os.PathLike[str]) -> Result:
        result = CliRunner().invoke(app, [os.fspath(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of 3 x 4 training and 3 x 2 test images of 32 x 32 pixels."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(60 * label, 60 * label + 120, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a freshly initialised network."""
    import torch

    from aps_deploy.models import create_model, save_checkpoint
    from aps_deploy.preprocessing import CIFAR10

    torch.manual_seed(0)
    model = create_model(ARCH, num_classes=len(CLASSES)).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    return save_checkpoint(path, model, preprocessing=CIFAR10, class_names=CLASSES)


@pytest.fixture(scope="session")
def onnx_file(checkpoint: Path, invoke: Invoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, exported by the command."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    result = invoke("export", checkpoint, "-o", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def foreign_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX classifier that another tool might have written: average colour, then a matrix."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(3, 3) / 9, "weights")
    axes = numpy_helper.from_array(np.asarray([2, 3], dtype=np.int64), "axes")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["colours"], keepdims=0),
            helper.make_node("MatMul", ["colours", "weights"], ["scores"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [weights, axes],
    )
    path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
