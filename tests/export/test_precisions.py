"""Half precision: what is narrow, what stays float32, and that not a bit moves with the image."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.calibration import Calibration
from aps_deploy.export.forms import POLYPHASE_FORMS, PolyphaseForm, selection_values
from aps_deploy.export.onnx_export import finish_onnx, in_precision, trace_onnx
from aps_deploy.export.precisions import in_half_precision, resolve_opset
from aps_deploy.models import ResNet
from aps_deploy.runtimes import ModelMetadata, SelectionTensors
from aps_deploy.verification.layer_precision import file_precision, layer_precisions
from aps_deploy.verification.static_check import check_graph
from tests.export.support import ort_session, run, short_model, traced

Half = Literal["fp16", "bf16"]
HALVES: tuple[Half, ...] = ("fp16", "bf16")
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# The gates of the design for each precision: mean and largest error (absolute and relative), cosine. They are meant for
# logits of order one; those of untrained networks are larger, so the mean error is taken in units of their mean.
GATES = {"fp16": (1e-3, 1e-2, 0.999), "bf16": (1e-2, 5e-2, 0.995)}


@functools.cache
def _small() -> tuple[ResNet, onnx.ModelProto]:
    model = short_model("resnet20_aps3")
    return model, trace_onnx(model, height=8, width=8, opset=22)


def _images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((count, 3, size, size)).astype(np.float32)


def _element_types(proto: onnx.ModelProto) -> dict[str, int]:
    values = [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


def _assert_within_the_gates(model: ResNet, images: np.ndarray, outputs: list[np.ndarray], precision: str) -> None:
    logits, indices = outputs
    reference = model.trace_selections(torch.from_numpy(images), forced=torch.from_numpy(indices))
    expected = reference.logits.numpy()
    mean, largest, cosine = GATES[precision]
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).mean() <= mean * max(1.0, np.abs(expected).mean())
    np.testing.assert_allclose(logits, expected, atol=largest, rtol=largest)
    norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((logits * expected).sum(axis=1) / norms).min() >= cosine
    # A choice may differ from float32's on the same map only where the two best are as close as the rounding.
    differ = reference.chosen.numpy() != indices
    assert (reference.margins.numpy()[differ] < largest).all()


@pytest.mark.parametrize("precision", HALVES)
def test_the_network_is_narrow_and_its_islands_are_not(precision: Half) -> None:
    proto = finish_onnx(in_half_precision(_small()[1], precision), "where")
    onnx.checker.check_model(proto, full_check=True)
    kinds, narrow = _element_types(proto), TYPES[precision]
    float32_operators = ("ReduceSumSquare", "Abs", "Round", "Mul", "Div", "Gemm")
    expected = {name: {TensorProto.FLOAT} for name in float32_operators} | {
        name: {narrow} for name in ("Conv", "Relu", "Add")
    }
    expected |= {"ReduceSum": {TensorProto.INT64}, "Greater": {TensorProto.INT64, TensorProto.BOOL}}
    seen = set()
    for node in proto.graph.node:
        if node.op_type in expected and "taken_" not in node.name:  # which divides an index
            seen.add(node.op_type)
            operands = {kinds[name] for name in (*node.input, *node.output)}
            if node.op_type == "ReduceSumSquare":
                operands.discard(TensorProto.INT64)  # the axes
            assert operands == expected[node.op_type], node.name
    assert seen == set(expected)
    assert [kinds[value.name] for value in proto.graph.input] == [TensorProto.FLOAT]
    assert [kinds[value.name] for value in proto.graph.output] == [TensorProto.FLOAT, TensorProto.INT64]


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_rounded_once_from_the_folded_float32_ones(precision: Half) -> None:
    _, graph = _small()
    before = {tensor.name: tensor for tensor in graph.graph.initializer}
    half = in_half_precision(graph, precision)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    rounded = set()
    for tensor in half.graph.initializer:
        if tensor.data_type == TYPES[precision]:
            values = torch.from_numpy(numpy_helper.to_array(before[tensor.name]).copy())
            ours = numpy_helper.to_array(tensor).astype(np.float32)
            np.testing.assert_array_equal(ours, values.to(dtype).float().numpy())
            rounded.add(tensor.name)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert rounded == {name for node in convolutions for name in node.input[1:]}
    # The traced graph is as it was.
    assert all(tensor.data_type != TYPES[precision] for tensor in graph.graph.initializer)


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
def test_fp16_logits_do_not_change_by_a_bit_in_onnxruntime(form: PolyphaseForm) -> None:
    model, graph = traced("resnet20_aps3", 32, 32)
    session = ort_session(finish_onnx(in_half_precision(graph, "fp16"), form))
    images = _images(4, 32)
    outputs = session.run(None, {"images": images})
    _assert_within_the_gates(model, images, outputs, "fp16")
    shifts = np.random.default_rng(7).integers(0, 32, (20 if form == "where" else 5, 2))
    for shift in shifts:
        moved = np.roll(images, tuple(shift), axis=(2, 3))
        assert session.run(["logits"], {"images": moved})[0].tobytes() == outputs[0].tobytes()
    alone = np.concatenate([session.run(["logits"], {"images": image[None]})[0] for image in images])
    assert alone.tobytes() == outputs[0].tobytes()


@pytest.mark.parametrize("precision", HALVES)
def test_the_reference_evaluator_agrees_and_does_not_change_by_a_bit(precision: Half) -> None:
    model, graph = _small()
    images = _images(3, 8)
    found = []
    for form in POLYPHASE_FORMS:
        proto = finish_onnx(in_half_precision(graph, precision), form)
        outputs = run(proto, images, "reference")
        _assert_within_the_gates(model, images, outputs, precision)
        found.append(outputs[0].tobytes())
    assert len(set(found)) == 1
    for shift in ((1, 0), (3, 6), (5, 7)):
        moved = run(proto, np.roll(images, shift, axis=(2, 3)), "reference")
        assert moved[0].tobytes() == found[0]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18_aps3", 64),  # blurs before it selects, after a max pool; at 32 its last maps tie exactly
        pytest.param("resnet50_aps2", 64, marks=pytest.mark.slow),
        pytest.param("cifar_resnet50_lpf1", 16, marks=pytest.mark.slow),
        pytest.param("resnet18", 64, marks=pytest.mark.slow),
    ],
)
def test_other_architectures_have_every_precision(name: str, size: int) -> None:
    model = short_model(name)
    graph = trace_onnx(model, height=size, width=size, opset=20)
    images = _images(40, size)
    promised = ModelMetadata.from_model(model)
    precisions: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")
    for precision in precisions:
        proto = finish_onnx(in_precision(graph, precision, Calibration(images, "minmax")), "where")
        onnx.checker.check_model(proto, full_check=True)
        assert file_precision(layer_precisions(proto)) == precision
        pairs = zip(model.selection_layers, selection_values(proto) if model.selection_layers else [], strict=True)
        selections = tuple(SelectionTensors(layer, *values) for layer, values in pairs)
        assert check_graph(proto, dataclasses.replace(promised, selections=selections), promised) == ()
        session = ort_session(proto)
        logits = session.run(["logits"], {"images": images[:4]})[0]
        # A strided network keeps its bits where the shift is a multiple of its stride.
        for shift in ((1, 0), (5, 14), (16, 3)) if model.selection_layers else ((0, model.spec.total_stride),):
            moved = session.run(["logits"], {"images": np.roll(images[:4], shift, axis=(2, 3))})[0]
            assert moved.tobytes() == logits.tobytes()


def test_bf16_logits_do_not_change_by_a_bit_in_pytorch() -> None:
    model = copy.deepcopy(traced("resnet20_aps3", 32, 32)[0]).bfloat16()
    images = torch.from_numpy(_images(2, 32)).bfloat16()
    with torch.inference_mode():
        logits = model(images)
        for shift in ((1, 2), (17, 30), (4, 0), (9, 9)):
            assert torch.equal(model(images.roll(shift, dims=(2, 3))), logits)


def test_a_weight_that_half_precision_cannot_hold_is_one_sentence() -> None:
    graph = copy.deepcopy(_small()[1])
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "layer2.0.conv1.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ApsError, match=r"layer2\.0\.conv1\.weight reach 1e\+05.*fp16; export in bf16") as caught:
        in_half_precision(graph, "fp16")
    assert "\n" not in str(caught.value)
    in_half_precision(graph, "bf16")  # holds it


def test_operator_sets_that_a_precision_cannot_have() -> None:
    assert (resolve_opset(None, "fp16"), resolve_opset(None, "bf16")) == (20, 22)
    assert resolve_opset(23, "bf16") == 23
    with pytest.raises(InputError, match=r"opset 20 is not available for bf16.*from 22 on.*use 22"):
        resolve_opset(20, "bf16")
    with pytest.raises(InputError, match=r"opset 21 is not available for int8.*ONNX Runtime.*use 20"):
        resolve_opset(21, "int8")
