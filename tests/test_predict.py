"""Classes and probabilities against the model's value computed in numpy, from every runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from aps_deploy import create_model
from aps_deploy.errors import ApsError, InputError
from aps_deploy.models import save_checkpoint
from aps_deploy.predict import predict, softmax
from aps_deploy.preprocessing import CIFAR10, IMAGENET, Preprocessing, load_image
from aps_deploy.runtimes import ModelMetadata, open_session
from tests.runtimes import graphs


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = []
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (11 + seed, 9, 3), dtype=np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnx-reference"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_classes_and_probabilities(onnx_file: Path, pictures: list[Path], runtime: str, batch_size: int) -> None:
    report = predict(onnx_file, pictures, top_k=3, runtime=runtime, batch_size=batch_size)
    images = np.stack([graphs.SMALL.apply(load_image(path)) for path in pictures])
    logits, indices = graphs.expected(images)
    probabilities = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    assert report.runtime == runtime
    assert report.architecture == "tiny_aps1"
    assert [prediction.image for prediction in report.predictions] == [str(path) for path in pictures]
    for row, prediction in enumerate(report.predictions):
        order = np.argsort(-logits[row])[:3]
        assert [score.index for score in prediction.scores] == order.tolist()
        assert [score.name for score in prediction.scores] == [graphs.CLASS_NAMES[i] for i in order]
        assert prediction.best == prediction.scores[0]
        for score, index in zip(prediction.scores, order, strict=True):
            assert score.probability == pytest.approx(probabilities[row, index], abs=2e-5)
            assert score.logit == pytest.approx(logits[row, index], abs=2e-5)
        assert prediction.polyphase_indices == tuple(indices[row])


def test_checkpoint_and_numbers_for_missing_class_names(tmp_path: Path, pictures: list[Path]) -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_aps3")
    path = save_checkpoint(tmp_path / "net.safetensors", model, preprocessing=CIFAR10)
    report = predict(path, pictures[:2], top_k=50, device="cpu")
    assert (report.runtime, report.device) == ("torch", "cpu")
    images = np.stack([CIFAR10.apply(load_image(picture)) for picture in pictures[:2]])
    with open_session(path, device="cpu") as session:
        logits = session.run(images)["logits"]
    for row, prediction in enumerate(report.predictions):
        assert len(prediction.scores) == 10
        assert prediction.best.name == str(logits[row].argmax())
        assert sum(score.probability for score in prediction.scores) == pytest.approx(1)
        assert prediction.polyphase_indices is not None and len(prediction.polyphase_indices) == 2


def test_report_is_json_and_table(onnx_file: Path, pictures: list[Path]) -> None:
    report = predict(onnx_file, pictures[:2], top_k=2)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["model"] == str(onnx_file)
    assert document["providers"] == list(report.providers)
    first = document["predictions"][0]
    assert set(first) == {"image", "scores", "polyphase_indices"}
    assert first["scores"][0]["name"] == report.predictions[0].best.name
    rows = report.rows()
    assert [row[0] for row in rows] == [str(pictures[0]), "", str(pictures[1]), ""]
    assert rows[0][1:] == (first["scores"][0]["name"], f"{100 * first['scores'][0]['probability']:.2f} %")


def test_folders_stand_for_all_their_images(onnx_file: Path, pictures: list[Path]) -> None:
    inner = pictures[0].parent / "inner" / "again.png"
    inner.parent.mkdir()
    inner.write_bytes(pictures[0].read_bytes())
    report = predict(onnx_file, [pictures[0].parent])
    assert [prediction.image for prediction in report.predictions] == [str(path) for path in (*pictures, inner)]


def test_given_preprocessing_replaces_the_files(onnx_file: Path, pictures: list[Path]) -> None:
    other = Preprocessing(8, 10, IMAGENET.mean, IMAGENET.std)
    logits, _ = graphs.expected(np.stack([other.apply(load_image(pictures[0]))]))
    (prediction,) = predict(onnx_file, pictures[:1], preprocessing=other).predictions
    assert prediction.best.logit == pytest.approx(logits.max(), abs=2e-5)


def test_file_without_preprocessing_needs_one(tmp_path: Path, pictures: list[Path]) -> None:
    model = graphs.classifier(input_name="data", output_names=["prob"], metadata=None, with_indices=False)
    path = graphs.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(
        InputError, match=r"foreign\.onnx carries no preprocessing.*--preprocessing \(cifar10, imagenet"
    ):
        predict(path, pictures)
    report = predict(path, pictures[:1], preprocessing="CIFAR10")
    assert report.architecture is None
    assert report.predictions[0].polyphase_indices is None
    assert report.predictions[0].best.name == str(report.predictions[0].best.index)
    with pytest.raises(InputError, match=r"'cifar' \(did you mean cifar10\?\)"):
        predict(path, pictures, preprocessing="cifar")


def test_wrong_number_of_class_names_is_not_used(tmp_path: Path, pictures: list[Path]) -> None:
    metadata = ModelMetadata(architecture="tiny", class_names=("a", "b"), preprocessing=graphs.SMALL)
    path = graphs.save(graphs.classifier(metadata=metadata), tmp_path / "tiny.onnx")
    best = predict(path, pictures[:1]).predictions[0].best
    assert best.name == str(best.index)


def test_wrong_arguments_are_refused(onnx_file: Path, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        predict(onnx_file, pictures, top_k=0)
    with pytest.raises(InputError, match="batch size"):
        predict(onnx_file, pictures, batch_size=0)
    with pytest.raises(InputError, match="no image"):
        predict(onnx_file, [])
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        predict(onnx_file, [*pictures, tmp_path / "none.png"])
    pictures[2].write_bytes(pictures[2].read_bytes()[:80])
    with pytest.raises(InputError, match=r"2\.png cannot be read"):
        predict(onnx_file, pictures)


def test_model_that_is_no_classifier_is_refused(tmp_path: Path, pictures: list[Path]) -> None:
    entry, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(graphs.DYNAMIC)) for name in "xy")
    model = graphs.make_model([helper.make_node("Relu", ["x"], ["y"])], [entry], [output])
    path = graphs.save(model, tmp_path / "relu.onnx")
    with pytest.raises(ApsError, match=r"shape \(5, 3, 32, 32\) for 5 images"):
        predict(path, pictures, preprocessing="cifar10")


def test_logits_that_are_not_finite_are_an_error(tmp_path: Path, pictures: list[Path]) -> None:
    model = graphs.classifier()
    for weight in model.graph.initializer:
        if weight.name == "head":
            weight.raw_data = np.full((4, 5), np.nan, np.float32).tobytes()
    path = graphs.save(model, tmp_path / "damaged.onnx")
    with pytest.raises(ApsError, match=r"not finite for .*0\.png"):
        predict(path, pictures)


def test_softmax_equals_torchs_and_survives_large_logits() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32) * 50
    expected = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-12)
    huge = softmax(np.array([[3e38, -3e38, 3e38]], np.float32))
    np.testing.assert_array_equal(huge, [[0.5, 0.0, 0.5]])
