"""The rules on small graphs; `test_sabotage` tries them on exported files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper, numpy_helper

from aps_deploy.runtimes import ModelMetadata, SelectionTensors
from aps_deploy.verification.instrument import load_inlined
from aps_deploy.verification.static_check import Finding, check_graph
from tests.verification.conftest import FORMS

SELECTING = ModelMetadata(
    architecture="resnet20_aps3",
    arguments={"selection": "exact", "padding": "circular"},
    selection="exact",
    criterion="l2",
    selection_layers=("layer2.0.pool",),
    selections=(SelectionTensors("layer2.0.pool", "index", "scores"),),
)
UNKNOWN = ModelMetadata()


def _model(
    nodes: list[onnx.NodeProto],
    outputs: dict[str, int],
    *,
    inputs: dict[str, list[int | str]] | None = None,
    constants: dict[str, np.ndarray] | None = None,
    input_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    shapes = inputs or {"x": ["n", 8, 6, 6]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, input_type, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)])


def _selecting(network_type: int = TensorProto.FLOAT, energy_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return Relu -> energies -> integer sums -> comparison of two scores, in the given types."""
    nodes = [
        helper.make_node("Relu", ["x"], ["map"]),
        helper.make_node("Cast", ["map"], ["wide"], to=energy_type, name="widen"),
        helper.make_node("ReduceSumSquare", ["wide", "channels"], ["energy"], keepdims=1, name="energy"),
        helper.make_node("Cast", ["energy"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("SpaceToDepth", ["single"], ["parts"], blocksize=2),
        helper.make_node("Round", ["parts"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["q"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["q", "positions"], ["scores"], keepdims=0),
        helper.make_node("Split", ["scores"], ["s0", "s1", "s2", "s3"], axis=1, num_outputs=4),
        helper.make_node("Greater", ["s1", "s0"], ["better"]),
        helper.make_node("Where", ["better", "one", "zero"], ["column"]),
        helper.make_node("Squeeze", ["column", "channels"], ["index"]),
        helper.make_node("Unsqueeze", ["index", "channels"], ["polyphase_indices"]),
        # An integer sum stands for exact pooling here.
        helper.make_node("ReduceSum", ["q", "positions"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["logits"], to=TensorProto.FLOAT),
    ]
    constants = {
        "channels": np.array([1], np.int64),
        "positions": np.array([2, 3], np.int64),
        "one": np.array([[1]], np.int64),
        "zero": np.array([[0]], np.int64),
    }
    return _model(
        nodes,
        {"logits": TensorProto.FLOAT, "polyphase_indices": TensorProto.INT64},
        constants=constants,
        input_type=network_type,
    )


def _check(model: onnx.ModelProto, metadata: ModelMetadata) -> tuple[Finding, ...]:
    """Check a file that is what it says."""
    return check_graph(model, metadata, metadata)


def _rules(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.rule, finding.node) for finding in findings]


@pytest.mark.parametrize("form", FORMS)
def test_exported_files_are_clean(form: str, exports: dict[str, Path]) -> None:
    metadata = ModelMetadata.from_onnx(exports[form])
    assert len(metadata.selections) == 2
    assert _check(load_inlined(exports[form]), metadata) == ()


def test_a_float32_selection_is_clean() -> None:
    assert _check(_selecting(), SELECTING) == ()


def _by_way_of_int32(*between: onnx.NodeProto) -> onnx.ModelProto:
    """Return the selection with its numbers cast to int32, as ``digit``, and then ``last`` to int64."""
    model = _selecting()
    (quantise,) = (node for node in model.graph.node if list(node.output) == ["q"])
    quantise.input[0] = between[-1].output[0] if between else "digit"
    position = list(model.graph.node).index(quantise)
    narrow = helper.make_node("Cast", ["rounded"], ["digit"], to=TensorProto.INT32, name="narrow")
    for node in reversed((narrow, *between)):
        model.graph.node.insert(position, node)
    return model


def test_int32_on_the_way_to_int64_is_clean() -> None:
    assert _check(_by_way_of_int32(), SELECTING) == ()


def test_arithmetic_in_int32_is_found() -> None:
    double = helper.make_node("Add", ["digit", "digit"], ["doubled"], name="double")
    rules = _rules(_check(_by_way_of_int32(double), SELECTING))
    assert ("selection-precision", "double") in rules  # twice a number of 31 bits may overflow


@pytest.mark.parametrize("narrow", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_half_precision_network_with_a_float32_selection_is_clean(narrow: int) -> None:
    assert _check(_selecting(network_type=narrow), SELECTING) == ()


@pytest.mark.parametrize("narrow", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("network", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_half_precision_energies_are_found(network: int, narrow: int) -> None:
    rules = _rules(_check(_selecting(network_type=network, energy_type=narrow), SELECTING))
    assert ("selection-precision", "energy") in rules
    assert ("selection-precision", "widen") in rules


def test_a_selection_is_checked_without_metadata_too() -> None:
    rules = _rules(_check(_selecting(energy_type=TensorProto.FLOAT16), UNKNOWN))
    assert ("selection-precision", "energy") in rules


def test_quantised_energies_are_found() -> None:
    model = _selecting()
    quantise = helper.make_node("QuantizeLinear", ["single", "scale", "point"], ["byte"], name="to_byte")
    restore = helper.make_node("DequantizeLinear", ["byte", "scale", "point"], ["single8"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "point"))
    model.graph.node[4].input[0] = "single8"
    model.graph.node.insert(4, restore)
    model.graph.node.insert(4, quantise)
    findings = _check(model, SELECTING)
    assert any(finding.rule == "selection-precision" for finding in findings)


def test_an_energy_as_a_convolution_with_ones_is_followed() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["map"]),
        helper.make_node("Mul", ["map", "map"], ["square"], name="square"),
        helper.make_node("Conv", ["square", "ones"], ["energy"]),
        helper.make_node("ReduceMax", ["energy", "axes"], ["peak"]),
        helper.make_node("Greater", ["peak", "bound"], ["large"]),
        helper.make_node("Where", ["large", "map", "map"], ["y"]),
    ]
    constants = {
        "ones": np.ones((1, 8, 1, 1), np.float16),
        "axes": np.array([1, 2, 3], np.int64),
        "bound": np.array(1, np.float16),
    }
    model = _model(nodes, {"y": TensorProto.FLOAT16}, constants=constants, input_type=TensorProto.FLOAT16)
    assert ("selection-precision", "square") in _rules(_check(model, UNKNOWN))


def test_a_residual_sum_ends_the_selection() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["sum"], name="residual"),
        helper.make_node("Cast", ["sum"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSumSquare", ["wide", "axes"], ["energy"], keepdims=0),
        helper.make_node("Greater", ["energy", "bound"], ["large"]),
        helper.make_node("Where", ["large", "bound", "bound"], ["y"]),
    ]
    constants = {"axes": np.array([1], np.int64), "bound": np.array(1, np.float32)}
    model = _model(nodes, {"y": TensorProto.FLOAT}, constants=constants, input_type=TensorProto.FLOAT16)
    assert _check(model, UNKNOWN) == ()


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_unordered_ties_are_found(op_type: str) -> None:
    model = _selecting()
    squeeze = next(node for node in model.graph.node if "index" in node.output)
    squeeze.CopyFrom(helper.make_node(op_type, ["scores"], ["index"], axis=1, keepdims=0, name="best"))
    assert ("tie-order", "best") in _rules(_check(model, SELECTING))


def test_a_custom_operator_without_a_body_cannot_be_checked() -> None:
    model = _model([helper.make_node("Choose", ["x"], ["y"], domain="elsewhere")], {"y": TensorProto.FLOAT})
    assert [finding.rule for finding in _check(model, UNKNOWN)] == ["opaque"]


def test_a_branch_cannot_be_checked() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch, name="branch")
    model = _model([node], {"y": TensorProto.FLOAT}, constants={"yes": np.array(True)})
    assert _rules(_check(model, UNKNOWN)) == [("opaque", "branch")]


def test_stale_types_in_the_file_neither_hide_nor_hinder() -> None:
    model = _selecting(energy_type=TensorProto.FLOAT16)
    for name in ("wide", "energy", "scores"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3]))
    assert ("selection-precision", "energy") in _rules(_check(model, SELECTING))


def test_unknown_types_count_as_a_fault() -> None:
    model = _selecting()
    # An inconsistent graph, for which no types can be inferred.
    model.graph.node[4].input[0] = "missing"
    assert any(finding.rule == "selection-precision" for finding in _check(model, SELECTING))


def test_a_selection_that_is_not_in_the_graph_is_found() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {"y": TensorProto.FLOAT})
    rules = _rules(_check(model, SELECTING))
    assert ("selection-missing", "index") in rules
    assert ("selection-missing", "scores") in rules


def test_the_promise_counts_and_not_what_the_file_declares() -> None:
    model = _selecting()
    total = next(node for node in model.graph.node if "scores" in node.output)
    total.input[0] = "parts"  # a float sum over positions
    arguments = {"selection": "float", "padding": "zeros"}
    says_float = dataclasses.replace(SELECTING, selection="float", arguments=arguments)
    assert ("selection-sum", "scores") not in _rules(check_graph(model, says_float, says_float))
    assert ("selection-sum", "scores") in _rules(check_graph(model, says_float, SELECTING))
    padded = _padded("constant", BORDER, [0] * 4)
    plain_zeros = ModelMetadata(architecture="resnet20", arguments={"padding": "zeros"})
    assert _rules(check_graph(padded, plain_zeros, PLAIN)) == [("padding", "pad")]
    assert check_graph(padded, PLAIN, plain_zeros) == ()


@pytest.mark.parametrize("selections", [(), (SelectionTensors("layer9.0.pool", "index", "scores"),)])
def test_every_promised_selection_must_be_named(selections: tuple[SelectionTensors, ...]) -> None:
    declared = dataclasses.replace(SELECTING, selections=selections)
    assert ("selection-missing", "metadata") in _rules(check_graph(_selecting(), declared, SELECTING))


def _padded(mode: str, pads: list[int], convolution_pads: list[int]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode=mode, name="pad"),
        helper.make_node("Conv", ["padded", "w"], ["map"], pads=convolution_pads, name="conv"),
        helper.make_node("Cast", ["map"], ["q"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["q", "axes"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["logits"], to=TensorProto.FLOAT),
    ]
    constants = {
        "pads": np.array(pads, np.int64),
        "w": np.ones((4, 8, 3, 3), np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    return _model(nodes, {"logits": TensorProto.FLOAT}, constants=constants)


BORDER = [0, 0, 1, 1, 0, 0, 1, 1]
NONE = [0] * 8
PLAIN = ModelMetadata(architecture="resnet20", arguments={"padding": "circular"})


@pytest.mark.parametrize(
    ("mode", "pads", "convolution_pads", "expected"),
    [
        ("wrap", BORDER, [0] * 4, []),
        ("constant", BORDER, [0] * 4, [("padding", "pad")]),
        ("reflect", BORDER, [0] * 4, [("padding", "pad")]),
        ("edge", BORDER, [0] * 4, [("padding", "pad")]),
        ("constant", NONE, [0] * 4, []),
        ("wrap", BORDER, [1, 1, 1, 1], [("padding", "conv")]),
        ("wrap", BORDER, [0, 0, 1, 0], [("padding", "conv")]),
    ],
)
def test_padding(mode: str, pads: list[int], convolution_pads: list[int], expected: list[tuple[str, str]]) -> None:
    model = _padded(mode, pads, convolution_pads)
    assert _rules(_check(model, PLAIN)) == expected
    zeros = ModelMetadata(architecture="resnet20", arguments={"padding": "zeros"})
    assert _check(model, zeros) == ()
    assert _check(model, UNKNOWN) == ()


@pytest.mark.parametrize(
    ("reduced_axes", "is_positional"), [([2, 3], False), ([-1, -2], False), ([1, 2], True), ([3], True)]
)
def test_channels_behind_a_pooling_may_be_padded(reduced_axes: list[int], is_positional: bool) -> None:
    """A convolution over channels, as ECA's; where an axis of positions is left, it is one over positions."""
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["q", "axes"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["pooled"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pooled", "row"], ["values"], allowzero=0),
        helper.make_node("Conv", ["values", "w"], ["logits"], pads=[1, 1], name="conv"),
    ]
    constants = {
        "axes": np.array(reduced_axes, np.int64),
        "row": np.array([0, 1, -1], np.int64),
        "w": np.ones((1, 1, 3), np.float32),
    }
    model = _model(nodes, {"logits": TensorProto.FLOAT}, constants=constants)
    assert _rules(_check(model, PLAIN)) == ([("padding", "conv")] if is_positional else [])


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (helper.make_node("ReduceMean", ["x", "map"], ["y"], keepdims=0, name="pool"), True),
        (helper.make_node("ReduceMean", ["x", "minus"], ["y"], keepdims=0, name="pool"), True),
        (helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0, name="pool"), True),
        (helper.make_node("GlobalAveragePool", ["x"], ["y"], name="pool"), True),
        (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[6, 6], name="pool"), True),
        (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], name="pool"), False),
        (helper.make_node("ReduceSum", ["x", "channels"], ["y"], keepdims=0, name="pool"), False),
    ],
)
def test_float_pooling(node: onnx.NodeProto, found: bool) -> None:
    integer = [
        helper.make_node("Cast", ["y"], ["q"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["q", "none"], ["total"], keepdims=0, noop_with_empty_axes=1),
        helper.make_node("Cast", ["total"], ["logits"], to=TensorProto.FLOAT),
    ]
    constants = {
        "map": np.array([2, 3], np.int64),
        "minus": np.array([-1, -2], np.int64),
        "channels": np.array([1], np.int64),
        "none": np.array([], np.int64),
    }
    model = _model([node, *integer], {"logits": TensorProto.FLOAT}, constants=constants)
    assert (("pooling", "pool") in _rules(_check(model, PLAIN))) == found
    assert _check(model, UNKNOWN) == ()
