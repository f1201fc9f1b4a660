"""A selection as the three operators of plugins, in a model of its own."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from aps_deploy.export.bodies import plugin_function
from aps_deploy.plugins.tensorrt.operators import PluginOperator, operators_of

OPSET = 20


def three_operators(criterion: str, stride: int) -> tuple[PluginOperator, PluginOperator, PluginOperator]:
    """The operators of a selection that has them."""
    found = operators_of(criterion, stride)
    assert found is not None
    return found


def selection_model(criterion: str, stride: int, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """X -> Y, I and the scores (N, s*s): what the parts of S add up to, whoever makes how many."""
    energy, score, select = three_operators(criterion, stride)
    attributes: dict[str, Any] = {"plugin_namespace": "aps", "plugin_version": "1", "stride": stride}
    nodes = [
        helper.make_node(energy.op_type, ["X"], ["E", "M"], domain="aps", **attributes),
        helper.make_node(score.op_type, ["E", "M"], ["S"], domain="aps", **attributes),
        helper.make_node(select.op_type, ["X", "S"], ["Y", "I"], domain="aps", **attributes),
        helper.make_node("Constant", [], ["parts"], value_ints=[1]),
        helper.make_node("ReduceSum", ["S", "parts"], ["scores"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "selection",
        [helper.make_tensor_value_info("X", dtype, ["N", "C", "H", "W"])],
        [
            helper.make_tensor_value_info("Y", dtype, ["N", "C", "h", "w"]),
            helper.make_tensor_value_info("I", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("scores", TensorProto.INT64, ["N", stride**2]),
        ],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("aps", 1)]
    functions = [plugin_function(operator, opset=OPSET) for operator in (energy, score, select)]
    model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
