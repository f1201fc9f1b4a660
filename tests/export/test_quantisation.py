"""int8: which numbers are quantised and how, which are not, and that not a bit moves with the image."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from aps_deploy.errors import InputError
from aps_deploy.export.calibration import (
    ADVISED_IMAGES,
    MIN_IMAGES,
    Calibration,
    check_request,
    load_calibration,
)
from aps_deploy.export.forms import POLYPHASE_FORMS, PolyphaseForm
from aps_deploy.export.onnx_export import finish_onnx
from aps_deploy.export.quantisation import CALIBRATION_METHODS, CalibrationMethod, quantised
from aps_deploy.images import load_folder
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import CIFAR10
from tests.export.support import ort_session, run, traced


@functools.cache
def _pictures() -> np.ndarray:
    return load_folder(packaged_images()["cifar10"], CIFAR10, 64).images


@functools.cache
def _quantised(method: CalibrationMethod = "minmax", count: int = MIN_IMAGES) -> onnx.ModelProto:
    return quantised(traced("resnet20_aps3", 32, 32)[1], _pictures()[:count], method)


def _makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in proto.graph.node for name in node.output}


def _values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_a_pair_stands_before_every_convolution_and_nowhere_else() -> None:
    graph, proto = traced("resnet20_aps3", 32, 32)[1], _quantised()
    makers = _makers(proto)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in graph.graph.node)
    for node in convolutions:
        activation, weight = (makers[name] for name in node.input[:2])
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert makers[activation.input[0]].op_type == "QuantizeLinear"
        assert len(node.input) == 2 or node.input[2] not in makers  # a float32 bias, not a quantised one
    # Who reads a quantised value is a convolution: no selection, no pooling, no residual sum.
    given_back = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    readers = [node.op_type for node in proto.graph.node if given_back & set(node.input)]
    assert readers == ["Conv"] * len(convolutions)
    kept = [node.op_type for node in proto.graph.node if node.domain == "aps"]
    assert kept == [node.op_type for node in graph.graph.node if node.domain == "aps"]


def test_pairs_are_symmetric_int8_and_weights_have_a_scale_per_channel() -> None:
    proto = _quantised()
    original = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in traced("resnet20_aps3", 32, 32)[1].graph.initializer
    }
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    makers = _makers(proto)
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            point = values[node.input[2]]
            assert point.dtype == np.int8 and not point.any()
            assert (values[node.input[1]] > 0).all()
    for node in (node for node in proto.graph.node if node.op_type == "Conv"):
        weight = makers[node.input[1]]
        codes, scales = values[weight.input[0]], values[weight.input[1]]
        assert codes.dtype == np.int8 and scales.shape == codes.shape[:1]
        name = weight.input[0].removesuffix("_quantized")
        error = np.abs(codes * scales[:, None, None, None] - original[name])
        assert (error <= 0.5001 * scales[:, None, None, None]).all()


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
def test_logits_do_not_change_by_a_bit_in_onnxruntime(form: PolyphaseForm) -> None:
    model, _ = traced("resnet20_aps3", 32, 32)
    session = ort_session(finish_onnx(_quantised(), form))
    images = _pictures()[-4:]  # not among those calibrated on
    logits, indices = session.run(None, {"images": images})
    reference = model.trace_selections(torch.from_numpy(images), forced=torch.from_numpy(indices))
    expected = reference.logits.numpy()
    norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((logits * expected).sum(axis=1) / norms).min() >= 0.99
    differ = reference.chosen.numpy() != indices
    assert (reference.margins.numpy()[differ] < 5e-2).all()
    for shift in np.random.default_rng(7).integers(0, 32, (20 if form == "where" else 5, 2)):
        moved = np.roll(images, tuple(shift), axis=(2, 3))
        assert session.run(["logits"], {"images": moved})[0].tobytes() == logits.tobytes()
    alone = np.concatenate([session.run(["logits"], {"images": image[None]})[0] for image in images])
    assert alone.tobytes() == logits.tobytes()


def test_the_reference_evaluator_runs_the_same_numbers() -> None:
    proto, images = finish_onnx(_quantised(), "where"), _pictures()[-1:]
    expected = run(proto, images)
    outputs = run(proto, images, "reference")
    # Half a quantisation step falls the other way where a float product differs in its last bit.
    norms = np.linalg.norm(outputs[0]) * np.linalg.norm(expected[0])
    assert (outputs[0] * expected[0]).sum() / norms > 0.999
    np.testing.assert_array_equal(outputs[1], expected[1])


def test_each_method_takes_other_ranges_and_none_a_larger_one_than_minmax() -> None:
    scales = {}
    for method in CALIBRATION_METHODS:
        # Two batches: on one alone, ONNX Runtime's entropy finds no range to prefer to the whole.
        proto = _quantised(method, 2 * MIN_IMAGES)
        values = _values(proto)
        activations = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
        scales[method] = np.array([float(values[node.input[1]]) for node in activations])
    assert len({array.tobytes() for array in scales.values()}) == len(CALIBRATION_METHODS)
    for other in ("entropy", "percentile"):
        assert (scales[other] <= scales["minmax"] * 1.01).all()


def test_minmax_covers_what_the_images_hold() -> None:
    proto, makers = _quantised(), _makers(_quantised())
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    first = next(node for node in convolutions if "conv1.weight_quantized" in makers[node.input[1]].input)
    scale = _values(proto)[makers[first.input[0]].input[1]]
    # The padded image: circular padding adds no values.
    np.testing.assert_allclose(float(scale), np.abs(_pictures()[:MIN_IMAGES]).max() / 127.5, rtol=0.01)


def test_quantising_prints_nothing_and_leaves_logging_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, root.manager.disable)
    graph = traced("resnet20_aps3", 32, 32)[1]
    untouched = graph.SerializeToString(deterministic=True)
    again = quantised(graph, _pictures()[:MIN_IMAGES], "minmax")
    assert (list(root.handlers), root.level, root.manager.disable) == before
    assert capfd.readouterr() == ("", "")
    assert graph.SerializeToString(deterministic=True) == untouched
    assert again.SerializeToString(deterministic=True) == _quantised().SerializeToString(deterministic=True)


def _load(source: Any, method: str | None = None, preprocessing: Any = CIFAR10, size: int = 32) -> Calibration:
    return load_calibration(source, method, preprocessing, height=size, width=size)


def test_a_folder_a_name_and_an_array_give_the_same_images() -> None:
    folder = packaged_images()["cifar10"]
    from_folder, from_name = _load(folder), _load("cifar10", "minmax")
    assert len(from_folder.images) == ADVISED_IMAGES
    np.testing.assert_array_equal(from_folder.images, from_name.images)
    from_array = _load(from_folder.images, preprocessing=None)
    assert from_array.to_dict() == from_folder.to_dict() == {**from_name.to_dict(), "method": "entropy"}
    assert from_folder.warnings == ()


def test_few_images_are_used_with_a_warning_and_fewer_are_refused() -> None:
    (warning,) = _load(_pictures()[:MIN_IMAGES]).warnings
    assert f"{MIN_IMAGES} images, fewer than the {ADVISED_IMAGES} advised" in warning
    with pytest.raises(InputError, match=f"holds {MIN_IMAGES - 1} images, too few.*at least {MIN_IMAGES}"):
        _load(_pictures()[: MIN_IMAGES - 1])


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        (np.zeros((64, 3, 16, 16), np.float32), {}, r"shape \(64, 3, 16, 16\).*give finite float32 \(N, 3, 32, 32\)"),
        (np.zeros((64, 3, 32, 32)), {}, "dtype float64"),
        (np.full((64, 3, 32, 32), np.nan, np.float32), {}, "give finite"),
        ("cifar10", {"preprocessing": None}, "cannot be prepared"),
        ("cifar10", {"method": "median"}, "unknown calibration method 'median'.*entropy, minmax, percentile"),
        ("cifar100", {}, "cifar100 is not a folder.*cifar10"),
    ],
)
def test_images_that_cannot_be_used_are_one_sentence(source: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        _load(source, **options)
    assert "\n" not in str(caught.value)


def test_a_request_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    check_request("int8", "cifar10", None)
    check_request("fp16", None, None)
    for arguments, sentence in [
        (("int8", None, None), "int8 measures its ranges on images, and none are given.*--calibration DIR"),
        (("fp16", "cifar10", None), "--calibration is for int8 files only.*fp16"),
        (("fp32", None, "entropy"), "--calibration-method is for int8 files only"),
        (("int8", tmp_path / "none", None), "none is not a folder"),
    ]:
        with pytest.raises(InputError, match=sentence):
            check_request(*arguments)  # type: ignore[arg-type]
