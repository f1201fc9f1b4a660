from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aps_deploy.errors import InputError
from aps_deploy.export.circular_padding import resolve_circular_padding, with_concatenations
from tests.export.support import ort_session


def _padding(pads: list[int], axes: list[int] | None = None, *, constant_node: bool = False) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(pads, np.int64), "pads")]
    inputs = ["x", "pads"]
    if axes is not None:
        tensors.append(numpy_helper.from_array(np.asarray(axes, np.int64), "axes"))
        inputs += ["", "axes"]
    nodes = [helper.make_node("Pad", inputs, ["y"], name="pad", mode="wrap")]
    if constant_node:
        nodes.insert(0, helper.make_node("Constant", [], ["pads"], value=tensors.pop(0)))
    graph = helper.make_graph(
        nodes,
        "padding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 5, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "H", "W"])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("constant_node", [False, True])
@pytest.mark.parametrize(
    ("pads", "axes"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], None),
        ([0, 0, 3, 0, 0, 0, 0, 2], None),
        ([0, 0, 0, 0, 0, 0, 1, 1], None),
        ([0, 0, 5, 7, 0, 0, 5, 7], None),
        ([0, 0, 0, 0, 0, 0, 0, 0], None),
        ([1, 2, 3, 4], [2, 3]),
    ],
)
def test_both_forms_have_the_same_bits(pads: list[int], axes: list[int] | None, constant_node: bool) -> None:
    model = _padding(pads, axes, constant_node=constant_node)
    before = model.SerializeToString()
    written = with_concatenations(model)
    assert model.SerializeToString() == before
    assert not {"Pad"} & {node.op_type for node in written.graph.node}
    onnx.checker.check_model(written, full_check=True)
    for count in (1, 4):
        x = np.random.default_rng(count).standard_normal((count, 3, 5, 7)).astype(np.float32)
        expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
        np.testing.assert_array_equal(ReferenceEvaluator(written).run(None, {"x": x})[0], expected)
        np.testing.assert_array_equal(ort_session(written).run(None, {"x": x})[0], expected)
        # The ReferenceEvaluator is right about it: NumPy's own word.
        widths = np.zeros((4, 2), np.int64)
        for axis, sides in zip(axes or range(4), np.asarray(pads).reshape(2, -1).T, strict=True):
            widths[axis] = sides
        np.testing.assert_array_equal(expected, np.pad(x, widths, mode="wrap"))


def test_other_padding_stays() -> None:
    model = _padding([0, 0, 1, 1, 0, 0, 1, 1])
    model.graph.node[0].attribute[0].s = b"reflect"
    assert [node.op_type for node in with_concatenations(model).graph.node] == ["Pad"]


def test_padding_that_is_computed_is_refused() -> None:
    model = _padding([0, 0, 1, 1, 0, 0, 1, 1])
    del model.graph.initializer[:]
    with pytest.raises(ValueError, match="not constant"):
        with_concatenations(model)


def test_the_forms_have_names() -> None:
    assert resolve_circular_padding("concat") == "concat"
    with pytest.raises(InputError, match="did you mean concat"):
        resolve_circular_padding("concatenate")
