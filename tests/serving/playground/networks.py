"""Networks whose answers can be told by looking at the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from PIL import Image

from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata
from tests.runtimes import graphs

COLOURS = ("red", "green", "blue")
CORNER_SIDE, LARGEST_SIDE = 8, 16


def preprocessing(side: int) -> Preprocessing:
    return Preprocessing(side, None, (0.5, 0.25, 0.0), (0.25, 0.5, 1.0))


def corner(*, promises: bool) -> onnx.ModelProto:
    """Return a network that says the colour of the pixel in the corner, and may promise not to."""
    nodes = [helper.make_node("Slice", ["images", "starts", "ends", "axes"], ["pixel"])]
    constants = {"starts": np.array([0, 0]), "ends": np.array([1, 1]), "axes": np.array([2, 3])}
    return _network(nodes, constants, CORNER_SIDE, TensorProto.FLOAT, promises=promises)


def largest() -> onnx.ModelProto:
    """Return a network in half precision that says the colour of the brightest pixel, wherever it is."""
    nodes = [helper.make_node("GlobalMaxPool", ["images"], ["pixel"])]
    return _network(nodes, {}, LARGEST_SIDE, TensorProto.FLOAT16, promises=True)


def _network(
    nodes: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[np.generic]],
    side: int,
    dtype: int,
    *,
    promises: bool,
) -> onnx.ModelProto:
    model = graphs.make_model(
        [*nodes, helper.make_node("Flatten", ["pixel"], ["logits"])],
        [helper.make_tensor_value_info("images", dtype, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", dtype, ["N", 3])],
        constants,
    )
    metadata = ModelMetadata(
        architecture="by_hand", num_classes=3, class_names=COLOURS, preprocessing=preprocessing(side), precision="fp32"
    )
    if promises:
        metadata = dataclasses.replace(metadata, selection="exact", selection_layers=("layer1",))
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    return model


def write_repository(root: Path) -> Path:
    """Write ``corner``, ``liar`` (the same, and promises), ``largest``, and ``broken``, which cannot be loaded."""
    models = {"corner": corner(promises=False), "liar": corner(promises=True), "largest": largest()}
    for name, model in models.items():
        (root / name / "1").mkdir(parents=True)
        graphs.save(model, root / name / "1" / "model.onnx")
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no network")
    return root


def picture() -> Image.Image:
    """Return 16 x 16 pixels of noise."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def corner_colour(shift: tuple[int, int]) -> str:
    """Return what ``corner`` says of `picture` under a shift (right, down)."""
    image = preprocessing(CORNER_SIDE).apply(picture())
    return COLOURS[int(np.roll(image, (shift[1], shift[0]), axis=(1, 2))[:, 0, 0].argmax())]
