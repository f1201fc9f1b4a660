"""What is said of 32-bit whole numbers: bounds that no input can exceed, and no sum taken for exact that can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aps_deploy.verification.graph import GraphView
from aps_deploy.verification.integer_bounds import INT32_MAX, Int32Bounds

Shape = Sequence[int | str]


def _node(op_type: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], **attributes)


def _model(nodes: list[onnx.NodeProto], shape: Shape = ("n", 4, 8, 16)) -> onnx.ModelProto:
    constants: dict[str, np.ndarray] = {
        "map": np.array([2, 3], np.int64),
        "first": np.array([0, 2], np.int64),
        **{f"c{value}": np.array(value, np.int32) for value in (3, 10, 1024, 2**20)},
        "several": np.array([2, 1024], np.int32),
        "shape": np.array([-1, 2], np.int64),
    }
    graph = helper.make_graph(
        [_node("Cast", ["x"], "q", to=TensorProto.INT32), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.INT32, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _largest(nodes: list[onnx.NodeProto], shape: Shape = ("n", 4, 8, 16)) -> int | None:
    return Int32Bounds(GraphView(_model(nodes, shape))).largest(nodes[-1].output[0])


HIGH = [_node("Div", ["q", "c1024"], "high")]
LOW = [*HIGH, _node("Mul", ["high", "c1024"], "whole"), _node("Sub", ["q", "whole"], "low")]
CASES: dict[str, tuple[list[onnx.NodeProto], int | None]] = {
    "a number that is cast": ([_node("Identity", ["q"], "y")], INT32_MAX),
    "what a division keeps": (HIGH, 2**21),
    "what a division leaves": (LOW, 1023),
    "a multiple": (LOW[:2], INT32_MAX),
    "Mod": ([_node("Mod", ["q", "c1024"], "y")], 1023),
    "a sum of low limbs": ([*LOW, _node("ReduceSum", ["low", "map"], "y", keepdims=0)], 1023 * 128),
    "a sum of both": (
        [*LOW, _node("Concat", ["high", "low"], "all", axis=1), _node("ReduceSum", ["all", "map"], "y")], 2**21 * 128
    ),
    "a sum of whole numbers": ([_node("ReduceSum", ["q", "map"], "y")], INT32_MAX * 128),
    "a sum over an open axis": ([*LOW, _node("ReduceSum", ["low", "first"], "y")], None),
    "two parts put together": (
        [*LOW, _node("Mul", ["low", "c1024"], "placed"), _node("Add", ["placed", "low"], "y")], 1023 * 1025
    ),
    "handed on": ([*LOW, _node("Transpose", ["low"], "y")], 1023),
    "divided by several numbers": (
        [_node("Reshape", ["q", "shape"], "pairs"), _node("Div", ["pairs", "several"], "y")], None
    ),
    "the product of two": ([*LOW, _node("Mul", ["low", "low"], "y")], 1023**2),
    "another multiple": ([*HIGH, _node("Mul", ["high", "c10"], "y")], 2**21 * 10),
    "not what a division leaves": ([*LOW[:2], _node("Sub", ["high", "whole"], "y")], 2**21 + INT32_MAX),
    "the larger of two": ([*LOW, _node("Max", ["low", "c3"], "y")], 1023),
    "an operator of its own": ([_node("CumSum", ["q", "c3"], "y")], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bounds(name: str) -> None:
    nodes, expected = CASES[name]
    assert _largest(nodes) == expected


@pytest.mark.parametrize("name", [name for name, (_, bound) in CASES.items() if bound is not None])
def test_no_input_exceeds_them(name: str) -> None:
    """What the operators compute of the largest and the smallest numbers, added up without a limit."""
    nodes, bound = CASES[name]
    assert bound is not None
    model = _model([node for node in nodes if node.op_type != "ReduceSum"] or [_node("Identity", ["q"], "y")])
    extremes = np.array([2**31 - 128, -(2**31) + 128, 2**30, 2**30 - 64, 1023, -1024, 0], np.float32)
    x = np.resize(extremes, (1, 4, 8, 16)).astype(np.float32)
    last = ReferenceEvaluator(model).run(None, {"x": x})[0].astype(np.int64)
    if nodes[-1].op_type == "ReduceSum":
        assert abs(np.broadcast_to(np.abs(last).max(), (8, 16)).sum()) <= bound
    elif bound <= INT32_MAX:
        assert np.abs(last).max() <= bound


def test_only_what_may_exceed_int32_overflows() -> None:
    nodes = [*LOW, _node("ReduceSum", ["q", "map"], "loose"), _node("ReduceSum", ["low", "map"], "tight"),
             _node("Add", ["loose", "tight"], "y")]  # fmt: skip
    graph = GraphView(_model(nodes))
    bounds = Int32Bounds(graph)
    assert {node.output[0] for node in graph.nodes if bounds.overflows(node)} == {"loose", "y"}
