"""The precision of layers, on small graphs whose answer is plain; `test_precision_proof` tries exported files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from aps_deploy.verification.layer_precision import (
    count_precisions,
    faults_against,
    file_precision,
    judged_precision,
    layer_precisions,
    other_layers,
)

CONSTANTS = {
    "w": np.ones((4, 8, 3, 3), np.float32),
    "w8": np.ones((4, 8, 3, 3), np.int8),
    "w16": np.ones((4, 8, 3, 3), np.int16),
    "head": np.ones((4, 5), np.float32),
    "scale": np.array(0.1, np.float32),
    "zero8": np.array(0, np.int8),
    "zero16": np.array(0, np.int16),
}


def _model(nodes: list[NodeProto], output: str = "logits") -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 6, 6])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def _pair(value: str, bits: int = 8) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear of ``value``; the result is ``<value>_back``."""
    return [
        helper.make_node("QuantizeLinear", [value, "scale", f"zero{bits}"], [f"{value}_q"]),
        helper.make_node("DequantizeLinear", [f"{value}_q", "scale", f"zero{bits}"], [f"{value}_back"]),
    ]


def _weight(bits: int = 8) -> NodeProto:
    return helper.make_node("DequantizeLinear", [f"w{bits}", "scale", f"zero{bits}"], ["w_back"])


def _conv(value: str, weight: str, output: str = "logits") -> NodeProto:
    return helper.make_node("Conv", [value, weight], [output], name=f"conv_{output}")


def _found(nodes: list[NodeProto], output: str = "logits") -> list[tuple[str, str]]:
    return [(layer.layer, layer.precision) for layer in layer_precisions(_model(nodes, output))]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16"),
     (TensorProto.DOUBLE, "fp64")],
)  # fmt: skip
def test_the_precision_of_a_layer_is_that_of_its_operands(kind: int, name: str) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("Cast", ["w"], ["weight"], to=kind),
        _conv("narrow", "weight", "map"),
        helper.make_node("Cast", ["map"], ["logits"], to=TensorProto.FLOAT),
    ]
    assert _found(nodes) == [("conv_map", name)]


def test_a_layer_is_int8_where_both_operands_come_from_bytes() -> None:
    assert _found([*_pair("x"), _weight(), _conv("x_back", "w_back")]) == [("conv_logits", "int8")]


@pytest.mark.parametrize(
    ("nodes", "part"),
    [
        ([_weight(), _conv("x", "w_back")], "the weights"),
        ([*_pair("x"), _conv("x_back", "w")], "the input"),
    ],
)
def test_one_quantised_operand_makes_no_int8_layer(nodes: list[NodeProto], part: str) -> None:
    (layer,) = layer_precisions(_model(nodes))
    assert layer.precision == "fp32"
    assert f"of which only {part} is 8-bit" in layer.evidence


def test_wider_integers_make_no_int8_layer() -> None:
    assert _found([*_pair("x", 16), _weight(16), _conv("x_back", "w_back")]) == [("conv_logits", "fp32")]


def test_arithmetic_between_pair_and_layer_makes_no_int8_layer() -> None:
    between = helper.make_node("Relu", ["x_back"], ["positive"])
    assert _found([*_pair("x"), between, _weight(), _conv("positive", "w_back")]) == [("conv_logits", "fp32")]
    moved = helper.make_node("Identity", ["x_back"], ["same"])
    assert _found([*_pair("x"), moved, _weight(), _conv("same", "w_back")]) == [("conv_logits", "int8")]


def test_integer_operators_are_int8() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero8"], ["x_q"]),
        helper.make_node("ConvInteger", ["x_q", "w8"], ["sums"], name="integers"),
        helper.make_node("Cast", ["sums"], ["logits"], to=TensorProto.FLOAT),
    ]
    assert _found(nodes) == [("integers", "int8")]


@pytest.mark.parametrize(
    "decoration",
    [
        [*_pair("logits")],  # behind the logits
        [*_pair("x"), _weight(), _conv("x_back", "w_back", "unused")],  # a whole layer that nobody reads
    ],
)
def test_pairs_and_layers_that_change_no_logit_do_not_count(decoration: list[NodeProto]) -> None:
    layers = layer_precisions(_model([_conv("x", "w"), *decoration]))
    assert [layer.layer for layer in layers] == ["conv_logits"]
    assert file_precision(layers) == "fp32"


def test_a_layer_that_only_a_condition_reads_is_none() -> None:
    nodes = [
        _conv("x", "w", "energy"),
        helper.make_node("Greater", ["energy", "scale"], ["large"]),
        _conv("x", "w", "map"),
        helper.make_node("Where", ["large", "map", "scale"], ["logits"]),
    ]
    assert _found(nodes) == [("conv_map", "fp32")]


def _with_head(*nodes: NodeProto, features: str) -> list[NodeProto]:
    return [
        *nodes,
        helper.make_node("GlobalAveragePool", [features], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], name="head"),
    ]


def test_the_classifier_may_stay_in_float32_and_no_other_layer() -> None:
    layers = layer_precisions(
        _model(_with_head(*_pair("x"), _weight(), _conv("x_back", "w_back", "map"), features="map"))
    )
    assert [(layer.layer, layer.precision, layer.is_classifier) for layer in layers] == [
        ("conv_map", "int8", False),
        ("head", "fp32", True),
    ]
    assert file_precision(layers) == "int8"
    assert other_layers(layers, "int8") == ()
    assert [layer.layer for layer in other_layers(layers, "fp32")] == ["conv_map"]
    assert count_precisions(layers) == {"fp32": 1, "int8": 1}
    # A convolution at the end is a layer like any other.
    layers = layer_precisions(_model([*_pair("x"), _weight(), _conv("x_back", "w_back", "logits")]))
    assert not layers[0].is_classifier


def test_one_layer_of_another_precision_makes_the_file_mixed() -> None:
    nodes = [*_pair("x"), _weight(), _conv("x_back", "w_back", "first"), _conv("x", "w", "second"),
             helper.make_node("Add", ["first", "second"], ["map"])]  # fmt: skip
    layers = layer_precisions(_model(_with_head(*nodes, features="map")))
    assert file_precision(layers) == "mixed"
    assert [layer.layer for layer in other_layers(layers, "int8")] == ["conv_second"]
    assert faults_against(layers, "int8") == (1, "conv_second computes in fp32 (fp32 operands)")
    assert faults_against(layers, "fp16", shown=1)[1].endswith("; and 1 more")


def test_a_graph_that_only_quantises_has_no_precision_but_float32() -> None:
    layers = layer_precisions(_model(_pair("x"), output="x_back"))
    assert layers == ()
    assert file_precision(layers) == "fp32"
    assert faults_against(layers, "int8") == (1, "the graph has no layer that multiplies")
    assert faults_against(layers, "fp32") == (0, "")


def test_unknown_types_are_no_known_precision() -> None:
    assert _found([_conv("missing", "w")]) == [("conv_logits", "unknown")]


@pytest.mark.parametrize(
    ("declared", "kind", "judged"),
    [
        (None, "fp16", "fp16"),
        ("fp32", "fp16", "fp32"),  # declares the stricter
        ("int8", "fp32", "fp32"),  # computes in the stricter
        ("int8", "int8", "int8"),
        ("fp16", "bf16", "fp16"),
        (None, "fp64", "fp32"),
        ("fp8", "fp32", "fp8"),  # refused by the table of gates
    ],
)
def test_a_file_is_judged_by_the_stricter_of_claim_and_content(declared: str | None, kind: str, judged: str) -> None:
    layers = layer_precisions(_model([_conv("x", "w")]))
    changed = [type(layer)(layer.layer, layer.op_type, kind, False, "") for layer in layers]
    assert judged_precision(declared, changed) == judged
